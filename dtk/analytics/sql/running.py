"""Make a lazy Dask DataFrame of a plan."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dtk.analytics.sql.answers import answer_schema, frame_of
from dtk.analytics.sql.filters import compares_floats
from dtk.analytics.sql.planning import QueryPlan
from dtk.analytics.sql.sandbox import Limits, LocalFiles, Rows, run_sql
from dtk.analytics.sql.stages import PARTS, Stage
from dtk.analytics.sql.streams import ChunkStream, readable_rows
from dtk.errors import DataError
from dtk.runtime import mapped_inside, task_place
from dtk.sources import TableSource, chunk_groups, schema_of
from dtk.sources.schema import table_of_frame
from dtk.statistics.scan import groups_wanted

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pandas as pd

__all__ = ["lazy_frame"]

FAN_IN: Final = 8
LEAST_GROUP_NBYTES: Final = 8 * 2**20  # in memory: a task for less is not worth its cost
ROWS_GROUP_NBYTES: Final = 128 * 2**20  # what goes into a partition of rows


def lazy_frame(plan: QueryPlan, limits: Limits) -> dd.DataFrame:
    """Make the answer of a plan, lazily.

    Parameters
    ----------
    plan : QueryPlan
        The plan.
    limits : Limits
        For DuckDB.

    Returns
    -------
    dask.dataframe.DataFrame
        Of known types. One partition; where rows are the answer, one for each group of chunks.
    """
    import dask.dataframe as dd

    graph = _Graph(plan, limits)
    parts = graph.whole() if plan.way == "whole" else graph.distributed()
    meta = frame_of(graph.schema.empty_table(), graph.schema)
    frame: dd.DataFrame = dd.from_delayed(parts, meta=meta, verify_meta=False, prefix="sql")
    return frame


class _Sealed:
    """Something that Dask does not look into: a source, or a frame that a task computes."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True)
class _Held:
    """A table on its way to a task."""

    source: Any
    schema: pa.Schema
    kinds: dict[str, str]
    parts: tuple[Any, ...] | None  # the partitions of a frame, delayed
    compares_floats: bool

    def rows(self, group: tuple[int, int] | None = None) -> Rows:
        """Return some chunks, or all."""
        chunks = group or (0, self.source.num_chunks)
        return readable_rows(self.source, chunks, self.schema, self.kinds, compares_floats=self.compares_floats)


class _Graph:
    """The tasks of one query."""

    def __init__(self, plan: QueryPlan, limits: Limits) -> None:
        self.plan, self.limits, self.schema = plan, limits, answer_schema(plan.bound.output)
        self.names = {name.lower(): name for name in plan.bound.tables}
        self.compares_floats = compares_floats(plan.bound.statement.node, plan.bound.tables)
        self.token = uuid.uuid4().hex[:8]
        self.count = self.passes = 0
        self.sources: dict[str, Any] = {}
        self.sent: dict[str, Any] = {}

    def whole(self) -> list[Any]:
        """Give one task all tables, to be read there."""
        names = list(self.plan.bound.tables)
        held = [self._held(name, computes=True) for name in names]
        run = _Run(self.plan.bound.statement.text, tuple(names), self.schema, self.limits)
        return [self._task("sql-whole", _run_whole, self._put(run), held)]

    def distributed(self) -> list[Any]:
        """Make the tasks of all stages, and of the finish."""
        for stage in self.plan.stages:
            parts = self._scans(stage)
            if stage.merge is None:
                return parts
            self.sent[stage.name] = self._merged(stage, parts)
        names = list(self.plan.beside)
        given = [self._sent(name) for name in names]
        assert self.plan.finish is not None
        run = _Run(self.plan.finish, tuple(names), self.schema, self.limits)
        return [self._task("sql-finish", _finish, self._put(run), given)]

    def _task(self, label: str, function: Callable[..., Any], *arguments: Any) -> Any:
        from dask.delayed import delayed

        self.count += 1
        run = delayed(function, pure=False, traverse=False)
        return run(*arguments, dask_key_name=f"{label}-{self.token}-{self.count}")

    def _put(self, value: Any) -> Any:
        """Put a value into the graph, once for all tasks that need it, and closed to Dask."""
        from dask.delayed import delayed

        self.count += 1
        return delayed(_Sealed(value), name=f"sql-shared-{self.token}-{self.count}", traverse=False)

    def _held(self, name: str, *, computes: bool = False) -> Any:
        """Put a table into the graph, once."""
        if name not in self.sources:
            bound = self.plan.bound
            table, schema = bound.tables[name], bound.schema(name)
            data, parts = table.narrowed(schema.names), None
            if computes and not table.is_source:
                parts = tuple(data.optimize().to_delayed())
            stored = None if table.is_source else schema_of(data)
            kinds = {column: bound.kinds[name][column] for column in schema.names}
            held = _Held(data if stored is None else stored, schema, kinds, parts, self.compares_floats)
            self.sources[name] = self._put(held)
        return self.sources[name]

    def _sent(self, name: str) -> Any:
        """Return a table that a task gets whole, read once, or the answer of a stage."""
        if name not in self.sent:
            own = self.names[name]
            if self.plan.bound.tables[own].is_source:
                self.sent[name] = self._task("sql-read", _read_whole, self._held(own), self.limits)
            else:
                parts = self._partitions(own)
                tables = [self._task("sql-read", _table_of_part, self._held(own), part) for part in parts]
                self.sent[name] = self._task("sql-read", _joined, tables)
        return self.sent[name]

    def _partitions(self, name: str) -> list[Any]:
        """Return a frame's partitions; each pass computes them anew, or Dask would keep them for the next one."""
        from dask.graph_manipulation import clone

        frame = self.plan.bound.tables[name].narrowed(self.plan.bound.columns[name])
        parts: list[Any] = frame.optimize().to_delayed()
        self.passes += 1
        return parts if self.passes == 1 else list(clone(*parts, seed=self.passes))

    def _scans(self, stage: Stage) -> list[Any]:
        """Make a task for each group of chunks, or each partition."""
        name = self.names[stage.table]
        held, beside = self._held(name), [self._sent(one) for one in stage.beside]
        answer = self.schema if stage.merge is None else None
        scan = self._put(_Scan(stage.table, stage.scan, stage.beside, answer, self.limits))
        if self.plan.bound.tables[name].is_source:
            groups = self._groups(name, is_rows=stage.merge is None)
            return [self._task("sql-scan", _scan_chunks, scan, held, group, beside) for group in groups]
        return [self._task("sql-scan", _scan_part, scan, held, part, beside) for part in self._partitions(name)]

    def _groups(self, name: str, *, is_rows: bool) -> list[tuple[int, int]]:
        """Cut a source into groups of chunks, few enough for the client, and worth a task each."""
        source = self.plan.bound.tables[name].data
        nbytes = self.plan.bound.nbytes(name)
        nbytes = int(source.chunk_nbytes.sum()) if nbytes is None else nbytes
        wanted = max(1, min(groups_wanted(), nbytes // LEAST_GROUP_NBYTES))
        if is_rows:
            wanted = max(wanted, -(-nbytes // ROWS_GROUP_NBYTES))
        return chunk_groups(source, wanted) or [(0, 0)]

    def _merged(self, stage: Stage, parts: list[Any]) -> Any:
        """Merge as a tree."""
        while len(parts) > 1:
            starts = range(0, len(parts), FAN_IN)
            parts = [
                self._task("sql-merge", _merge, stage.merge, parts[at : at + FAN_IN], self.limits) for at in starts
            ]
        return parts[0]


@dataclass(frozen=True)
class _Scan:
    """What tasks do with a group of chunks, or with a partition."""

    table: str
    query: str
    names: tuple[str, ...]  # of the tables beside it
    answer: pa.Schema | None  # where the rows are the answer
    limits: Limits

    def run(self, rows: Rows, beside: list[pa.Table]) -> Any:
        given = {self.table: rows, **dict(zip(self.names, beside, strict=True))}
        found = run_sql(self.query, given, what="the query", limits=self.limits)
        return found if self.answer is None else frame_of(found, self.answer)


def _scan_chunks(scan: _Sealed, held: _Sealed, group: tuple[int, int], beside: list[pa.Table]) -> Any:
    return scan.value.run(held.value.rows(group), beside)


def _scan_part(scan: _Sealed, held: _Sealed, part: pd.DataFrame, beside: list[pa.Table]) -> Any:
    return scan.value.run(_table_of_part(held, part), beside)


def _merge(query: str, parts: list[pa.Table], limits: Limits) -> pa.Table:
    rows = {PARTS: pa.concat_tables(parts)}
    return run_sql(query, rows, what="the merge of parts", limits=limits).cast(parts[0].schema)


@dataclass(frozen=True)
class _Run:
    """A query to be run once."""

    query: str
    names: tuple[str, ...]
    answer: pa.Schema
    limits: Limits


def _finish(run: _Sealed, given: list[pa.Table]) -> pd.DataFrame:
    value: _Run = run.value
    rows = dict(zip(value.names, given, strict=True))
    return frame_of(run_sql(value.query, rows, what="the query", limits=value.limits), value.answer)


def _read_whole(held: _Sealed, limits: Limits) -> pa.Table:
    rows = held.value.rows()
    if isinstance(rows, ChunkStream):
        return rows.table()
    return run_sql("SELECT * FROM rows", {"rows": rows}, what="the read of a table", limits=limits)


def _table_of_part(held: _Sealed, part: pd.DataFrame) -> pa.Table:
    """Turn a partition into a table of the types that DuckDB gets; for a frame, the source is its own types."""
    try:
        return table_of_frame(part, held.value.source).cast(held.value.schema)
    except (pa.ArrowException, TypeError, KeyError) as error:
        reason = "; ".join(map(str, error.args))
        raise DataError(f"a partition does not fit the frame's types: {reason}; use astype") from error


def _joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables)


def _run_whole(run: _Sealed, held: list[_Sealed]) -> pd.DataFrame:
    """Run a query on all rows: sources are read here as the query goes on, frames written to this disk before."""
    value: _Run = run.value
    directory = tempfile.mkdtemp(prefix="dtk-sql-", dir=value.limits.spill_directory or task_place().directory)
    try:
        rows = {name: _local_rows(one, directory) for name, one in zip(value.names, held, strict=True)}
        return frame_of(run_sql(value.query, rows, what="the query", limits=value.limits, is_alone=True), value.answer)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _local_rows(held: _Sealed, directory: str) -> Rows:
    """Make a table readable as often as a query wants, by several threads."""
    value: _Held = held.value
    if value.parts is not None:
        paths = mapped_inside(partial(_write_part, held, directory), value.parts)
        return LocalFiles(tuple(paths), tuple(value.kinds.items()))
    rows = value.rows()
    if not isinstance(rows, ChunkStream):
        return rows
    if isinstance(value.source, TableSource):
        return rows.table()
    path = _new_file(directory)
    with pq.ParquetWriter(path, value.schema, compression="lz4", write_statistics=False) as writer:  # see filters.py
        for batch in rows.batches():
            writer.write_batch(batch)
    return LocalFiles((path,), tuple(value.kinds.items()))


def _write_part(held: _Sealed, directory: str, part: pd.DataFrame) -> str:
    path = _new_file(directory)
    pq.write_table(_table_of_part(held, part), path, compression="lz4", write_statistics=False)
    return path


def _new_file(directory: str) -> str:
    return os.path.join(directory, f"{uuid.uuid4().hex}.parquet")
