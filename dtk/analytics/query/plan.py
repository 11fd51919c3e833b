"""What a query is: SQL for some chunks, SQL that merges parts, and SQL that finishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from dtk.analytics.query.engine import opened, run_sql
from dtk.analytics.query.reading import ROW, bind_table

__all__ = ["Query", "Schemas", "Stage", "empty_data", "is_idle", "merged", "run_locally", "run_partial", "schemas_of"]


@dataclass(frozen=True)
class Stage:
    """One pass over the data.

    Parameters
    ----------
    name : str
        Of the table that later stages and the finish find the result in.
    partial : str or None
        SELECT over ``data``, once, and over the tables of earlier stages; None to read nothing, and settle alone.
    merge : str
        SELECT over ``parts``, which are several results of `partial` or of itself, to the same columns.
    settle : str, optional
        SELECT over ``parts``, which are all of them, merged, and over the tables of earlier stages.
    needs : str, optional
        SELECT over the tables of earlier stages: if it finds nothing, nothing is read.
    """

    name: str
    partial: str | None
    merge: str = "SELECT * FROM parts"
    settle: str | None = None
    needs: str | None = None


@dataclass(frozen=True)
class Query:
    """A query in parts.

    Parameters
    ----------
    columns : tuple of str
        Columns of the data that are read.
    stages : tuple of Stage
        At least one.
    finish : str
        SELECT over the tables of the stages, which is the result.
    tables : mapping of str to pa.Table
        Small tables that each part may read by name, too.
    rows : bool
        Whether ``data`` has the number of each row, too, in the column `ROW`.
    keys : tuple of str
        Columns of the first stage's partial by which its rows can be dealt to partitions of the result: each
        partition is merged and finished by itself. None by default: the result is one partition.
    spread : str, optional
        SELECT over ``data`` of `columns`, and of the keys that rows are dealt out by where one row a group does not say
        all; partitions then run all stages on their own rows.
    num_global : int
        How many of the first stages are about all the data, and not about a group.
    """

    columns: tuple[str, ...]
    stages: tuple[Stage, ...]
    finish: str
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    rows: bool = False
    keys: tuple[str, ...] = ()
    spread: str | None = None
    num_global: int = 0


@dataclass(frozen=True)
class Schemas:
    """Columns and types, known before anything is read.

    Parameters
    ----------
    parts : mapping of str to pa.Schema
        Of what a stage's partial gives.
    tables : mapping of str to pa.Schema
        Of what a stage gives in the end.
    result : pa.Schema
        Of the result.
    """

    parts: Mapping[str, pa.Schema]
    tables: Mapping[str, pa.Schema]
    result: pa.Schema


def schemas_of(query: Query, data: pa.Schema) -> Schemas:
    """Run a query on tables without rows.

    Parameters
    ----------
    query : Query
        Any.
    data : pa.Schema
        Of the data that it will read.

    Returns
    -------
    Schemas
        What each step will give.

    Raises
    ------
    DataError
        If DuckDB refuses the query.
    """
    parts: dict[str, pa.Schema] = {}
    tables: dict[str, pa.Schema] = {}
    with opened(query.tables) as connection:
        bind_table(connection, empty_data(query, data))
        for stage in query.stages:
            if stage.partial is not None:
                parts[stage.name] = run_sql(connection, stage.partial).schema
                connection.register("parts", parts[stage.name].empty_table())
                run_sql(connection, stage.merge)
            found = parts[stage.name] if stage.settle is None else run_sql(connection, stage.settle).schema
            tables[stage.name] = found
            connection.register(stage.name, found.empty_table())
        return Schemas(parts, tables, run_sql(connection, query.finish).schema)


def empty_data(query: Query, data: pa.Schema) -> pa.Table:
    """Return what a query reads, without rows.

    Parameters
    ----------
    query : Query
        Any.
    data : pa.Schema
        Of all columns.

    Returns
    -------
    pa.Table
        With the columns that it needs.
    """
    fields = [data.field(name) for name in query.columns] + [pa.field(ROW, pa.int64())] * query.rows
    return pa.schema(fields).empty_table()


def is_idle(stage: Stage, tables: Mapping[str, pa.Table]) -> bool:
    """Tell whether a stage has nothing to read.

    Parameters
    ----------
    stage : Stage
        Which.
    tables : mapping of str to pa.Table
        Those of earlier stages.

    Returns
    -------
    bool
        True if what it needs is not there.
    """
    if stage.needs is None:
        return False
    with opened(tables) as connection:
        return not run_sql(connection, f"SELECT 1 FROM ({stage.needs}) LIMIT 1").num_rows


def run_partial(stage: Stage, data: pa.Table, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Run a stage's partial on a table.

    Parameters
    ----------
    stage : Stage
        Which.
    data : pa.Table
        The rows.
    tables : mapping of str to pa.Table
        What it may read beside.

    Returns
    -------
    pa.Table
        A part.
    """
    if stage.partial is None:
        return pa.table({})
    with opened(tables) as connection:
        bind_table(connection, data.slice(0, 0) if is_idle(stage, tables) else data)
        return run_sql(connection, stage.partial)


def merged(stage: Stage, parts: list[pa.Table], tables: Mapping[str, pa.Table], *, is_last: bool) -> pa.Table:
    """Merge parts of a stage.

    Parameters
    ----------
    stage : Stage
        Which.
    parts : list of pa.Table
        At least one, each without two rows of one group; none for a stage that reads nothing.
    tables : mapping of str to pa.Table
        What settling may read beside.
    is_last : bool
        Whether these are all of them: they are settled, too.

    Returns
    -------
    pa.Table
        A part, or the stage's table.
    """
    with opened(tables) as connection:
        table = parts[0] if parts else pa.table({})
        if len(parts) > 1 and stage.partial is not None:
            connection.register("parts", pa.concat_tables(parts))
            table = run_sql(connection, stage.merge).cast(parts[0].schema)
        if is_last and stage.settle is not None:
            if stage.partial is not None:
                connection.register("parts", table)
            table = run_sql(connection, stage.settle)
        return table


def run_locally(query: Query, data: pa.Table, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Run a query on rows that are here.

    Parameters
    ----------
    query : Query
        Any.
    data : pa.Table
        With the columns that it needs.
    tables : mapping of str to pa.Table
        Of the stages that are done.

    Returns
    -------
    pa.Table
        The result.
    """
    tables = dict(tables)
    for stage in query.stages:
        if stage.name not in tables:
            tables[stage.name] = merged(stage, [run_partial(stage, data, tables)], tables, is_last=True)
    with opened(tables) as connection:
        return run_sql(connection, query.finish)
