"""Tell whether a query may compare floats before it reads them.

DuckDB skips row groups of Parquet by the least and greatest values that their footers name, and takes minima and maxima
from there. Writers leave NaN out of these, while SQL has NaN above all numbers: rows would be lost. Where a query
compares floats, its rows come as Arrow batches instead, of which DuckDB knows no such values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa

from dtk.analytics.sql.tables import Table

__all__ = ["compares_floats"]

_COMPARING: Final = ("where_clause", "having", "qualify", "condition", "using_columns", "orders")
_EXTREMES: Final = frozenset({"min", "max", "arg_min", "arg_max", "min_by", "max_by"})


def compares_floats(node: Any, tables: Mapping[str, Table]) -> bool:
    """Tell whether a query may filter, join, sort or take extremes of a column of floats.

    Parameters
    ----------
    node : mapping
        DuckDB's syntax tree of the query.
    tables : mapping of str to Table
        Those that it names.

    Returns
    -------
    bool
        True also where a name may stand for what was computed of floats.
    """
    floats: set[str] = set()
    others: set[str] = set()
    for table in tables.values():
        for field in table.schema:
            (floats if pa.types.is_floating(field.type) else others).add(field.name.lower())
    if not floats:
        return False
    computed = set(_aliases(node))
    compared = set(_compared(node, inside=False))
    return any(name in floats or name in computed or name not in others for name in compared)


def _compared(node: Any, *, inside: bool) -> Iterator[str]:
    """List the columns that are named where values are compared."""
    if isinstance(node, list):
        for child in node:
            yield from _compared(child, inside=inside)
    elif isinstance(node, str) and inside:
        yield node.lower()
    elif isinstance(node, Mapping):
        if node.get("class") == "COLUMN_REF":
            if inside:
                yield str(node["column_names"][-1]).lower()
            return
        if node.get("ref_type") == "NATURAL":
            yield ""  # any column
        is_extreme = node.get("function_name") in _EXTREMES
        for key, child in node.items():
            if isinstance(child, (list, Mapping)):
                here = key in _COMPARING or (is_extreme and key in ("arguments", "children"))
                lists_names = key == "using_columns"
                if isinstance(child, Mapping) or lists_names or any(isinstance(one, Mapping) for one in child):
                    yield from _compared(child, inside=inside or here)


def _aliases(node: Any) -> Iterator[str]:
    """List the names of computed columns."""
    if isinstance(node, list):
        for child in node:
            yield from _aliases(child)
    elif isinstance(node, Mapping):
        is_itself = node.get("class") == "COLUMN_REF" and node["column_names"][-1] == node.get("alias")
        if node.get("alias") and node.get("class") and not is_itself:
            yield str(node["alias"]).lower()
        for key in ("column_name_alias", "aliases"):
            if isinstance(node.get(key), list):
                yield from (str(name).lower() for name in node[key])
        for child in node.values():
            yield from _aliases(child)
