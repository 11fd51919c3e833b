"""Bind the names in a query to tables and columns, and learn what it will give, without reading a row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import duckdb
import pyarrow as pa

from dtk.analytics.query.engine import quoted
from dtk.analytics.sql.bare import bare_connection
from dtk.analytics.sql.catalog import Catalog
from dtk.analytics.sql.places import nearest, pointed
from dtk.analytics.sql.statement import Statement, characters
from dtk.analytics.sql.tables import Table
from dtk.errors import ArgumentError

__all__ = ["Bound", "Column", "bind", "describe", "unstable_functions"]

_DESCRIBE: Final = "DESCRIBE "

_MISSING_COLUMN: Final = re.compile('(?:have a column named|^Column) "(.+?)"')

Column = tuple[str, str]
"""The name and DuckDB's type of a column."""


@dataclass(frozen=True)
class Bound:
    """A query whose names are known.

    Parameters
    ----------
    statement : Statement
        The query.
    tables : mapping of str to Table
        Those that it names, by their own names.
    columns : mapping of str to list of str
        For each of them, the columns that the query may need.
    output : tuple of (str, str)
        Names and DuckDB's types of the columns that it gives.
    kinds : mapping of str to mapping of str to str
        For each table, DuckDB's type of each column.
    """

    statement: Statement
    tables: Mapping[str, Table]
    columns: Mapping[str, list[str]]
    output: tuple[Column, ...]
    kinds: Mapping[str, Mapping[str, str]]

    def schema(self, name: str) -> pa.Schema:
        """Return the needed columns of a table.

        Parameters
        ----------
        name : str
            A table.

        Returns
        -------
        pyarrow.Schema
            Of types that DuckDB has.
        """
        whole = self.tables[name].schema
        return pa.schema([whole.field(column) for column in self.columns[name]])

    def nbytes(self, name: str) -> int | None:
        """Estimate what the needed columns of a table take in memory.

        Parameters
        ----------
        name : str
            A table.

        Returns
        -------
        int or None
            Bytes; None where only computing it would tell.
        """
        return self.tables[name].nbytes(self.columns[name])


def bind(statement: Statement, catalog: Catalog) -> Bound:
    """Find the tables and columns that a query names.

    Parameters
    ----------
    statement : Statement
        The query.
    catalog : Catalog
        The tables that there are.

    Returns
    -------
    Bound
        With the types of its answer.

    Raises
    ------
    ArgumentError
        If a table, column or function is not there, or types do not fit; the error shows the place.
    """
    tables: dict[str, Table] = {}
    for named in statement.tables:
        table = catalog.find(named.name) if named.name not in tables else tables[named.name]
        if table is None:
            remedy = nearest(named.name, catalog.names) if catalog.names else "give one: dtk.sql(query, name=data)"
            raise pointed(statement.query, f"{named.name!r} is no table; {remedy}", named.start, named.length)
        tables[table.name] = table
    with empty_tables({name: table.schema for name, table in tables.items()}) as connection:
        try:
            output = describe(connection, statement.text)
        except duckdb.Error as error:
            raise _pointed_error(statement, tables, error) from None
        kinds = {name: dict(describe(connection, f"SELECT * FROM {quoted(name)}")) for name in tables}
    columns = {name: _needed(statement.node, table) for name, table in tables.items()}
    return Bound(statement, tables, columns, output, kinds)


@contextmanager
def empty_tables(schemas: Mapping[str, pa.Schema]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that has tables without rows.

    Parameters
    ----------
    schemas : mapping of str to pyarrow.Schema
        By name.

    Yields
    ------
    duckdb.DuckDBPyConnection
        Its errors are JSON.
    """
    with bare_connection() as connection:
        for name, schema in schemas.items():
            connection.register(name, schema.empty_table())
        yield connection


def describe(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Column, ...]:
    """Tell what a query gives.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        With its tables, which may be empty.
    query : str
        One SELECT.

    Returns
    -------
    tuple of (str, str)
        Names and DuckDB's types.

    Raises
    ------
    duckdb.Error
        If it cannot be bound.
    """
    rows = connection.execute(_DESCRIBE + query).fetchall()
    return tuple((str(row[0]), str(row[1])) for row in rows)


@cache
def unstable_functions() -> frozenset[str]:
    """List DuckDB's functions whose value changes from call to call, or from task to task.

    Returns
    -------
    frozenset of str
        In lower case: random, now and the like.
    """
    with bare_connection() as connection:
        rows = connection.execute("SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'")
        return frozenset(str(row[0]).lower() for row in rows.fetchall())


def _needed(node: Any, table: Table) -> list[str]:
    """List the columns of a table that a query may need: those whose names it says, or all where it says ``*``."""
    named: set[str] = set()
    whole: set[str] = set()
    _gather(node, named, whole)
    if whole & _names_of(node, table.name.lower()):
        return list(table.schema.names)
    found = [name for name in table.schema.names if name.lower() in named]
    return found or [min(table.schema, key=_width).name]  # rows are counted by one


def _gather(node: Any, named: set[str], whole: set[str]) -> None:
    """Gather the names that columns may have, and the tables all of whose columns are wanted."""
    if isinstance(node, list):
        for child in node:
            _gather(child, named, whole)
        return
    if not isinstance(node, Mapping):
        return
    if node.get("type") == "SELECT_NODE":
        stars = any(child.get("class") in ("STAR", "POSITIONAL_REFERENCE") for child in _walked(node))
        if stars:
            whole.update(_direct_tables(node.get("from_table")))
    if node.get("type") == "JOIN":
        named.update(str(name).lower() for name in node.get("using_columns") or [])
        if node.get("ref_type") in ("NATURAL", "POSITIONAL"):
            whole.update(_direct_tables(node))
    if node.get("class") == "COLUMN_REF":
        parts = [str(part).lower() for part in node["column_names"]]
        named.update(parts)
        whole.add(parts[-1])  # a whole row, where it is the name of a table
    for key, child in node.items():
        only_whether = node.get("subquery_type") == "EXISTS" and key == "subquery"
        if only_whether and isinstance(child, Mapping):
            inner = child.get("node", child)
            _gather({**inner, "select_list": []} if isinstance(inner, Mapping) else inner, named, whole)
        else:
            _gather(child, named, whole)


def _walked(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Walk the expressions of one SELECT, without those of queries in it."""
    stack: list[Any] = [value for key, value in node.items() if key not in ("from_table", "cte_map")]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack.extend(one)
        elif isinstance(one, Mapping):
            if one.get("type") in ("SELECT_NODE", "SET_OPERATION_NODE"):
                continue
            yield one
            stack.extend(one.values())


def _direct_tables(node: Any) -> Iterator[str]:
    """List the tables and aliases that a FROM names itself."""
    if not isinstance(node, Mapping):
        return
    if node.get("type") == "BASE_TABLE":
        yield str(node["table_name"]).lower()
    for key in ("left", "right", "source"):
        yield from _direct_tables(node.get(key))


def _names_of(node: Any, table: str) -> set[str]:
    """List a table's name and those that the query gives it."""
    if isinstance(node, list):
        return {name for child in node for name in _names_of(child, table)}
    if not isinstance(node, Mapping):
        return {table}
    found = {table, *(name for child in node.values() for name in _names_of(child, table))}
    if node.get("type") == "BASE_TABLE" and str(node["table_name"]).lower() == table and node.get("alias"):
        found.add(str(node["alias"]).lower())
    return found


def _width(column: pa.Field) -> int:
    try:
        return int(column.type.bit_width)
    except ValueError:
        return 1000


def _pointed_error(statement: Statement, tables: Mapping[str, Table], error: duckdb.Error) -> ArgumentError:
    """Turn an error of DuckDB's binder into one that shows the place."""
    try:
        told = json.loads(str(error)[str(error).index("{") :])
    except ValueError:
        told = {"exception_message": str(error).split("\n")[0]}
    reason = str(told.get("exception_message", "")).split("\n")[0].strip().rstrip("!.")
    name, missing = str(told.get("name", "")), _MISSING_COLUMN.search(reason)
    if told.get("error_subtype") == "COLUMN_NOT_FOUND" or missing:
        name = missing.group(1) if missing else name
        known = list(dict.fromkeys(column for table in tables.values() for column in table.schema.names))
        reason = f"{name!r} is no column; {nearest(name, known)}"
    elif told.get("error_subtype") == "MISSING_ENTRY" and told.get("type", "").endswith("Function"):
        close = [part for part in str(told.get("candidates", "")).split(",") if part]
        reason = f"{name}() is no function" + (f"; did you mean {close[0]}()?" if close else "")
    elif reason:
        reason = reason[0].lower() + reason[1:].replace(". You might", "; you might")
    if told.get("position") is None:
        start = max(0, statement.query.lower().rfind(name.lower())) if name else 0
        return pointed(statement.query, reason, start, len(name) or 1)
    start, length = int(told["position"]), 1
    if told.get("location"):
        start, length = json.loads(told["location"])
    return pointed(statement.query, reason, *characters(statement.text, start - len(_DESCRIBE), length))
