"""Values as keys, which compare equal whatever type the column has in another chunk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import DataError
from dtk.statistics.kinds import to_floats

__all__ = ["category_keys", "coded_keys"]


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
