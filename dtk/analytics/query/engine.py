"""DuckDB in the process that runs a task: one instance a process, a cursor for each query."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from dtk.errors import DataError, MemoryLimitError
from dtk.runtime import task_place

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["opened", "quoted", "run_sql", "text_of"]

_SHARE: Final = 0.4  # of a process's memory: tables on their way, and what Dask holds, need the rest
_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": False,  # which would come from the network
    "autoload_known_extensions": False,
    "python_enable_replacements": False,  # or a table's name could be a variable's of this code
    "preserve_insertion_order": False,
}
_INSTANCES: dict[tuple[int, str], DuckDBPyConnection] = {}
_LOCK = threading.Lock()


@contextmanager
def opened(tables: Mapping[str, Any] | None = None) -> Iterator[DuckDBPyConnection]:
    """Open a connection that runs its queries on the calling thread.

    Connections of a process share its limit of memory, beyond which they spill to the worker's own directory.

    Parameters
    ----------
    tables : mapping of str to pyarrow.Table, optional
        What queries may read, by name.

    Yields
    ------
    duckdb.DuckDBPyConnection
        Sees these tables alone; its views are its own.

    Raises
    ------
    MemoryLimitError
        If a query needs more memory than there is, and cannot spill.
    DataError
        If values cannot be computed with.
    """
    import duckdb

    connection = _instance().cursor()
    try:
        connection.execute("SELECT setseed(0.5)").fetchall()  # what is sampled depends on nothing but the rows
        for name, table in (tables or {}).items():
            connection.register(name, table)
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise MemoryLimitError(
            f"{_first_line(error)}; give the workers more memory, or ask for less at once"
        ) from error
    except (duckdb.DataError, duckdb.IOException, duckdb.InvalidInputException) as error:
        raise DataError(_first_line(error)) from error
    finally:
        connection.close()


def run_sql(connection: DuckDBPyConnection, query: str) -> pa.Table:
    """Run one query.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        An open one.
    query : str
        A SELECT statement.

    Returns
    -------
    pa.Table
        All rows.
    """
    table: pa.Table = connection.sql(query).to_arrow_table()
    return table


def quoted(name: str) -> str:
    """Write a name as an identifier.

    Parameters
    ----------
    name : str
        Of a column or a table: any text.

    Returns
    -------
    str
        For a query.

    Examples
    --------
    >>> quoted('arr delay')
    '"arr delay"'
    """
    return '"' + name.replace('"', '""') + '"'


def text_of(value: str) -> str:
    """Write a text as a literal.

    Parameters
    ----------
    value : str
        Any text.

    Returns
    -------
    str
        For a query.

    Examples
    --------
    >>> text_of("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"


def _instance() -> DuckDBPyConnection:
    """Return the instance of this process, or make it; one of a parent that forked is of no use."""
    import duckdb

    place = task_place()
    key = (os.getpid(), place.directory)
    with _LOCK:
        if key not in _INSTANCES:
            instance = duckdb.connect(config=_SETTINGS | {"threads": 1})  # each cursor runs on its caller's thread
            instance.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
            instance.execute(f"SET memory_limit = '{int(place.memory_nbytes * _SHARE) >> 10}KiB'")
            directory = f"{place.directory}/dtk-duckdb-{os.getpid()}"  # it comes and goes with what is spilled
            instance.execute(f"SET temp_directory = {text_of(directory)}")
            _INSTANCES[key] = instance
        return _INSTANCES[key]


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text.split("Error: ", 1)[-1].strip().rstrip(".")
