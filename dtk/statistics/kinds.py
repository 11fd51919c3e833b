"""What a column means, and its values as numbers.

One rule for all layers: what the profile shows, preparation fits and the loader reads is converted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from dtk.errors import DataError

__all__ = [
    "Kind",
    "Unit",
    "infer_kind",
    "is_text",
    "plain_chunks",
    "plain_type",
    "stored_numbers",
    "to_floats",
    "to_numbers",
    "without_views",
]

Kind = Literal["number", "category", "date", "boolean", "ignore"]
_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NS_PER_DAY: Final = 86_400 * 10**9
_INT64_MAX: Final = 2**63 - 1


def infer_kind(dtype: pa.DataType) -> Kind:
    """Say what a column of an Arrow type means.

    Parameters
    ----------
    dtype : pyarrow.DataType
        The type; that of its values for a dictionary of strings, numbers or dates.

    Returns
    -------
    str
        ``"number"`` (integers, floats, decimals, times, durations), ``"category"`` (strings, dictionaries),
        ``"date"`` (dates, timestamps), ``"boolean"``, or ``"ignore"`` (bytes, lists, structs, nulls only).

    Examples
    --------
    >>> infer_kind(pa.timestamp("us")), infer_kind(pa.dictionary(pa.int8(), pa.string()))
    ('date', 'category')
    """
    if pa.types.is_dictionary(dtype):
        return "ignore" if infer_kind(dtype.value_type) == "ignore" else "category"
    if isinstance(dtype, pa.BaseExtensionType):
        return infer_kind(dtype.storage_type)
    if pa.types.is_boolean(dtype):
        return "boolean"
    if pa.types.is_timestamp(dtype) or pa.types.is_date(dtype):
        return "date"
    if is_text(dtype):
        return "category"
    is_time = pa.types.is_time(dtype) or pa.types.is_duration(dtype)
    is_number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)
    return "number" if is_time or is_number else "ignore"


def is_text(dtype: pa.DataType) -> bool:
    """Tell whether values are strings.

    Parameters
    ----------
    dtype : pyarrow.DataType
        Of them; a dictionary of strings is one, too.

    Returns
    -------
    bool
        False for all else.
    """
    plain = plain_type(dtype)
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type of values without dictionary or extension types.

    Parameters
    ----------
    dtype : pyarrow.DataType
        Any.

    Returns
    -------
    pyarrow.DataType
        That of the values of a dictionary, or of what is stored.
    """
    plain = dtype.storage_type if isinstance(dtype, pa.BaseExtensionType) else dtype
    return plain_type(plain.value_type) if pa.types.is_dictionary(plain) else plain


def plain_chunks(values: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array]:
    """Yield the chunks of a column, without dictionary, extension or view types.

    Parameters
    ----------
    values : pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows].

    Yields
    ------
    pyarrow.Array
        In order, [rows] in all.
    """
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        plain = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        yield without_views(plain.dictionary_decode() if pa.types.is_dictionary(plain.type) else plain)


def without_views(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return views of strings and bytes as plain ones: Arrow can neither filter views nor take from them.

    Parameters
    ----------
    values : pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows], of any type.

    Returns
    -------
    pyarrow.Array or pyarrow.ChunkedArray
        The same values.
    """
    if pa.types.is_string_view(values.type):
        return values.cast(pa.large_string())
    return values.cast(pa.large_binary()) if pa.types.is_binary_view(values.type) else values


def to_numbers(values: pa.Array) -> np.ndarray:
    """Turn values without nulls into numbers.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows]: numbers, booleans, dates, times; no nulls, no dictionary.

    Returns
    -------
    numpy.ndarray
        Shape [rows]. int64 (uint64 for that type) for integers and booleans; float64 for floats and decimals.
        Dates and timestamps are nanoseconds since 1970 in UTC, as int64, or float64 beyond the years 1677 to 2262.
        Times and durations are seconds as float64.

    Raises
    ------
    DataError
        If the type has no meaning as a number.
    """
    ticks, unit = stored_numbers(values)
    if unit.ns_per_tick is not None:
        return _nanoseconds(ticks.astype(np.int64, copy=False), unit.ns_per_tick)
    if unit.ticks_per_s is not None:
        return _seconds(ticks.astype(np.int64, copy=False), unit.ticks_per_s)
    if ticks.dtype.kind == "f":
        return np.asarray(ticks, np.float64)
    return np.asarray(ticks, np.uint64 if ticks.dtype == np.uint64 else np.int64)


@dataclass(frozen=True)
class Unit:
    """What a stored number means: itself, or points in time or spans of time, as in `to_numbers`.

    Parameters
    ----------
    ns_per_tick : int or None
        Of dates and timestamps.
    ticks_per_s : int or None
        Of times and durations.
    """

    ns_per_tick: int | None = None
    ticks_per_s: int | None = None

    def number(self, tick: int | float) -> int | float:
        """Turn one stored number into what `to_numbers` makes of it.

        Parameters
        ----------
        tick : int or float
            As stored.

        Returns
        -------
        int or float
            Exact where it fits.
        """
        if self.ns_per_tick is not None:
            scaled = int(tick) * self.ns_per_tick
            return scaled if abs(scaled) <= _INT64_MAX else float(scaled)
        if self.ticks_per_s is not None:
            return float(_seconds(np.array([tick], np.int64), self.ticks_per_s)[0])
        return tick


def stored_numbers(values: pa.Array) -> tuple[np.ndarray, Unit]:
    """Return numbers as they are stored, without a copy where that can be done.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows]: numbers, booleans, dates, times; no dictionary.

    Returns
    -------
    numbers : numpy.ndarray
        Shape [rows]: integers or floats of the stored width, anything where a value is null.
    unit : Unit
        What they mean.

    Raises
    ------
    DataError
        If the type has no meaning as a number.
    """
    dtype = values.type
    if pa.types.is_null(dtype):
        return np.zeros(len(values)), Unit()
    if pa.types.is_boolean(dtype):
        return _buffer(values.cast(pa.int8())), Unit()
    if pa.types.is_decimal(dtype):
        return _buffer(values.cast(pa.float64())), Unit()
    if pa.types.is_integer(dtype) or pa.types.is_floating(dtype):
        return _buffer(values), Unit()
    if pa.types.is_timestamp(dtype):
        return _buffer(values), Unit(ns_per_tick=10**9 // _PER_SECOND[dtype.unit])
    if pa.types.is_date(dtype):
        return _buffer(values), Unit(ns_per_tick=_NS_PER_DAY if pa.types.is_date32(dtype) else 10**6)
    if pa.types.is_time(dtype) or pa.types.is_duration(dtype):
        return _buffer(values), Unit(ticks_per_s=_PER_SECOND[dtype.unit])
    raise DataError(f"values of type {dtype} are no numbers; use them as categories, or cast the column first")


def _buffer(values: pa.Array) -> np.ndarray:
    """Look at the values of a type of fixed width."""
    dtype = values.type.to_pandas_dtype() if _is_plain(values.type) else f"i{values.type.byte_width}"
    stored = values.buffers()[1]
    return np.empty(0, dtype) if stored is None else np.frombuffer(stored, dtype)[values.offset :][: len(values)]


def _is_plain(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype))


def _nanoseconds(ticks: np.ndarray, ns_per_tick: int) -> np.ndarray:
    """Scale to nanoseconds, exactly where they fit into int64."""
    limit = np.iinfo(np.int64).max // ns_per_tick
    fits = not len(ticks) or (-limit <= int(ticks.min()) and int(ticks.max()) <= limit)
    return ticks * ns_per_tick if fits else ticks.astype(np.float64) * ns_per_tick


def _seconds(ticks: np.ndarray, per_second: int) -> np.ndarray:
    """Scale to seconds: whole ones apart from the rest, so that the same time in another unit is the same float."""
    rest = np.fmod(ticks, per_second)
    return np.asarray((ticks - rest) // per_second + rest / per_second, np.float64)


def to_floats(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Turn a column into floats, with NaN where a value is missing.

    Parameters
    ----------
    values : pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows]: numbers, booleans, dates, times, or dictionaries of them.

    Returns
    -------
    numpy.ndarray
        float64 [rows]; units as in `to_numbers`.

    Raises
    ------
    DataError
        If the type has no meaning as a number.

    Examples
    --------
    >>> to_floats(pa.array([1, None, 3]))
    array([ 1., nan,  3.])
    """
    parts = [np.empty(0)]
    for chunk in plain_chunks(values):
        if pa.types.is_floating(chunk.type) or pa.types.is_integer(chunk.type):
            parts.append(np.asarray(chunk.to_numpy(zero_copy_only=False), np.float64))  # NaN for nulls, and fast
            continue
        floats = np.full(len(chunk), np.nan)
        floats[chunk.is_valid().to_numpy(zero_copy_only=False)] = to_numbers(chunk.drop_null())
        parts.append(floats)
    return np.concatenate(parts)
