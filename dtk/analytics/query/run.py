"""Queries in parts as lazy DataFrames: a graph of tasks that nothing is computed for until it is asked.

A result of one partition::

    chunks ── partial ─┐
    chunks ── partial ─┼─ merge ─┐
    chunks ── partial ─┘         ├─ merge and settle ── (the next stage) ── finish
    chunks ── partial ── merge ──┘

A result of many groups is partitioned by a hash of its keys; what each task found is dealt out::

    chunks ── partial ── deal ─┬─ merge and finish: partition 0
    chunks ── partial ── deal ─┴─ merge and finish: partition 1
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from dtk.analytics.query.engine import opened, quoted, run_sql
from dtk.analytics.query.frames import frame_of
from dtk.analytics.query.plan import Query, Schemas, empty_data, is_idle, merged, run_locally, schemas_of
from dtk.analytics.query.reading import ROW, bind_chunks, bind_table
from dtk.sources import ParquetSource, Source, chunk_groups, readable
from dtk.sources.schema import arrow_schema, row_nbytes, table_of_frame
from dtk.sources.source import as_source
from dtk.statistics.map_reduce import groups_wanted

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pandas as pd

__all__ = ["Data", "data_of", "lazy_frame"]

FAN_IN: Final = 8
_DEALT_NBYTES: Final = 128 << 20  # of the rows that a task deals out at once
_ROW_BITS: Final = 40


@dataclass(frozen=True)
class Data:
    """Data that queries read.

    Parameters
    ----------
    source : Source or None
        What is read chunk by chunk; None for a Dask DataFrame that must be computed.
    frame : dask.dataframe.DataFrame or None
        The latter.
    schema : pa.Schema
        Its columns.
    """

    source: Source | None
    frame: Any
    schema: pa.Schema


def data_of(data: Any, columns: Sequence[str] | None = None) -> Data:
    """Look at data without reading it.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str, path or Source
        A table. A path may lead to whatever `dtk.open` opens as a table.
    columns : sequence of str, optional
        Those that will be read, so that no others are.

    Returns
    -------
    Data
        For `lazy_frame`.

    Raises
    ------
    SourceError
        If it is no table.
    DataError
        If files are missing or damaged.
    """
    import os

    import dask.dataframe as dd

    if isinstance(data, Data):
        return data
    if isinstance(data, (str, os.PathLike)):
        from dtk.sources import open as open_data

        data = open_data(os.fspath(data))
    if isinstance(data, dd.DataFrame) and columns is not None:
        data = data[list(columns)]
    found = readable(data)
    if isinstance(found, dd.DataFrame):
        return Data(None, found, arrow_schema(found))
    source = found if isinstance(found, Source) else as_source(found)
    return Data(source, None, source.schema)


def lazy_frame(
    data: Data,
    query: Query,
    *,
    partitions: int = 1,
    never_missing: Collection[str] = (),
    types: Mapping[str, pa.DataType] | None = None,
    label: str = "query",
) -> dd.DataFrame:
    """Make a lazy DataFrame of a query.

    Parameters
    ----------
    data : Data
        What it reads.
    query : Query
        What is asked.
    partitions : int
        Of the result; more than one needs the query's `keys`.
    never_missing : collection of str
        Columns of the result that have a value in every row, see `frame_of`.
    types : mapping of str to pa.DataType, optional
        Types of columns of the result that DuckDB does not know, such as times with their zone.
    label : str
        Start of the tasks' names on the dashboard.

    Returns
    -------
    dask.dataframe.DataFrame
        Nothing is computed yet.

    Raises
    ------
    DataError
        If DuckDB refuses the query.
    """
    import dask.dataframe as dd

    schemas = schemas_of(query, data.schema)
    fields = [field.with_type((types or {}).get(field.name, field.type)) for field in schemas.result]
    schemas = replace(schemas, result=pa.schema(fields))
    graph = _Graph(data, query, schemas, frozenset(never_missing), label)
    results = graph.in_one() if partitions == 1 else graph.in_partitions(partitions)
    meta = frame_of(schemas.result.empty_table(), never_missing)
    frame: dd.DataFrame = dd.from_delayed(results, meta=meta, verify_meta=False, prefix=label)
    return frame


class _Graph:
    """Builds the tasks of one query."""

    def __init__(self, data: Data, query: Query, schemas: Schemas, never_missing: frozenset[str], label: str) -> None:
        import uuid

        self.data, self.query, self.schemas = data, query, schemas
        self.never_missing, self.label = never_missing, label
        self.token = uuid.uuid4().hex[:8]
        self._num_tasks = 0
        self._clones = 0
        self.shared = self.task(
            "held", partial(_hold, _Shared(data.source, data.schema, query, schemas, never_missing))
        )

    def task(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Make a task with a speaking name."""
        from dask.delayed import delayed

        assert all(not isinstance(argument, _Shared) for argument in arguments)  # Dask would look into it
        self._num_tasks += 1
        key = f"{self.label}-{name}-{self.token}-{self._num_tasks}"
        return delayed(function, pure=False, traverse=False)(*arguments, dask_key_name=key)

    def in_one(self) -> list[Any]:
        """Make the tasks of a result of one partition."""
        return [self.task("finish", _finish, self.shared, self._tables(len(self.query.stages)))]

    def in_partitions(self, partitions: int) -> list[Any]:
        """Make the tasks of a result that is dealt out."""
        known = self._tables(self.query.num_global)
        groups = groups_wanted()
        if isinstance(self.data.source, ParquetSource):
            nbytes = row_nbytes(pa.schema([self.data.schema.field(name) for name in self.query.columns]))
            groups = max(groups, int(nbytes * float(np.sum(self.data.source.chunk_rows)) / _DEALT_NBYTES))
        dealt = [self.task("deal", *call, partitions, known) for call in self._calls(_deal, groups)]
        pieces = [[self.task("take", _take, found, number) for found in dealt] for number in range(partitions)]
        return [self.task("finish", _finish_partition, self.shared, mine, known) for mine in pieces]

    def _tables(self, num_stages: int) -> list[Any]:
        """Make the tasks of some stages, one after the other."""
        tables: list[Any] = []
        for number, stage in enumerate(self.query.stages[:num_stages]):
            calls = self._calls(_partial, groups_wanted()) if stage.partial is not None else []
            parts = [self.task(stage.name, *call, number, list(tables)) for call in calls]
            while len(parts) > FAN_IN:
                groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
                parts = [self.task("merge", _merge, self.shared, number, group) for group in groups]
            tables.append(self.task("merge", _settle, self.shared, number, parts, list(tables)))
        return tables

    def _calls(self, function: Callable[..., Any], groups: int) -> list[tuple[Any, ...]]:
        """List the first arguments of the tasks that read: a function, what they share, and their part of the data."""
        if self.data.source is not None:
            found = chunk_groups(self.data.source, groups) or [(0, 0)]
            return [(function, self.shared, group) for group in found]
        parts = self._partitions()
        return [(function, self.shared, (number, part)) for number, part in enumerate(parts)]

    def _partitions(self) -> list[Any]:
        """Return a frame's partitions; each pass computes them anew, or Dask would keep them for the next one."""
        from dask.graph_manipulation import clone

        parts = self.data.frame.optimize().to_delayed()
        self._clones += 1
        return parts if self._clones == 1 else [clone(part, seed=self._clones) for part in parts]


@dataclass(frozen=True)
class _Shared:
    """What all tasks of a query need."""

    source: Source | None
    schema: pa.Schema
    query: Query
    schemas: Schemas
    never_missing: frozenset[str]

    def tables(self, known: Sequence[pa.Table]) -> dict[str, pa.Table]:
        names = [stage.name for stage in self.query.stages[: len(known)]]
        return {**self.query.tables, **dict(zip(names, known, strict=True))}


def _hold(value: Any) -> Any:
    """Keep a value as the result of a task, so that it is sent once."""
    return value


def _partial(shared: _Shared, chunks: Any, number: int, known: list[pa.Table]) -> pa.Table:
    stage, tables = shared.query.stages[number], shared.tables(known)
    schema = shared.schemas.parts[stage.name]
    if is_idle(stage, tables):
        return schema.empty_table()
    assert stage.partial is not None
    return _read(shared, chunks, stage.partial, tables).cast(schema)


def _read(shared: _Shared, chunks: Any, sql: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Run a statement over some chunks, or over a partition with its number."""
    query = shared.query
    with opened(tables) as connection:
        if shared.source is not None and chunks[0] == chunks[1]:
            bind_table(connection, empty_data(query, shared.schema))
            return run_sql(connection, sql)
        if shared.source is not None:
            with bind_chunks(connection, shared.source, chunks, query.columns, rows=query.rows):
                return run_sql(connection, sql)
        number, frame = chunks
        bind_table(connection, _table_of(frame, shared.schema, query, number))
        return run_sql(connection, sql)


def _table_of(frame: pd.DataFrame, schema: pa.Schema, query: Query, number: int) -> pa.Table:
    names = list(query.columns)
    table = table_of_frame(frame[names], pa.schema([schema.field(name) for name in names]))
    if query.rows:
        table = table.append_column(ROW, pa.array((number << _ROW_BITS) + np.arange(len(frame))))
    return table


def _merge(shared: _Shared, number: int, parts: list[pa.Table]) -> pa.Table:
    return merged(shared.query.stages[number], parts, {}, is_last=False)


def _settle(shared: _Shared, number: int, parts: list[pa.Table], known: list[pa.Table]) -> pa.Table:
    stage = shared.query.stages[number]
    return merged(stage, parts, shared.tables(known), is_last=True).cast(shared.schemas.tables[stage.name])


def _finish(shared: _Shared, known: list[pa.Table]) -> pd.DataFrame:
    with opened(shared.tables(known)) as connection:
        result = run_sql(connection, shared.query.finish)
    return frame_of(result.cast(shared.schemas.result), shared.never_missing)


def _deal(shared: _Shared, chunks: Any, partitions: int, known: list[pa.Table]) -> list[pa.Buffer]:
    """Find the groups of some chunks, or select their rows, and deal that out by the hash of the keys."""
    query = shared.query
    sql = query.spread or query.stages[query.num_global].partial
    keys = ", ".join(map(quoted, query.keys))
    found = _read(
        shared, chunks, f'SELECT *, hash({keys}) % {partitions} AS "dtk part" FROM ({sql})', shared.tables(known)
    )
    numbers = found["dtk part"].to_numpy().astype(np.uint16)
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(partitions + 1))
    table = found.drop_columns("dtk part").take(pa.array(order)).combine_chunks()
    return [_packed(table.slice(start, stop - start)) for start, stop in itertools.pairwise(ends)]


def _packed(table: pa.Table) -> pa.Buffer:
    """Write rows as bytes: a slice of a table would be sent with all that it is a slice of."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _take(dealt: list[pa.Buffer], partition: int) -> pa.Buffer:
    return dealt[partition]


def _finish_partition(shared: _Shared, pieces: list[pa.Buffer], known: list[pa.Table]) -> pd.DataFrame:
    query, done = shared.query, shared.tables(known)
    tables = [pa.ipc.open_stream(piece).read_all() for piece in pieces]
    if query.spread is not None:
        result = run_locally(query, pa.concat_tables(tables), done)
    else:
        stage = query.stages[query.num_global]
        done[stage.name] = merged(stage, tables, done, is_last=True)
        with opened(done) as connection:
            result = run_sql(connection, query.finish)
    return frame_of(result.cast(shared.schemas.result), shared.never_missing)
