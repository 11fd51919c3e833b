"""What a task reads: some chunks of a source as the table ``data``, by DuckDB's own reader where that can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dtk.analytics.query.engine import quoted, text_of
from dtk.sources import ParquetSource, Source
from dtk.sources.kept_files import unchanged

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["ROW", "bind_chunks", "bind_table", "is_read_by_duckdb"]

ROW: Final = "dtk row"
"""The column that numbers the rows of the data, where a query asks for it."""

_FILES: Final = "dtk files"
_ROW_BITS: Final = 40


def is_read_by_duckdb(source: Source, columns: Sequence[str]) -> bool:
    """Tell whether DuckDB reads the files of a source as dtk would.

    Parameters
    ----------
    source : Source
        Any.
    columns : sequence of str
        Those that are needed.

    Returns
    -------
    bool
        False for remote files, expressions, and types that are only in Arrow's own metadata.
    """
    if not isinstance(source, ParquetSource) or source.filesystem is not None:
        return False
    if any(set(path) & set("*?[") for path in (source.root, *source.names)):  # it would take them for patterns
        return False
    folded = [name.lower() for name in source.schema.names]  # DuckDB does not tell "a" from "A"
    types = [source.schema.field(name).type for name in columns]
    return len(set(folded)) == len(folded) and all(map(_is_plain, types))


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_time = pa.types.is_date32(kind) or (pa.types.is_timestamp(kind) and kind.unit in ("us", "ns"))
    return is_number or is_text or is_time or pa.types.is_boolean(kind) or pa.types.is_decimal128(kind)


@contextmanager
def bind_chunks(
    connection: DuckDBPyConnection, source: Source, group: tuple[int, int], columns: Sequence[str], *, rows: bool
) -> Iterator[None]:
    """Let queries read some chunks as ``data``.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        An open one.
    source : Source
        Where the chunks are.
    group : (int, int)
        The first chunk, and the one after the last.
    columns : sequence of str
        What ``data`` has.
    rows : bool
        Whether it has the column `ROW`, too.

    Yields
    ------
    None
        Meanwhile ``data`` is there; it may be read once.

    Raises
    ------
    DataError
        If a file was changed or is damaged.
    """
    with ExitStack() as stack:
        if is_read_by_duckdb(source, columns):
            assert isinstance(source, ParquetSource)
            _bind_files(connection, source, group, columns, rows=rows, stack=stack)
        else:
            bind_table(connection, _stream(source, group, columns, rows=rows))
        yield


def bind_table(connection: DuckDBPyConnection, table: Any) -> None:
    """Let queries read a table as ``data``.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        An open one.
    table : pyarrow.Table or pyarrow.RecordBatchReader
        The rows.
    """
    connection.register("data", table)


def _stream(source: Source, group: tuple[int, int], columns: Sequence[str], *, rows: bool) -> pa.RecordBatchReader:
    schema = pa.schema([source.schema.field(name) for name in columns])
    if rows:
        schema = schema.append(pa.field(ROW, pa.int64()))
    first_rows = _first_rows(source) if rows else None

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in range(*group):
            table = source.read(chunk, list(columns))
            if first_rows is not None:
                numbers = np.arange(first_rows[chunk], first_rows[chunk] + table.num_rows)
                table = table.append_column(ROW, pa.array(numbers))
            yield from table.cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _first_rows(source: Source) -> np.ndarray:
    """Return the number of the first row of each chunk; numbers with gaps where the rows are not counted."""
    if source.chunk_rows is None:
        return np.arange(source.num_chunks, dtype=np.int64) << _ROW_BITS
    return np.asarray(np.cumsum(source.chunk_rows) - source.chunk_rows, np.int64)


def _bind_files(
    connection: DuckDBPyConnection,
    source: ParquetSource,
    group: tuple[int, int],
    columns: Sequence[str],
    *,
    rows: bool,
    stack: ExitStack,
) -> None:
    """Make a view over the files: those that are read whole together, and ranges of rows of the others."""
    chunks = np.arange(*group)
    of_directories = [name for name in columns if name in source.hive]
    stored = [quoted(name) for name in columns if name not in source.hive]
    named = bool(of_directories or rows)
    files, starts, whole, parts = [], [], [], []
    for file in np.unique(source.file_of_chunk[chunks]):
        path = source.paths[file]
        stack.enter_context(unchanged(path, source.versions[file]))
        mine = chunks[source.file_of_chunk[chunks] == file]
        footer = pq.read_metadata(path)
        ends = np.cumsum([0] + [footer.row_group(number).num_rows for number in range(footer.num_row_groups)])
        wanted = [
            (int(ends[source.row_group[chunk]]), int(ends[source.row_group[chunk] + source.num_groups[chunk]]))
            for chunk in mine
        ]
        files.append(path)
        starts.append(int(file) << _ROW_BITS)
        if sum(stop - start for start, stop in wanted) == ends[-1]:
            whole.append(path)
        else:
            parts += [(path, start, stop) for start, stop in _joined(wanted)]
    extra = ["filename"] * named + ["file_row_number"] * rows
    chosen = ", ".join([*stored, *extra]) or "1 AS one"
    options = f"hive_partitioning = false, filename = {named}, file_row_number = true"
    selects = []
    if whole:
        listed = ", ".join(map(text_of, whole))
        selects.append(f"SELECT {chosen} FROM read_parquet([{listed}], {options})")
    selects += [
        f"SELECT {chosen} FROM read_parquet({text_of(path)}, {options})"
        f" WHERE file_row_number >= {start} AND file_row_number < {stop}"
        for path, start, stop in parts
    ]
    union = " UNION ALL ".join(selects)
    if named:
        numbers = np.unique(source.file_of_chunk[chunks])
        facts = {"filename": files, "dtk first": starts}
        facts |= {name: source.hive[name].take(pa.array(numbers)) for name in of_directories}
        connection.register(_FILES, pa.table(facts))
        listed = ", ".join(
            [f"files.{quoted(name)}" if name in source.hive else f"rows.{quoted(name)}" for name in columns]
            + [f'rows.file_row_number + files."dtk first" AS {quoted(ROW)}'] * rows
        )
        union = f"SELECT {listed} FROM ({union}) AS rows JOIN {quoted(_FILES)} AS files USING (filename)"
    connection.execute(f"CREATE TEMP VIEW data AS {union}")


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that follow each other."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined
