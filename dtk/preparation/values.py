"""Read Arrow columns as numbers, booleans, dates or categories, or say why not.

Fitting and encoding both go through here, so that a value means the same to both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from dtk.errors import DataError
from dtk.sources.columns import close_to
from dtk.statistics import category_keys, to_floats

__all__ = [
    "KINDS",
    "Value",
    "as_booleans",
    "as_dates",
    "as_numbers",
    "check_column",
    "check_type",
    "check_zone",
    "lookup",
    "to_float32",
    "vocabulary_keys",
    "zone_of",
]

KINDS: Final = ("number", "category", "date", "boolean", "ignore")

Value = str | int | float | bool
"""What a category or a class may be: plain JSON."""

_WANTED: Final = {"number": "numbers", "boolean": "booleans", "date": "dates", "category": "categories"}
_REMEDIES: Final = {
    "number": "cast it with data.astype({{{name!r}: 'float64'}})",
    "boolean": "cast it with data.astype({{{name!r}: 'bool'}})",
    "date": "parse it with dask.dataframe.to_datetime(data[{name!r}])",
    "category": "cast it with data.astype({{{name!r}: '{cast}'}})",
}
_FAMILY_CASTS: Final = {"text": "str", "number": "int64", "boolean": "bool"}


def check_column(schema: pa.Schema, name: str, kind: str, keys: pa.DataType | None = None) -> None:
    """Refuse data in which a column is missing, or cannot be read as its kind.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the data.
    name : str
        Of the column.
    kind : str
        One of `KINDS`.
    keys : pyarrow.DataType, optional
        For categories: the type of those seen at fit, as `vocabulary_keys` returns them.

    Raises
    ------
    DataError
        If the data does not suit.
    """
    if name not in schema.names:
        raise DataError(f"column {name!r} is missing in the data; {close_to(name, schema.names)}")
    check_type(name, schema.field(name).type, kind, keys)


def check_type(name: str, found: pa.DataType, kind: str, keys: pa.DataType | None = None) -> None:
    """Refuse a column before any of it is read.

    Parameters
    ----------
    name : str
        Of the column.
    found : pyarrow.DataType
        Of its values.
    kind : str
        One of `KINDS`.
    keys : pyarrow.DataType, optional
        For categories: the type of those seen at fit, as `vocabulary_keys` returns them.

    Raises
    ------
    DataError
        If such values cannot be read as the kind.

    Examples
    --------
    >>> check_type("delay", pa.string(), "number")
    Traceback (most recent call last):
        ...
    dtk.errors.DataError: column 'delay' holds string, where numbers are expected; cast it with \
data.astype({'delay': 'float64'})
    """
    plain = _storage_type(found)
    family = "" if keys is None else _family_of(keys)
    if kind == "ignore" or types.is_null(plain):
        return
    if kind == "category":
        fits = _family_of(plain) in ((family,) if family else ("text", "number", "boolean"))
    elif kind == "date":
        fits = types.is_timestamp(plain) or types.is_date(plain)
    else:
        fits = types.is_boolean(plain) or types.is_integer(plain) or types.is_floating(plain)
        timelike = types.is_decimal(plain) or types.is_time(plain) or types.is_duration(plain)
        fits = fits or (kind == "number" and timelike)
    if fits:
        return
    wanted = _WANTED[kind] + (f" of type {family}, as at fit," if family else "")
    remedy = _REMEDIES[kind].format(name=name, cast=_FAMILY_CASTS[family or "text"])
    raise DataError(f"column {name!r} holds {found}, where {wanted} are expected; {remedy}")


def zone_of(found: pa.DataType) -> str | None:
    """Return the time zone of a column of dates.

    Parameters
    ----------
    found : pyarrow.DataType
        Of its values.

    Returns
    -------
    str or None
        None for dates without one, and for all that are no dates.
    """
    plain = _storage_type(found)
    return plain.tz if types.is_timestamp(plain) else None


def check_zone(name: str, found: pa.DataType, zone: str | None) -> None:
    """Refuse dates of which nobody knows what hour they are in the time zone of the fit.

    Parameters
    ----------
    name : str
        Of the column.
    found : pyarrow.DataType
        Of its values.
    zone : str or None
        That of the dates at fit.

    Raises
    ------
    DataError
        If only one of them has a zone.
    """
    given = zone_of(found)
    if types.is_null(_storage_type(found)) or (given is None) == (zone is None):
        return
    if zone is None:
        wanted, remedy = (
            "without a time zone",
            f"tz_convert(...).dt.tz_localize(None), in the zone that {name!r} was in",
        )
    else:
        wanted, remedy = f"with a time zone ({zone})", f"tz_localize({zone!r}), or the zone that they are in"
    raise DataError(
        f"column {name!r} holds {found}, where dates {wanted}, as at fit, are expected; take data[{name!r}].dt.{remedy}"
    )


def as_numbers(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read a column as numbers; times and durations become seconds.

    Parameters
    ----------
    name : str
        Of the column, for the error.
    values : pyarrow.ChunkedArray
        The column.

    Returns
    -------
    pyarrow.ChunkedArray
        Of integers or floats, with null or NaN for missing values.

    Raises
    ------
    DataError
        If the values are no numbers.
    """
    values = _checked(name, values, "number")
    found = values.type
    if types.is_boolean(found):
        return values.cast(pa.uint8())
    if types.is_float16(found):
        return values.cast(pa.float32())
    if types.is_integer(found) or types.is_floating(found):
        return values
    return pa.chunked_array([to_floats(values)])


def as_booleans(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read a column as 0 and 1; numbers other than 0 count as 1.

    Parameters
    ----------
    name : str
        Of the column, for the error.
    values : pyarrow.ChunkedArray
        The column.

    Returns
    -------
    pyarrow.ChunkedArray
        Of uint8, with null for missing values.

    Raises
    ------
    DataError
        If the values are neither booleans nor numbers.
    """
    values = _checked(name, values, "boolean")
    if types.is_floating(values.type):
        values = values.cast(pa.float64())  # most functions do not know float16
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    if types.is_integer(values.type) or types.is_floating(values.type):
        values = pc.not_equal(values, pa.scalar(0, values.type))
    return values.cast(pa.uint8())


def as_dates(name: str, values: pa.ChunkedArray, zone: str | None) -> pa.ChunkedArray:
    """Read a column as points in time.

    Parameters
    ----------
    name : str
        Of the column, for the error.
    values : pyarrow.ChunkedArray
        The column.
    zone : str or None
        The time zone whose months, weekdays and hours are wanted; None for dates without one.

    Returns
    -------
    pyarrow.ChunkedArray
        Of timestamps in that zone; a date is its midnight.

    Raises
    ------
    DataError
        If the values are neither timestamps nor dates, or only one of values and `zone` has a zone.
    """
    check_zone(name, values.type, zone)
    values = _checked(name, values, "date")
    return values.cast(pa.timestamp(values.type.unit if types.is_timestamp(values.type) else "ms", zone))


def vocabulary_keys(vocabulary: Sequence[Value]) -> pa.Array:
    """Return a vocabulary in the form that `lookup` compares with.

    Parameters
    ----------
    vocabulary : sequence
        Distinct values of one family: strings, numbers or booleans.

    Returns
    -------
    pyarrow.Array
        In the same order.
    """
    return category_keys(pa.array(vocabulary))


def lookup(name: str, values: pa.ChunkedArray, known: pa.Array) -> NDArray[np.int64]:
    """Find the position of every value in a vocabulary.

    Parameters
    ----------
    name : str
        Of the column, for the error.
    values : pyarrow.ChunkedArray
        The column.
    known : pyarrow.Array
        The vocabulary, as `vocabulary_keys` returns it.

    Returns
    -------
    numpy.ndarray
        int64 [n]: positions; -1 for values that are missing or not in the vocabulary.

    Raises
    ------
    DataError
        If the values are of another family than the vocabulary, such as strings instead of numbers.
    """
    check_type(name, values.type, "category", known.type)
    positions = np.full(len(values), -1, dtype=np.int64)
    stop = 0
    for chunk in values.chunks:
        start, stop = stop, stop + len(chunk)
        storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        if types.is_null(_storage_type(storage.type)):
            continue
        if not types.is_dictionary(storage.type):
            positions[start:stop] = _positions_in(category_keys(storage), known)
        elif len(storage.dictionary):  # every distinct value is looked up once
            found = np.append(_positions_in(category_keys(storage.dictionary), known), -1)
            indices = storage.indices
            if indices.null_count:
                indices = indices.cast(pa.int64()).fill_null(-1)  # the last one found
            positions[start:stop] = found[indices.to_numpy()]
    return positions


def to_float32(values: pa.ChunkedArray) -> NDArray[np.float32]:
    """Turn numbers into float32.

    Parameters
    ----------
    values : pyarrow.ChunkedArray
        Of integers or floats.

    Returns
    -------
    numpy.ndarray
        float32 [n], with NaN for missing values.
    """
    numbers: NDArray[Any] = values.to_numpy()
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which preparation clips
        return numbers.astype(np.float32, copy=False)


def _positions_in(keys: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    if keys.type != known.type:  # pandas turns integers with gaps into floats
        keys, known = keys.cast(pa.float64(), safe=False), known.cast(pa.float64(), safe=False)
    positions: NDArray[Any] = pc.index_in(keys, value_set=known).fill_null(-1).to_numpy(zero_copy_only=False)
    return positions.astype(np.int64)


def _checked(name: str, values: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """Refuse values that cannot be read as the kind, and undo dictionaries and extensions."""
    check_type(name, values.type, kind)
    if isinstance(values.type, pa.BaseExtensionType):
        values = pa.chunked_array([chunk.storage for chunk in values.chunks], type=values.type.storage_type)
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if types.is_null(values.type):
        return values.cast(pa.timestamp("ms") if kind == "date" else pa.float64())
    return values


def _storage_type(found: pa.DataType) -> pa.DataType:
    if isinstance(found, pa.BaseExtensionType):
        found = found.storage_type
    return found.value_type if types.is_dictionary(found) else found


@lru_cache(maxsize=256)  # a batch of few rows has many columns to check
def _family_of(plain: pa.DataType) -> str:
    """Name what categories of a type compare with: text, number or boolean; empty where there are none."""
    try:
        keys = category_keys(pa.array([], plain)).type
    except DataError:
        return ""
    if types.is_boolean(keys):
        return "boolean"
    return "number" if types.is_integer(keys) or types.is_floating(keys) else "text"
