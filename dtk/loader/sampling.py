"""Drawing rows with replacement: by a column of weights, or so that all classes come equally often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.loader.draws import drawn, rows_a_draw
from dtk.loader.encoder import Encoder
from dtk.loader.order import Order
from dtk.loader.segments import Integers, concat
from dtk.sources import ExpressionSource, Source, as_source
from dtk.sources.arrays import ArraySource
from dtk.sources.columns import close_to
from dtk.sources.counting import Counts, count, to_classes, to_weights
from dtk.sources.variables import ArrayBlock

__all__ = ["EpochDraw", "Sampling", "SamplingRule", "counting_source", "make_rule", "names_in"]

BALANCED: Final = "balanced"
_SAME_SUM: Final = 1e-9  # the same weights may be added up in another order

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SamplingRule:
    """What decides how often a row is drawn.

    Parameters
    ----------
    column : str
        The column, or the variable.
    is_balanced : bool
        Whether it holds classes that come equally often, and no weights.
    """

    column: str
    is_balanced: bool

    @property
    def by(self) -> str:
        """The argument that asks for it."""
        return BALANCED if self.is_balanced else self.column

    def count(self, source: Source | ArraySource, *, progress: bool = False) -> Counts:
        """Count the rows of chunks and their weights.

        Parameters
        ----------
        source : Source or ArraySource
            With this column.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        Counts
            With weights.

        Raises
        ------
        ArgumentError
            If there are too many classes.
        DataError
            If a row has no weight or class, or none can be drawn.
        """
        if self.is_balanced:
            return count(source, classes=self.column, progress=progress)
        return count(source, weights=self.column, progress=progress)


@dataclass(frozen=True, eq=False)
class Sampling:
    """How rows are drawn, with all that must be known of the whole data.

    Parameters
    ----------
    rule : SamplingRule
        What decides.
    counts : Counts
        What was counted for it.
    """

    rule: SamplingRule
    counts: Counts

    @property
    def chunk_weights(self) -> Floats:
        """What the rows of each chunk weigh together, float64 ``[chunks]``."""
        assert self.counts.chunk_weights is not None
        return self.counts.chunk_weights

    @cached_property
    def digest(self) -> str:
        """Hash of the rule and of what was counted, in hex."""
        digest = hashlib.sha256(json.dumps([self.rule.column, self.rule.is_balanced]).encode())
        digest.update(self.chunk_weights.tobytes())
        if self.counts.class_rows is not None and self.counts.classes is not None:
            digest.update(self.counts.class_rows.tobytes() + repr(self.counts.classes.to_pylist()).encode())
        return digest.hexdigest()

    def row_weights(self, block: pa.Table | ArrayBlock, total: float) -> Floats:
        """Return what the rows of a chunk weigh.

        Parameters
        ----------
        block : pyarrow.Table or ArrayBlock
            All rows of the chunk.
        total : float
            What they weigh together, as counted.

        Returns
        -------
        numpy.ndarray
            A float64 ``[rows]``.

        Raises
        ------
        DataError
            If they do not add up to what was counted.
        """
        column = self.rule.column
        values = block.column(column) if isinstance(block, pa.Table) else block.arrays[column]
        weights = to_weights(values) if self.counts.classes is None else self._class_weights(to_classes(values))
        is_fit = np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
        if not (is_fit and np.isclose(weights.sum(), total, rtol=_SAME_SUM, atol=0)):
            raise DataError(f"the values of {column!r} are not those that were counted; open the data anew")
        return weights

    def _class_weights(self, classes: pa.ChunkedArray) -> Floats:
        codes = pc.index_in(classes, value_set=self.counts.classes).to_numpy()  # with NaN for what is unknown
        if codes.dtype.kind == "f":
            return np.full(len(codes), np.nan)
        assert self.counts.class_rows is not None
        weights: Floats = (1 / self.counts.class_rows)[codes]
        return weights


class EpochDraw:
    """Which rows are drawn in an epoch; every rank comes to the same.

    Parameters
    ----------
    sampling : Sampling
        What rows weigh.
    order : Order
        The order of samples, with the weights of the chunks.
    epoch : int
        The epoch.
    """

    def __init__(self, sampling: Sampling, order: Order, epoch: int) -> None:
        self._sampling, self._order, self._epoch = sampling, order, epoch
        self.num_rows = order.epoch_rows(epoch)
        self._rows_a_draw = rows_a_draw(self.num_rows, order.chunk_rows)

    def rows(self, chunk: int, block: pa.Table | ArrayBlock, runs: Iterable[tuple[int, int]]) -> Iterator[Integers]:
        """Yield which rows of a chunk are drawn, one run of the draws after the other.

        Parameters
        ----------
        chunk : int
            The chunk.
        block : pyarrow.Table or ArrayBlock
            All rows of it.
        runs : iterable of tuple
            The first draw of each run, of all draws from the chunk in the epoch, and how many.

        Yields
        ------
        numpy.ndarray
            An int64 ``[run]``: numbers of rows within the chunk.

        Raises
        ------
        DataError
            If the rows do not weigh what was counted.
        """
        assert self._order.chunk_weights is not None
        weights = self._sampling.row_weights(block, self._order.chunk_weights[chunk])
        size, total = int(self._rows_a_draw[chunk]), int(self.num_rows[chunk])
        for first, num_rows in runs:
            numbers = range(first // size, -(-(first + num_rows) // size))
            rows = [
                drawn(self._order.draw_random(self._epoch, chunk, number), min(size, total - number * size), weights)
                for number in numbers
            ]
            start = first - numbers.start * size
            yield concat(rows)[start : start + num_rows]

    def all_rows(self, source: Source) -> Integers:
        """Return which rows are drawn from all chunks, for small data.

        Parameters
        ----------
        source : Source
            Where their weights are read.

        Returns
        -------
        numpy.ndarray
            An int64 ``[rows]``: numbers of rows, counted over all chunks.
        """
        column, chunk_rows = self._sampling.rule.column, self._order.chunk_rows
        starts, found = np.cumsum(chunk_rows) - chunk_rows, []
        for chunk in np.flatnonzero(self.num_rows).tolist():
            runs = [(0, int(self.num_rows[chunk]))]
            found += [starts[chunk] + rows for rows in self.rows(chunk, source.read(chunk, [column]), runs)]
        return concat(found)


def make_rule(
    sampling: str | None,
    source: Source | ArraySource,
    *,
    shuffle: bool,
    target: str | None,
    preparation: Encoder | None = None,
) -> SamplingRule | None:
    """Understand the argument ``sampling`` of a loader.

    Parameters
    ----------
    sampling : str or None
        A column of weights, ``"balanced"``, or None.
    source : Source or ArraySource
        What is read.
    shuffle : bool
        Whether the loader shuffles.
    target : str, optional
        The column of the target.
    preparation : Encoder, optional
        What encodes the inputs, and maybe the target.

    Returns
    -------
    SamplingRule or None
        None where nothing is drawn.

    Raises
    ------
    ArgumentError
        If it cannot work with this data, or with the other arguments.
    """
    if sampling is None:
        return None
    if not isinstance(sampling, str):
        raise ArgumentError(f"sampling={sampling!r} must be the name of a column of weights, 'balanced' or None")
    if not shuffle:
        raise ArgumentError(f"sampling={sampling!r} draws rows at random; leave it out, or pass shuffle=True")
    names = names_in(source)
    if sampling != BALANCED:
        rule = SamplingRule(sampling, is_balanced=False)
    elif BALANCED in names:
        raise ArgumentError(
            "sampling='balanced' is ambiguous: a column has this name, too; rename it, for example with "
            "data.rename(columns={'balanced': 'weight'})"
        )
    else:
        if preparation is not None and "target" in preparation.fields:  # it encodes the target of a column
            target = getattr(preparation, "target_column", target)
        if target is None:
            raise ArgumentError("sampling='balanced' makes the classes of the target equally frequent; give target=")
        rule = SamplingRule(target, is_balanced=True)
    if rule.column not in names:
        argument = "target" if rule.is_balanced else "sampling"
        raise ArgumentError(f"{argument}={rule.column!r} is no column of the data; {close_to(rule.column, names)}")
    problem = _problem_of(source, rule)
    if problem:
        raise ArgumentError(f"sampling={sampling!r} cannot draw by {rule.column!r}, {problem}")
    return rule


def names_in(source: Source | ArraySource) -> list[str]:
    """List the columns or variables of a source.

    Parameters
    ----------
    source : Source or ArraySource
        The source.

    Returns
    -------
    list of str
        Variables in the order of their names, as a store lists them in any order.
    """
    return sorted(source.variables) if isinstance(source, ArraySource) else list(source.schema.names)


def counting_source(data: Any, source: Source | ArraySource, rule: SamplingRule | None) -> Source | ArraySource | None:
    """Return what must be counted before there can be a plan.

    Parameters
    ----------
    data : object
        What the source was made of.
    source : Source or ArraySource
        What the loader reads.
    rule : SamplingRule, optional
        What decides how often a row is drawn.

    Returns
    -------
    Source, ArraySource or None
        With the same chunks and, where it evaluates an expression, no columns but those needed; None where metadata
        tells everything.
    """
    if rule is None and source.chunk_rows is not None:
        return None
    if not isinstance(source, ExpressionSource) or isinstance(data, Source):
        return source
    narrow = as_source(data, [] if rule is None else [rule.column])
    return narrow if narrow.num_chunks == source.num_chunks else source  # without a column it may not need partitions


def _problem_of(source: Source | ArraySource, rule: SamplingRule) -> str:
    """Say why a column tells neither weights nor classes; an empty text if it does."""
    if isinstance(source, ArraySource):
        variable = source.variables[rule.column]
        if variable.is_static or variable.shape:
            return f"which is not one number for each of {source.dim!r}; derive one with xarray first, and write it"
        return ""
    kind, types = source.schema.field(rule.column).type, pa.types
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    if rule.is_balanced:
        return f"which holds {kind} and no classes; derive classes from it first" if types.is_nested(kind) else ""
    return "" if is_number else f"which holds {kind} and no weights; give a column of numbers"
