"""What a column means, and its values as numbers or as keys.

One rule for all layers: what the profile shows, preparation fits and the loader reads is converted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import DataError

__all__ = [
    "Kind",
    "Unit",
    "category_keys",
    "coded_keys",
    "infer_kind",
    "is_text",
    "plain_chunks",
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
    if isinstance(dtype, pa.BaseExtensionType):
        return is_text(dtype.storage_type)
    if pa.types.is_dictionary(dtype):
        return is_text(dtype.value_type)
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype))


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


def category_keys(values: pa.Array) -> pa.Array:
    """Turn values into keys that compare equal whatever type the column has in another chunk.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows]; no dictionary.

    Returns
    -------
    pyarrow.Array
        Shape [rows]: large_string, int64, uint64, float64 or bool. Dates, times and decimals are strings (ISO 8601 in
        UTC, without zeros at the end), whatever their unit or scale; durations are seconds, bytes hexadecimal strings.

    Raises
    ------
    DataError
        If the type is a list, a struct or another that has no categories.

    Examples
    --------
    >>> days = pa.array([0, 1], pa.date32())
    >>> category_keys(days).to_pylist() == category_keys(days.cast(pa.timestamp("ns"))).to_pylist()
    True
    """
    dtype = values.type
    if pa.types.is_boolean(dtype) or pa.types.is_null(dtype) or dtype == pa.uint64():
        return values
    if pa.types.is_integer(dtype):
        return values.cast(pa.int64())
    if pa.types.is_floating(dtype):
        return pc.add(values.cast(pa.float64()), 0.0)  # -0.0 and 0.0 are one key
    if pa.types.is_duration(dtype):
        return pa.array(to_floats(values), from_pandas=True)
    if pa.types.is_temporal(dtype) or pa.types.is_decimal(dtype):
        distinct = values.dictionary_encode()  # text is slow to write, and categories are few
        write = _decimal_text if pa.types.is_decimal(dtype) else _time_text
        return write(distinct.dictionary).take(distinct.indices)
    if pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_fixed_size_binary(dtype):
        return pa.array([None if value is None else value.hex() for value in values.to_pylist()], pa.large_string())
    try:
        return values.cast(pa.large_string())
    except pa.ArrowNotImplementedError:
        raise DataError(f"values of type {dtype} have no categories; leave the column out") from None


def coded_keys(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct keys of values, and which one each value has.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows]; quick for dictionaries.

    Returns
    -------
    keys : pyarrow.Array
        See `category_keys`; distinct, none of them missing.
    codes : numpy.ndarray
        int64 [rows]: the position of the key, -1 where the value is missing.

    Raises
    ------
    DataError
        If the type has no categories.
    """
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    if pa.types.is_null(values.type):
        return pa.nulls(0), np.full(len(values), -1)
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    encoded = category_keys(values.dictionary).dictionary_encode()  # two values may be one key
    keys = encoded.dictionary
    is_present = ~keys.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    renumbered = np.where(is_present, np.cumsum(is_present) - 1, -1)
    of_value = np.append(renumbered, -1)[encoded.indices.fill_null(len(keys)).to_numpy()]
    codes = np.append(of_value, -1)[values.indices.cast(pa.int64()).fill_null(-1).to_numpy()]
    return keys.filter(pa.array(is_present)), codes


def _time_text(values: pa.Array) -> pa.Array:
    """Write dates and times so that the unit does not show: no zeros at the end, and no midnight."""
    dtype = values.type
    if pa.types.is_date(dtype):
        dtype = pa.timestamp("s" if pa.types.is_date32(dtype) else "ms")
        values = values.cast(dtype)
    zone = dtype.tz if pa.types.is_timestamp(dtype) else None
    if zone is not None:  # casting a zoned timestamp to text needs a time zone database
        values = values.cast(pa.timestamp(dtype.unit))
    text = values.cast(pa.large_string())
    if dtype.unit != "s":  # there are digits after a point
        text = pc.replace_substring_regex(text, r"\.?0+$", "")
    if zone is None:
        text = pc.replace_substring_regex(text, " 00:00:00$", "")
    else:
        text = pc.replace_substring_regex(text, "$", "Z")
    return pc.replace_substring(text, " ", "T")


def _decimal_text(values: pa.Array) -> pa.Array:
    """Write decimals, none of them null, so that the scale does not show."""
    text = values.cast(pa.large_string())
    has_exponent = pc.match_substring(text, "E")  # as Arrow writes what is near 0, or of a negative scale
    if values.type.scale > 0:
        text = pc.utf8_rtrim(pc.utf8_rtrim(text, "0"), ".")
    if not pc.any(has_exponent).as_py():
        return text
    plain = (f"{value:f}" for value in values.filter(has_exponent).to_pylist())
    trimmed = [number.rstrip("0").rstrip(".") if "." in number else number for number in plain]
    return pc.replace_with_mask(text, has_exponent, pa.array(trimmed, pa.large_string()))
