"""From an answer's Arrow table to a pandas frame of the types that all its partitions have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import pyarrow as pa

from dtk.analytics.sql.bare import bare_connection
from dtk.errors import DataError

if TYPE_CHECKING:
    from dtk.analytics.sql.binding import Column

__all__ = ["answer_schema", "frame_of", "unique_names"]

_HUGE: Final = ("HUGEINT", "UHUGEINT")
_NULLABLE: Final[dict[pa.DataType, Any]] = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}


def answer_schema(output: Sequence[Column]) -> pa.Schema:
    """Choose the Arrow types of an answer.

    Parameters
    ----------
    output : sequence of (str, str)
        Names and DuckDB's types.

    Returns
    -------
    pyarrow.Schema
        Names made unique; whole numbers of 128 bits, which sums of whole numbers are, as int64.
    """
    nulls = ", ".join(f"CAST(NULL AS {_castable(kind)})" for _, kind in output)
    with bare_connection() as connection:
        found = connection.sql(f"SELECT {nulls} LIMIT 0").to_arrow_table().schema
    names = unique_names([name for name, _ in output])
    kinds = [
        pa.int64() if kind in _HUGE else _without_codes(field.type)
        for (_, kind), field in zip(output, found, strict=True)
    ]
    return pa.schema(list(zip(names, kinds, strict=True)))


def unique_names(names: Sequence[str]) -> list[str]:
    """Number the names that are there more than once, as DuckDB does in its frames.

    Parameters
    ----------
    names : sequence of str
        Any.

    Returns
    -------
    list of str
        All different.

    Examples
    --------
    >>> unique_names(["x", "y", "x"])
    ['x', 'y', 'x_1']
    """
    taken, counts, found = set(names), Counter[str](), []
    for name in names:
        one = name
        while one in found or (one != name and one in taken):
            counts[name] += 1
            one = f"{name}_{counts[name]}"
        found.append(one)
    return found


def frame_of(table: pa.Table, schema: pa.Schema) -> pd.DataFrame:
    """Turn an answer into a frame.

    Parameters
    ----------
    table : pyarrow.Table
        Columns in the order of the schema, whatever their names.
    schema : pyarrow.Schema
        As `answer_schema` chose it.

    Returns
    -------
    pandas.DataFrame
        Whole numbers and booleans in pandas' types that hold missing values, text as text, timestamps as such, and
        the rest, such as dates and decimals, in Arrow's.

    Raises
    ------
    DataError
        If a sum of whole numbers needs more than 64 bits.
    """
    columns = []
    for values, field in zip(table.columns, schema, strict=True):
        try:
            columns.append(values.cast(field.type))
        except pa.ArrowInvalid as error:
            raise DataError(f"column {field.name!r} does not fit {field.type}: {error}; cast it in the query") from None
    found: pd.DataFrame = pa.Table.from_arrays(columns, schema=schema).to_pandas(
        types_mapper=_pandas_type, ignore_metadata=True
    )
    return found


def _pandas_type(kind: pa.DataType) -> Any:
    if kind in _NULLABLE:
        return _NULLABLE[kind]
    if pa.types.is_string(kind):
        return pd.StringDtype(na_value=float("nan"))
    if pa.types.is_floating(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return None  # NumPy's, and pandas' own for times with a zone
    return pd.ArrowDtype(kind)


def _castable(kind: str) -> str:
    return "INTEGER" if kind == '"NULL"' else kind


def _without_codes(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_dictionary(kind) else kind
