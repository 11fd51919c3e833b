"""The times and groups of rows: which row follows the one before it, one step later and in the same group."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dtk.errors import ArgumentError, DataError

__all__ = [
    "Times",
    "is_step",
    "most_common",
    "step_of",
    "step_text",
    "times_of_arrays",
    "times_of_table",
    "unit_of_type",
]

_TOLERANCE: Final = 1e-3  # of a step, for times of floating point
_UNITS: Final = {"D": "D", "h": "h", "m": "min", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}  # as pandas reads them
_MANTISSA: Final = 2.0**20  # differences of floating point that agree so far are taken for equal


@dataclass(frozen=True)
class Times:
    """The times of consecutive rows.

    Parameters
    ----------
    values : numpy.ndarray
        An int64 or float64 ``[rows]``.
    is_other_group : numpy.ndarray
        A bool ``[rows - 1]``: whether a row and the next one are of different groups.
    first_group : int
        Hash of the first row's group.
    last_group : int
        Hash of the last row's group.
    """

    values: npt.NDArray[Any]
    is_other_group: npt.NDArray[np.bool_]
    first_group: int = 0
    last_group: int = 0

    def breaks(self, step: float | None) -> npt.NDArray[np.int64]:
        """Find the rows that begin a run, but for the first one.

        Parameters
        ----------
        step : int or float or None
            The time from one row to the next; None if there is none that is common.

        Returns
        -------
        numpy.ndarray
            An int64: numbers of rows, rising.
        """
        follows = is_step(np.diff(self.values), step) & ~self.is_other_group
        found: npt.NDArray[np.int64] = np.flatnonzero(~follows) + 1
        return found

    def steps(self) -> npt.NDArray[Any]:
        """Return the times from each row to the next one of its group, where time goes on."""
        steps = np.diff(self.values)[~self.is_other_group]
        return steps[steps > 0]

    @property
    def num_backward(self) -> int:
        """Rows that lie before the row ahead of them in their group."""
        return int(np.count_nonzero(np.diff(self.values)[~self.is_other_group] < 0))


def is_step(differences: npt.NDArray[Any], step: float | None) -> npt.NDArray[np.bool_]:
    """Tell which differences of times are one step.

    Parameters
    ----------
    differences : numpy.ndarray
        An int64 or float64.
    step : int or float or None
        The step.

    Returns
    -------
    numpy.ndarray
        A bool of the same shape.
    """
    if step is None:
        return np.zeros(differences.shape, bool)
    if differences.dtype.kind == "f":
        return np.asarray(np.abs(differences - step) <= _TOLERANCE * step)
    return np.asarray(differences == step)


def most_common(steps: npt.NDArray[Any], most: int = 1) -> dict[Any, int]:
    """Count the most common steps.

    Parameters
    ----------
    steps : numpy.ndarray
        An int64 or float64.
    most : int
        How many of them.

    Returns
    -------
    dict of int or float to int
        How often each comes, the most common first.

    Examples
    --------
    >>> most_common(np.array([60, 60, 3600]))
    {60: 2}
    """
    if steps.dtype.kind == "f":
        mantissa, exponent = np.frexp(steps)
        steps = np.ldexp(np.round(mantissa * _MANTISSA) / _MANTISSA, exponent)
    values, counts = np.unique(steps, return_counts=True)
    chosen = np.argsort(-counts, kind="stable")[:most]
    return dict(zip(values[chosen].tolist(), counts[chosen].tolist(), strict=True))


def times_of_table(table: pa.Table, dim: str, groups: Sequence[str]) -> Times:
    """Take the times and groups of rows from a table.

    Parameters
    ----------
    table : pa.Table
        With these columns.
    dim : str
        The column of times.
    groups : sequence of str
        The columns that tell groups apart.

    Returns
    -------
    Times
        Of all rows.

    Raises
    ------
    DataError
        If a time is null or NaN.
    """
    column = table.column(dim)
    if column.null_count:
        raise DataError(
            f"window dim={dim!r} is null in {column.null_count} rows; leave these rows out first, for example with "
            f"data.dropna(subset=[{dim!r}])"
        )
    if unit_of_type(column.type, dim).kind == "f":
        values = column.cast(pa.float64()).to_numpy()
        if np.isnan(values).any():
            raise DataError(
                f"window dim={dim!r} is NaN in {np.count_nonzero(np.isnan(values))} rows; leave these rows out first, "
                f"for example with data.dropna(subset=[{dim!r}])"
            )
    else:
        narrow = (
            column.cast(pa.int32()) if pa.types.is_date32(column.type) or pa.types.is_time32(column.type) else column
        )
        values = narrow.cast(pa.int64()).to_numpy()
    is_other = np.zeros(max(len(values) - 1, 0), bool)
    for name in groups:
        codes = _codes(table.column(name))
        is_other |= codes[1:] != codes[:-1]
    ends = [_hash(table, groups, row) if len(values) and groups else 0 for row in (0, len(values) - 1)]
    return Times(values, is_other, *ends)


def times_of_arrays(values: npt.NDArray[Any], groups: Sequence[npt.NDArray[Any]]) -> tuple[Times, np.dtype[Any]]:
    """Take the times and groups of samples from coordinates.

    Parameters
    ----------
    values : numpy.ndarray
        ``[samples]``: numbers, datetimes, or dates of another calendar as objects.
    groups : sequence of numpy.ndarray
        ``[samples]``: what tells groups apart.

    Returns
    -------
    times : Times
        Of all samples.
    unit : numpy.dtype
        Of the times.

    Raises
    ------
    DataError
        If a time is missing, or is none.
    """
    import pandas as pd

    if values.dtype.kind == "O" and len(values):
        try:
            values = (values - values[0]).astype("m8[us]")
        except (TypeError, ValueError) as error:
            raise DataError(f"the window's coordinate holds {type(values[0]).__name__}, no times: {error}") from error
    unit = values.dtype if values.dtype.kind in "Mmf" else np.dtype(np.int64)
    if values.dtype.kind not in "MmfiuO":
        raise DataError(f"the window's coordinate holds {values.dtype}, neither numbers nor times; give it others")
    if values.dtype.kind in "Mmf" and (np.isnat(values) if values.dtype.kind in "Mm" else np.isnan(values)).any():
        raise DataError("the window's coordinate has missing values; leave these samples out first")
    is_other = np.zeros(max(len(values) - 1, 0), bool)
    for group in groups:
        codes = pd.factorize(group)[0]  # what is missing has one code
        is_other |= codes[1:] != codes[:-1]
    return Times(values.astype(np.float64 if unit.kind == "f" else np.int64), is_other), unit


def unit_of_type(kind: pa.DataType, dim: str) -> np.dtype[Any]:
    """Return what NumPy calls a type of times.

    Parameters
    ----------
    kind : pa.DataType
        The type of a column.
    dim : str
        The column, for an error.

    Returns
    -------
    numpy.dtype
        A datetime64 or timedelta64 with its unit, int64 or float64.

    Raises
    ------
    ArgumentError
        If the type is neither of numbers nor of times.
    """
    types = pa.types
    if types.is_date32(kind):
        return np.dtype("M8[D]")
    if types.is_date64(kind):
        return np.dtype("M8[ms]")
    if types.is_timestamp(kind):
        return np.dtype(f"M8[{kind.unit}]")
    if types.is_duration(kind) or types.is_time(kind):
        return np.dtype(f"m8[{kind.unit}]")
    if types.is_integer(kind):
        return np.dtype(np.int64)
    if types.is_floating(kind) or types.is_decimal(kind):
        return np.dtype(np.float64)
    raise ArgumentError(
        f"window dim={dim!r} holds {kind}, neither numbers nor times; convert it first, for example with "
        "dask.dataframe.to_datetime"
    )


def step_of(step: Any, unit: np.dtype[Any]) -> float | None:
    """Express a step in the unit of the times.

    Parameters
    ----------
    step : object
        What `Window` takes.
    unit : numpy.dtype
        Of the times.

    Returns
    -------
    int or float or None
        None for None.

    Raises
    ------
    ArgumentError
        If the step is not positive, or not of the kind of the times.
    """
    if step is None:
        return None
    is_number = isinstance(step, Real) and not isinstance(step, bool | np.timedelta64)
    if unit.kind in "if":
        if not is_number or step <= 0 or (unit.kind == "i" and step != int(step)):
            whole = "whole " if unit.kind == "i" else ""
            raise ArgumentError(f"window step={step!r} must be a positive {whole}number, as the times are")
        return int(step) if unit.kind == "i" else float(step)
    import pandas as pd

    named = np.datetime_data(unit)[0]
    try:
        if is_number:
            raise ValueError("a number has no unit")
        exact = pd.Timedelta(step).to_timedelta64()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"window step={step!r} is no time: {error}; give one such as '6h'") from error
    value = exact.astype(f"m8[{named}]")
    if value != exact or value.astype(np.int64) <= 0:
        raise ArgumentError(f"window step={step!r} must be positive, and whole in the unit of the times ({named})")
    return int(value.astype(np.int64))


def step_text(step: float | None, unit: np.dtype[Any]) -> str | None:
    """Write a step as people would.

    Parameters
    ----------
    step : int or float or None
        In the unit of the times.
    unit : numpy.dtype
        Of the times.

    Returns
    -------
    str or None
        A number, of times with its unit; None for None.

    Examples
    --------
    >>> step_text(21_600_000, np.dtype("M8[ms]"))
    '6 h'
    """
    if step is None or unit.kind in "if":
        return f"{step:.12g}" if isinstance(step, float) else None if step is None else str(step)
    named = np.datetime_data(unit)[0]
    exact = np.array(int(step)).astype(f"m8[{named}]")
    for name, written in _UNITS.items() if named in _UNITS else ():
        value = exact.astype(f"m8[{name}]")
        if value == exact:
            return f"{value.astype(np.int64)} {written}"
    return f"{step} {named}"


def _codes(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Number the values of a column: equal ones, also nulls, have equal numbers."""
    if pa.types.is_integer(column.type) and not column.null_count:
        return np.asarray(column.to_numpy())
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(array.indices.to_numpy(zero_copy_only=False))


def _hash(table: pa.Table, groups: Sequence[str], row: int) -> int:
    text = repr([table.column(name)[row].as_py() for name in groups])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())
