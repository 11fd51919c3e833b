"""From rows to the windows of a batch: each row is encoded once, and lies in as many windows as hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError
from dtk.loader.checks import check_inputs, is_number
from dtk.loader.encoder import Encoder, Field, LabelledEncoder, PlainEncoder, make_encoder
from dtk.loader.grids import GridEncoder, GridLabels
from dtk.loader.packed import Joined, Packed, Windows
from dtk.loader.scatter import scatter
from dtk.loader.vectors import element_type
from dtk.sources import as_source
from dtk.sources.arrays import ArraySource
from dtk.sources.columns import checked_columns
from dtk.sources.datasets import as_dataset, source_of_dataset
from dtk.sources.variables import ArrayBlock
from dtk.sources.window import Window, WindowBlock
from dtk.sources.windows import WindowSource
from dtk.sources.windows_of import windows_of_dataset, windows_of_table

__all__ = ["WindowEncoder", "make_windows"]


@dataclass(frozen=True)
class _Share:
    """What one encoder gives to a window.

    `fields` says by what name a field of the encoder goes into the batch, and which rows of the window, counted from
    its first one, it is taken from. `sparse`: no row that is in none of these may be encoded; it could be refused.
    """

    encoder: Encoder | GridEncoder | GridLabels
    fields: Mapping[str, tuple[str, tuple[int, ...]]]
    sparse: bool = False


class WindowEncoder:
    """Makes the arrays of a batch from windows.

    Parameters
    ----------
    shares : sequence of _Share
        What encodes the rows, and which of them.
    single : frozenset of str
        The fields that have no axis for the rows of the window.
    note : str
        What a plan tells of the inputs.
    """

    def __init__(self, shares: Sequence[_Share], single: frozenset[str], note: str = "") -> None:
        self._shares, self.note = list(shares), note
        self.fields: dict[str, Field] = {}
        for share in self._shares:
            for inner, (name, offsets) in share.fields.items():
                field = share.encoder.fields[inner]
                rows = () if name in single else (len(offsets),)
                self.fields[name] = Field(field.dtype, (*rows, *field.shape))
        self.fields.setdefault("weight", Field(np.dtype(np.float32), constant=1.0))
        self.columns = tuple(dict.fromkeys(name for share in self._shares for name in share.encoder.columns))

    @property
    def encoded_nbytes(self) -> int:
        """Bytes of a row as encoded, before it is put into windows."""
        fields = [share.encoder.fields[inner] for share in self._shares for inner in share.fields]
        return sum(field.row_nbytes for field in fields)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape of what all samples share; empty if there is nothing."""
        encoder = self._shares[0].encoder
        return encoder.static_shape if isinstance(encoder, GridEncoder) else ()

    def pack(self, block: WindowBlock, rows: NDArray[np.int64] | None = None) -> Mapping[str, NDArray[Any] | Windows]:
        """Encode the rows of windows.

        Parameters
        ----------
        block : WindowBlock
            The windows, one at least.
        rows : numpy.ndarray, optional
            An int64 ``[rows of the block]``: their numbers, where they are to be encoded out of fold.

        Returns
        -------
        mapping of str to numpy.ndarray or Windows
            For each field that is no constant ``[windows, *field.shape]``.

        Raises
        ------
        DataError
            If a target or a weight is null, NaN or infinite, or a weight negative.
        """
        packed: dict[str, NDArray[Any] | Windows] = {}
        for share in self._shares:
            used = sorted({offset for _, offsets in share.fields.values() for offset in offsets})
            first = int(block.starts[0]) + used[0]
            parts = block.rows(first, int(block.starts[-1]) + used[-1] + 1)
            starts = block.starts - first
            numbers = None if rows is None else rows[first:]
            found = _encoded_sparsely(share, parts, starts, used) if share.sparse else _encoded(share, parts, numbers)
            packed |= {name: Windows(found[inner], starts, at) for inner, (name, at) in share.fields.items()}
        return packed

    def static(self, source: Any) -> NDArray[np.float32] | None:
        """Read the variables that all samples share.

        Parameters
        ----------
        source : ArraySource
            The source.

        Returns
        -------
        numpy.ndarray or None
            As `GridEncoder.static` does; None if there are none.
        """
        encoder = self._shares[0].encoder
        return encoder.static(source) if isinstance(encoder, GridEncoder) else None


def _encoded(
    share: _Share, parts: Sequence[Any], numbers: NDArray[np.int64] | None = None
) -> dict[str, NDArray[Any] | Joined]:
    """Encode rows, part after part, into one array a field."""
    pack: Any = getattr(share.encoder, "pack", None) or share.encoder.encode  # type: ignore[union-attr]
    packed = []
    for part in parts:
        if numbers is None or not isinstance(share.encoder, LabelledEncoder):
            packed.append(pack(part))
        else:
            packed.append(pack(part, numbers[: part.num_rows]))
            numbers = numbers[part.num_rows :]
    found: dict[str, NDArray[Any] | Joined] = {}
    for name in share.fields:
        values = [part[name] for part in packed]
        if len(values) == 1 and not isinstance(values[0], Packed):
            found[name] = values[0]
            continue
        field = share.encoder.fields[name]
        rows = np.empty((sum(map(len, values)), *field.shape), field.dtype)
        start = 0
        for value in values:
            part = rows[start : start + len(value)]
            if isinstance(value, np.ndarray):
                part[:] = value
            else:
                scatter(value, np.arange(len(value)), part)
            start += len(value)
        found[name] = rows
    return found


def _encoded_sparsely(
    share: _Share, parts: Sequence[Any], starts: NDArray[np.int64], used: Sequence[int]
) -> Mapping[str, NDArray[Any] | Joined]:
    """Encode the rows that windows use; others are left zero."""
    is_used = np.zeros(sum(part.num_rows for part in parts), bool)
    for offset in used:
        is_used[starts + offset] = True
    if is_used.all():
        return _encoded(share, parts)
    found: dict[str, NDArray[Any] | Joined] = {}
    for name, values in _encoded(share, [_taken(share.encoder.columns, parts, is_used)]).items():
        assert not isinstance(values, Joined)
        rows = np.zeros((len(is_used), *values.shape[1:]), values.dtype)
        rows[is_used] = values
        found[name] = rows
    return found


def _taken(columns: Sequence[str], parts: Sequence[Any], is_used: NDArray[np.bool_]) -> pa.Table | ArrayBlock:
    """Take some rows of a few columns."""
    if isinstance(parts[0], ArrayBlock):
        (block,) = parts
        arrays = {name: block.arrays[name] for name in columns}
        return ArrayBlock(arrays, block.num_rows).take(np.flatnonzero(is_used))
    return pa.concat_tables([table.select(list(columns)) for table in parts]).filter(pa.array(is_used))


@dataclass(frozen=True)
class _Nothing:
    """Encodes nothing: for labels alone."""

    fields: Mapping[str, Field] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    def encode(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        return {}


def make_windows(
    data: Any,
    window: Window,
    *,
    inputs: Sequence[str] | None = None,
    target: str | None = None,
    weight: str | None = None,
    preparation: Encoder | None = None,
) -> tuple[WindowSource, WindowEncoder]:
    """Make the source and the encoder of windows over data of any kind.

    Parameters
    ----------
    data : object
        What `Loader` takes.
    window : Window
        The window.
    inputs : sequence of str, optional
        The input columns or variables; if None all but the weight, and of tables the times and groups. The target is
        one of them unless it lies at lead 0, or is a variable that has not the last dimensions of the others.
    target : str, optional
        The target; may be one of the inputs unless it lies at lead 0.
    weight : str, optional
        The weight: that of the row of the first target, or of the last one of the history without a target.
    preparation : Encoder, optional
        What encodes the inputs of tables.

    Returns
    -------
    source : WindowSource
        Of tables not counted yet.
    encoder : WindowEncoder
        With a field ``"weight"`` in any case.

    Raises
    ------
    ArgumentError
        If a column is missing or of a type that does not do, or the arguments contradict each other.
    DataError
        If the data is missing or damaged.
    SourceError
        If the data cannot be read chunk by chunk where it lies.
    """
    if inputs is not None:
        check_inputs(inputs)
    if isinstance(data, ArraySource):
        raise ArgumentError("window= needs the coordinate of the samples; give the Dataset or the path of the store")
    dataset = as_dataset(data)
    if dataset is None:
        source = as_source(data)
        encoder = _table_windows(
            source.schema, window, inputs=inputs, target=target, weight=weight, preparation=preparation
        )
        return windows_of_table(data, source, window, list(encoder.columns)), encoder
    if preparation is not None:
        raise ArgumentError(f"preparation={preparation!r} is for tables; arrays are taken as they are")
    names = [str(name) for name in dataset.data_vars if name not in window.groups]
    known = checked_columns(window.known, names, argument="window known")
    if inputs is not None:  # then nothing else is looked at
        names = list(dict.fromkeys([*inputs, *(name for name in (target, weight) if name is not None), *known]))
    arrays = source_of_dataset(dataset, names, window.dim)
    grids = _grid_windows(arrays, window, inputs=inputs, target=target, weight=weight)
    return windows_of_dataset(dataset, arrays, window, grids.columns), grids


def _table_windows(
    schema: pa.Schema,
    window: Window,
    *,
    inputs: Sequence[str] | None,
    target: str | None,
    weight: str | None,
    preparation: Encoder | None,
) -> WindowEncoder:
    """Say which columns of a table become which field."""
    made = {} if preparation is None else preparation.fields
    read = inputs if preparation is None or "target" in made else preparation.columns
    _check(window, inputs=read, target="target" if "target" in made else target, weight=weight)
    if preparation is not None and window.known:
        raise ArgumentError(
            f"known={list(window.known)!r} are given as they are, and preparation= encodes the inputs; leave one out"
        )
    if inputs is None and preparation is None:
        out = {weight, window.dim, *window.groups, *([target] if 0 in window.leads else [])}
        inputs = [name for name in schema.names if name not in out]
    elif inputs is not None and preparation is not None:  # it may encode the target too
        inputs = list(dict.fromkeys([*inputs, *(name for name in (target, weight) if name is not None)]))
    history = make_encoder(schema, inputs=inputs, preparation=preparation)
    past, leads, weighed = _offsets(window)
    at = {name: (name, past) for name in made or history.fields if name != "weight"}
    if "target" in made:
        at["target"] = ("target", leads)
    if "weight" in made:
        at["weight"] = ("weight", weighed)
    shares = [_Share(history, at)]
    if target is not None and "target" not in made:
        labels = LabelledEncoder(_Nothing(), schema, target=target, weight=None)
        shares.append(_Share(labels, {"target": ("target", leads)}, sparse=True))
    if weight is not None and "weight" not in made:
        labels = LabelledEncoder(_Nothing(), schema, target=None, weight=weight)
        shares.append(_Share(labels, {"weight": ("weight", weighed)}, sparse=True))
    if window.known:
        for name in checked_columns(window.known, schema.names, argument="window known"):
            kind = schema.field(name).type
            if not is_number(element_type(kind)):
                raise ArgumentError(
                    f"window known={name!r} holds {kind}; derive a number from it first, or leave it out"
                )
        shares.append(_Share(PlainEncoder(schema, window.known), {"inputs": ("known", leads)}))
    return WindowEncoder(shares, _single(window))


def _grid_windows(
    source: ArraySource, window: Window, *, inputs: Sequence[str] | None, target: str | None, weight: str | None
) -> WindowEncoder:
    """Say which variables become which field."""
    _check(window, inputs=inputs, target=target, weight=weight)
    note = ""
    if inputs is None:
        variables = source.variables
        others = [one for name, one in sorted(variables.items()) if name not in (target, weight)]
        inputs = [one.name for one in others]
        dims = max((one.dims for one in others if not one.is_static), key=len, default=())[-2:]
        own = variables.get(target) if target is not None else None
        if own is not None and 0 not in window.leads:
            if own.dims[len(own.dims) - len(dims) :] == dims:
                inputs = sorted([*inputs, own.name])
            else:
                note = f"target {own.name!r} is no input, as it does not end with the dimensions {dims} of the others"
    past, leads, weighed = _offsets(window)
    shares = [_Share(GridEncoder(source, inputs=inputs), {"inputs": ("inputs", past)})]
    if target is not None:
        labels = GridLabels(source, target=target)
        is_checked = not labels.fields["target"].shape
        shares.append(_Share(labels, {"target": ("target", leads)}, sparse=is_checked))
    if weight is not None:
        shares.append(_Share(GridLabels(source, weight=weight), {"weight": ("weight", weighed)}, sparse=True))
    if window.known:
        with_samples = [name for name, one in source.variables.items() if not one.is_static]
        names = checked_columns(window.known, with_samples, argument="window known")
        known = GridEncoder(source, inputs=names, argument="window known")
        shares.append(_Share(known, {"inputs": ("known", leads)}))
    return WindowEncoder(shares, _single(window), note)


def _offsets(window: Window) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return which rows of a window are its history, its leads, and the one whose weight it has."""
    leads = tuple(window.history - 1 + lead for lead in window.leads)
    return tuple(range(window.history)), leads, leads[:1] or (window.history - 1,)


def _single(window: Window) -> frozenset[str]:
    has_one = not isinstance(window.lead, Sequence)
    return frozenset({"weight", "target"} if has_one else {"weight"})


def _check(window: Window, *, inputs: Sequence[str] | None, target: str | None, weight: str | None) -> None:
    if target is not None and not window.leads:
        raise ArgumentError(f"target={target!r} lies at the lead times, and window has lead=None; give it a lead=")
    if target is None and window.leads and not window.known:
        raise ArgumentError(
            f"window has lead={window.lead!r}, and nothing to give there; give a target=, or lead=None for windows "
            "without one"
        )
    if target is not None and 0 in window.leads and target in (inputs or ()):
        raise ArgumentError(
            f"inputs={list(inputs or ())!r} hold the target {target!r} at its own time, as window has lead=0; leave it "
            "out of inputs=, or take lead=1 or more"
        )
    if target is not None and target in window.known:
        raise ArgumentError(f"known={list(window.known)!r} give away the target {target!r}; leave it out of known=")
    if weight is not None and weight in (*(inputs or ()), *window.known):
        raise ArgumentError(
            f"inputs={inputs!r} or known={list(window.known)!r} hold the weight {weight!r}; leave it out"
        )
