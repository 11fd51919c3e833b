"""Run SQL in DuckDB within a task: in parts beside other tasks, or a user's query whole, shut in with its tables."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import duckdb
import pyarrow as pa

from dtk.analytics.query.engine import opened, quoted, text_of
from dtk.analytics.sql.streams import ChunkStream, ParquetRows
from dtk.errors import DataError, MemoryLimitError
from dtk.memory import format_nbytes
from dtk.runtime import task_place

__all__ = ["Limits", "LocalFiles", "Rows", "run_sql"]

MEMORY_FRACTION: Final = 0.6  # of the worker's: the rest is for Arrow tables, frames and Python
LEAST_NBYTES: Final = 128 * 2**20


@dataclass(frozen=True)
class Limits:
    """What DuckDB may take of a worker.

    Parameters
    ----------
    memory_nbytes : int or None
        Memory of one query in a task; a fraction of the worker's if None.
    spill_directory : str or None
        Where it spills; the worker's own directory if None.
    """

    memory_nbytes: int | None = None
    spill_directory: str | None = None


@dataclass(frozen=True)
class LocalFiles:
    """Parquet files of this task's own.

    Parameters
    ----------
    paths : tuple of str
        The files.
    columns : tuple of (str, str)
        Their columns, and DuckDB's types.
    """

    paths: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]

    def sql(self) -> str:
        """Write a SELECT of the rows.

        Returns
        -------
        str
            SQL.
        """
        named = ", ".join(f"CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in self.columns)
        paths = ", ".join(map(text_of, self.paths))
        return f"SELECT {named} FROM read_parquet([{paths}], hive_partitioning = false)"


Rows: TypeAlias = pa.Table | ChunkStream | ParquetRows | LocalFiles


def run_sql(
    query: str,
    rows: Mapping[str, Rows],
    *,
    what: str,
    is_alone: bool = False,
    limits: Limits,
) -> pa.Table:
    """Run a query.

    Parameters
    ----------
    query : str
        SQL over the tables.
    rows : mapping of str to Table, ChunkStream, ParquetRows or LocalFiles
        The tables, by name.
    what : str
        What is run, for an error.
    is_alone : bool
        Whether the task takes all threads and memory of the worker, and the query may be a user's own text.
    limits : Limits
        What a query alone may take of the worker.

    Returns
    -------
    pyarrow.Table
        The answer.

    Raises
    ------
    MemoryLimitError
        If the query needs more than can be spilled.
    DataError
        If a value cannot be converted, or a file is damaged or was changed.
    """
    try:
        if is_alone:
            return _run_alone(query, rows, limits)
        with ExitStack() as stack:
            connection = stack.enter_context(opened())
            _give(connection, rows, stack)
            return connection.sql(query).to_arrow_table()
    except (duckdb.Error, DataError, MemoryLimitError) as error:
        for given in rows.values():
            if isinstance(given, ChunkStream) and given.error is not None:
                raise given.error from None
        kind = MemoryLimitError if isinstance(error, MemoryLimitError) else DataError
        raise kind(f"{what}: {_first_line(error)}") from error


def _run_alone(query: str, rows: Mapping[str, Rows], limits: Limits) -> pa.Table:
    """Run a query on all threads of the worker; its text sees these tables and nothing else."""
    place = task_place()
    limit = limits.memory_nbytes or max(LEAST_NBYTES, int(MEMORY_FRACTION * place.memory_nbytes))
    spill = tempfile.mkdtemp(prefix="dtk-sql-", dir=limits.spill_directory or place.directory)
    try:
        with ExitStack() as stack:
            connection = stack.enter_context(_connection(place.threads, limit, spill))
            _give(connection, rows, stack)
            _shut_in(connection, rows)
            return connection.sql(query).to_arrow_table()
    except duckdb.OutOfMemoryException as error:
        raise MemoryLimitError(
            f"{_first_line(error)}; DuckDB has {format_nbytes(limit)} of this worker, and spills to {spill}:"
            " give workers more memory, or memory="
        ) from error
    except duckdb.Error as error:
        raise DataError(_first_line(error)) from error
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _connection(threads: int, memory_nbytes: int, spill: str) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {
        "threads": threads,
        "memory_limit": f"{memory_nbytes}B",
        "temp_directory": spill,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _give(connection: duckdb.DuckDBPyConnection, rows: Mapping[str, Rows], stack: ExitStack) -> None:
    """Make the tables known."""
    for number, (name, given) in enumerate(rows.items()):
        if isinstance(given, ParquetRows | LocalFiles):
            if isinstance(given, ParquetRows):
                stack.enter_context(given.unchanged())
            connection.execute(f"CREATE TEMP VIEW {quoted(name)} AS {given.sql()}")
        else:
            connection.register(f"__dtk_rows_{number}", given)
            connection.execute(f'CREATE TEMP VIEW {quoted(name)} AS SELECT * FROM "__dtk_rows_{number}"')


def _shut_in(connection: duckdb.DuckDBPyConnection, rows: Mapping[str, Rows]) -> None:
    paths = [path for given in rows.values() if isinstance(given, ParquetRows | LocalFiles) for path in given.paths]
    connection.execute(f"SET allowed_paths = [{', '.join(map(text_of, paths))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].split("Error: ", 1)[-1].strip().rstrip(".")
