"""Columns that are not in Parquet files, but in the names of their ``key=value`` directories."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

import pyarrow as pa

__all__ = ["hive_schema", "hive_table", "hive_values"]

_NULL: Final = "__HIVE_DEFAULT_PARTITION__"


def hive_values(paths: Sequence[str], types: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    """Read the values that ``key=value`` directories give.

    Parameters
    ----------
    paths : sequence of str
        Files.
    types : mapping of str to pa.DataType
        The keys wanted and their types.

    Returns
    -------
    dict of str to pa.Array
        For each key, its value in each file.
    """
    found: dict[str, pa.Array] = {}
    keys = [dict(part.split("=", 1) for part in os.path.dirname(path).split("/") if "=" in part) for path in paths]
    for name, kind in types.items():
        texts = [unquote(of_file[name]) if name in of_file else None for of_file in keys]
        found[name] = pa.array([None if text == _NULL else text for text in texts], pa.string()).cast(kind)
    return found


def hive_schema(schema: pa.Schema, hive: Mapping[str, pa.Array]) -> pa.Schema:
    """Put the columns of the directories' names behind those of the files.

    Parameters
    ----------
    schema : pa.Schema
        Of the files.
    hive : mapping of str to pa.Array
        As `hive_values` returned it.

    Returns
    -------
    pa.Schema
        With the files' metadata.
    """
    for name, values in hive.items():
        schema = schema.append(pa.field(name, values.type))
    return schema


def hive_table(table: pa.Table, schema: pa.Schema, hive: Mapping[str, pa.Array], file: int) -> pa.Table:
    """Put the columns of the directories' names beside those of the file.

    Parameters
    ----------
    table : pa.Table
        Rows of a file.
    schema : pa.Schema
        The columns wanted, in order.
    hive : mapping of str to pa.Array
        As `hive_values` returned it.
    file : int
        The number of the file.

    Returns
    -------
    pa.Table
        The same rows.
    """
    if not schema.names:  # only such a table keeps its number of rows
        return table
    arrays = [
        pa.repeat(hive[name][file], table.num_rows) if name in hive else table.column(name) for name in schema.names
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
