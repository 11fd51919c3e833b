"""From the columns of a table to the arrays of a batch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.loader.checks import check_inputs, is_number, unfit_labels
from dtk.loader.packed import Joined, Packed
from dtk.loader.vectors import element_type, vector_shape, vectors

__all__ = ["Encoder", "Field", "LabelledEncoder", "PlainEncoder", "is_in_folds", "make_encoder"]


@dataclass(frozen=True)
class Field:
    """One array of a batch.

    Parameters
    ----------
    dtype : numpy.dtype
        Its type.
    shape : tuple of int
        The shape of one sample; ``()`` for a scalar.
    constant : float, optional
        What all samples hold, if that is known before they are read; an encoder then packs no such array.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    constant: float | None = None

    @property
    def row_nbytes(self) -> int:
        """Bytes of one sample."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


class Encoder(Protocol):
    """Turns rows of a table into arrays; picklable, and called from several threads.

    An encoder may also have a method ``pack(table)`` that returns the same as ``encode(table)``, with `Packed` columns
    for arrays: these are packed on their way into the batches, which spares a copy. One that makes a ``"target"`` may
    say in ``target_column`` of which column, so that its values can be drawn equally often. One that was cross-fitted
    has a method ``is_cross_fitted_to(source)``, see `is_in_folds`: where that is so, `encode` and `pack` are called
    with ``rows=``, an int64 ``[rows]`` of the numbers that a scan gives the rows.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that `encode` reads."""

    @property
    def fields(self) -> Mapping[str, Field]:
        """The arrays that `encode` returns, by name."""

    def encode(self, table: pa.Table) -> Mapping[str, NDArray[Any]]:
        """Encode rows.

        Parameters
        ----------
        table : pyarrow.Table
            The rows, with at least the encoder's columns.

        Returns
        -------
        mapping of str to numpy.ndarray
            For each field an array ``[rows, *field.shape]`` of its dtype.
        """


class PlainEncoder:
    """Packs number and boolean columns into ``"inputs"``, float32 ``[rows, columns]``; nulls become NaN.

    Parameters
    ----------
    schema : pyarrow.Schema
        The schema of the rows.
    inputs : sequence of str
        The columns, in the order of the packed ones.

    Raises
    ------
    ArgumentError
        If a column is missing, or holds neither numbers nor booleans.

    Notes
    -----
    A column of vectors (fixed-size lists of numbers) gives a value an element. A single column of vectors or of tensors
    of a fixed shape gives inputs of that shape: ``[rows, *shape]``.
    """

    def __init__(self, schema: pa.Schema, inputs: Sequence[str]) -> None:
        if isinstance(inputs, str) or not inputs:
            raise ArgumentError(f"inputs={inputs!r} must list one column at least")
        for column in inputs:
            kind = _column_type(schema, column, "inputs")
            if not is_number(element_type(kind)):
                raise ArgumentError(
                    f"inputs={column!r} holds {kind}, neither numbers nor booleans; {_remedy(kind)}, or leave it out "
                    "of inputs="
                )
        self.columns = tuple(inputs)
        shapes = [vector_shape(schema.field(column).type) for column in inputs]
        self._has_vectors = any(shapes)
        values = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
        shape = shapes[0] if len(shapes) == 1 and shapes[0] else (values,)
        self.fields: Mapping[str, Field] = {"inputs": Field(np.dtype(np.float32), shape)}

    def encode(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        """Encode rows.

        Parameters
        ----------
        table : pyarrow.Table
            The rows, with at least the encoder's columns.

        Returns
        -------
        dict of str to numpy.ndarray
            ``{"inputs": float32 [rows, columns]}``.
        """
        field = self.fields["inputs"]
        inputs = self.pack(table)["inputs"].to_numpy().astype(field.dtype, copy=False)
        return {"inputs": inputs.reshape(table.num_rows, *field.shape)}

    def pack(self, table: pa.Table) -> dict[str, Packed | Joined]:
        """Encode rows, to be packed where they are moved to.

        Parameters
        ----------
        table : pyarrow.Table
            The rows, with at least the encoder's columns.

        Returns
        -------
        dict of str to Packed or Joined
            ``{"inputs": float32 [rows, columns]}``.
        """
        columns = [table.column(column) for column in self.columns]
        if not self._has_vectors:
            return {"inputs": Packed(columns, self.fields["inputs"].dtype)}
        return {
            "inputs": Joined(
                [vectors(column) if vector_shape(column.type) else _to_numpy(column) for column in columns]
            )
        }


class LabelledEncoder:
    """Adds ``"target"`` and ``"weight"`` to what another encoder makes.

    Parameters
    ----------
    inputs : Encoder
        Encodes everything else.
    schema : pyarrow.Schema
        The schema of the rows.
    target : str, optional
        The column that becomes ``"target"``: float32 for floating point, int64 for integers and booleans.
    weight : str, optional
        The column that becomes ``"weight"``, float32; None for ones, unless `inputs` makes a weight.

    Raises
    ------
    ArgumentError
        If a column is missing, or is of a type that makes no target or weight.
    """

    def __init__(self, inputs: Encoder, schema: pa.Schema, *, target: str | None, weight: str | None) -> None:
        fields = dict(inputs.fields)
        self._inputs = inputs
        self._labels: dict[str, str] = {}
        for name, column in (("target", target), ("weight", weight)):
            if column is None or name in fields:
                continue
            kind = _label_type(schema, column, name)
            shape = vector_shape(kind)
            kind = element_type(kind)
            is_whole = name == "target" and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))
            fields[name] = Field(np.dtype(np.int64 if is_whole else np.float32), shape)
            self._labels[name] = column
        fields.setdefault("weight", Field(np.dtype(np.float32), constant=1.0))
        self.fields: Mapping[str, Field] = fields
        self.columns = tuple(dict.fromkeys([*inputs.columns, *self._labels.values()]))

    def encode(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """Encode rows.

        Parameters
        ----------
        table : pyarrow.Table
            The rows, with at least the encoder's columns.
        rows : numpy.ndarray, optional
            An int64 ``[rows]``: their numbers, where they are to be encoded out of fold.

        Returns
        -------
        dict of str to numpy.ndarray
            For each field an array ``[rows, *field.shape]`` of its dtype.

        Raises
        ------
        DataError
            If a target or a weight is null, NaN or infinite, or a weight negative.
        """
        constants = {
            name: np.full((table.num_rows, *field.shape), field.constant, field.dtype)
            for name, field in self.fields.items()
            if field.constant is not None
        }
        numbered = {} if rows is None else {"rows": rows}
        return {**self._inputs.encode(table, **numbered), **self._encode_labels(table), **constants}

    def pack(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any] | Packed]:
        """Encode rows, to be packed where they are moved to as far as the inner encoder does so.

        Parameters
        ----------
        table : pyarrow.Table
            The rows, with at least the encoder's columns.
        rows : numpy.ndarray, optional
            An int64 ``[rows]``: their numbers, where they are to be encoded out of fold.

        Returns
        -------
        dict of str to numpy.ndarray or Packed
            For each field that is no constant an array ``[rows, *field.shape]`` of its dtype.

        Raises
        ------
        DataError
            If a target or a weight is null, NaN or infinite, or a weight negative.
        """
        pack = getattr(self._inputs, "pack", self._inputs.encode)
        numbered = {} if rows is None else {"rows": rows}
        return {**pack(table, **numbered), **self._encode_labels(table)}

    def _encode_labels(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        encoded: dict[str, NDArray[Any]] = {}
        for name, column in self._labels.items():
            values = table.column(column)
            known = f"{name}={column!r}"
            _refuse_rows(known, "null", values.null_count, f"for example with data.dropna(subset=[{column!r}])")
            raw = vectors(values) if self.fields[name].shape else _to_numpy(values)
            with np.errstate(over="ignore", invalid="ignore"):  # what the type cannot hold is refused below
                label = raw.astype(self.fields[name].dtype, copy=False)
            remedies = {
                "negative": f"for example with data[data[{column!r}] >= 0]",
                "NaN, infinite or too large for float32": f"for example with data[numpy.isfinite(data[{column!r}])]",
            }
            for problem, num_rows in unfit_labels(raw, label, is_weight=name == "weight"):
                _refuse_rows(known, problem, num_rows, remedies[problem])
            encoded[name] = label
        return encoded


def make_encoder(
    schema: pa.Schema,
    *,
    inputs: Sequence[str] | None = None,
    target: str | None = None,
    weight: str | None = None,
    preparation: Encoder | None = None,
) -> LabelledEncoder:
    """Make the encoder of a loader.

    Parameters
    ----------
    schema : pyarrow.Schema
        The schema of the rows.
    inputs : sequence of str, optional
        The input columns; all but target and weight if None.
    target : str, optional
        The target column.
    weight : str, optional
        The weight column.
    preparation : Encoder, optional
        What encodes the inputs, and the target if it has such a field; columns are packed as they are if None.

    Returns
    -------
    LabelledEncoder
        With a field ``"weight"`` in any case.

    Raises
    ------
    ArgumentError
        If a column is missing, is of a type that needs a preparation, or if inputs and preparation disagree; if inputs
        hold the target, the weight, or a column twice.
    """
    for name, label in (("target", target), ("weight", weight)):
        if label is not None and (preparation is None or name not in preparation.fields):
            _label_type(schema, label, name)
    if inputs is not None:
        check_inputs(inputs, target=target, weight=weight)
    if preparation is None:
        chosen = [name for name in schema.names if name not in (target, weight)] if inputs is None else list(inputs)
        preparation = PlainEncoder(schema, chosen)
    elif inputs is not None and not set(preparation.columns) <= {*inputs, target, weight}:
        extra = sorted(set(preparation.columns) - {*inputs, target, weight})
        raise ArgumentError(f"inputs={list(inputs)!r} lacks {extra}, which preparation= reads; leave inputs= out")
    for column in preparation.columns:
        _column_type(schema, column, "preparation")
    return LabelledEncoder(preparation, schema, target=target, weight=weight)


def is_in_folds(preparation: Encoder | None, source: Any) -> bool | None:
    """Tell whether rows are those that a preparation was cross-fitted to: it then encodes them out of fold.

    Parameters
    ----------
    preparation : Encoder, optional
        What encodes the inputs.
    source : Source or ArraySource
        Below windows.

    Returns
    -------
    bool or None
        None where nothing is cross-fitted.
    """
    ask = getattr(preparation, "is_cross_fitted_to", None)
    return None if ask is None else ask(source)


def _label_type(schema: pa.Schema, column: str, name: str) -> pa.DataType:
    kind = _column_type(schema, column, name)
    if not is_number(element_type(kind)):
        raise ArgumentError(
            f"{name}={column!r} holds {kind}, neither numbers nor booleans; "
            f"{_remedy(kind)}, or derive a number from it first"
        )
    if name == "weight" and vector_shape(kind):
        raise ArgumentError(f"weight={column!r} holds {kind}; give one number a sample")
    return kind


def _remedy(kind: pa.DataType) -> str:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"write it as a list of a fixed size, for example pyarrow.list_({kind.value_type}, 8)"
    return "pass a preparation= that encodes it"


def _refuse_rows(known: str, problem: str, num_rows: int, remedy: str) -> None:
    if num_rows:
        raise DataError(f"{known} is {problem} in {num_rows} rows; leave these rows out first, {remedy}")


def _column_type(schema: pa.Schema, column: str, argument: str) -> pa.DataType:
    index = schema.get_field_index(column)
    if index >= 0:
        return schema.field(index).type
    close = difflib.get_close_matches(str(column), schema.names, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(map(repr, schema.names[:20]))}"
    raise ArgumentError(f"{argument}={column!r} is no column of the data; {remedy}")


def _to_numpy(values: pa.ChunkedArray) -> NDArray[Any]:
    """Convert numbers or booleans without a copy where Arrow can; nulls become NaN."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    elif pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    array = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
    numpy: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numpy
