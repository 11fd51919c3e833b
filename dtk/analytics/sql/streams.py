"""Give DuckDB the rows of a source: as a stream of Arrow batches, or as local Parquet files that it reads itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dtk.analytics.query.engine import quoted, text_of
from dtk.errors import DtkError
from dtk.sources import ParquetSource, Source
from dtk.sources.kept_files import unchanged

__all__ = ["ChunkStream", "ParquetRows", "readable_rows"]

BATCH_ROWS: Final = 131_072
MOST_DIRECTORIES: Final = 64  # of key=value, in one query
_GLOB: Final = frozenset("*?[]{}")


@dataclass
class ChunkStream:
    """Some chunks of a source, to be read as often as they are asked for, by one thread.

    Parameters
    ----------
    source : Source
        What is read.
    chunks : (int, int)
        The first chunk, and the one after the last.
    schema : pyarrow.Schema
        The columns wanted, of the types that DuckDB gets.
    """

    source: Source
    chunks: tuple[int, int]
    schema: pa.Schema
    error: BaseException | None = field(default=None, init=False)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:  # numpydoc ignore=GL08
        reader = pa.RecordBatchReader.from_batches(self.schema, self.batches())
        return reader.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:  # numpydoc ignore=GL08
        return self.schema.__arrow_c_schema__()

    def table(self) -> pa.Table:
        """Read all of it.

        Returns
        -------
        pyarrow.Table
            In memory.
        """
        return pa.Table.from_batches(self.batches(), schema=self.schema)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read chunk by chunk.

        Yields
        ------
        pyarrow.RecordBatch
            Of the schema.
        """
        try:
            for chunk in range(*self.chunks):
                table = self.source.read(chunk, self.schema.names)
                yield from table.cast(self.schema).to_batches(max_chunksize=BATCH_ROWS)
        except (DtkError, pa.ArrowException, OSError) as error:
            self.error = error  # DuckDB would only tell its text
            raise


@dataclass(frozen=True)
class _File:
    """Rows of a Parquet file."""

    path: str
    version: str
    rows: tuple[int, int] | None  # all of them if None
    values: tuple[str | int | None, ...]  # of the columns that its directories name


@dataclass(frozen=True)
class ParquetRows:
    """Row groups of local Parquet files, which DuckDB reads itself, so that filters reach its reader.

    Parameters
    ----------
    files : tuple of _File
        In order.
    columns : tuple of (str, str)
        The columns that lie in the files, and DuckDB's types.
    of_directories : tuple of (str, str)
        Those that the directories name.
    """

    files: tuple[_File, ...]
    columns: tuple[tuple[str, str], ...]
    of_directories: tuple[tuple[str, str], ...]

    @property
    def paths(self) -> list[str]:
        """The files."""
        return [file.path for file in self.files]

    def sql(self) -> str:
        """Write a SELECT of the rows.

        Returns
        -------
        str
            SQL, with all names in quotes.
        """
        parts = []
        for (values, is_whole), files in groupby(self.files, key=lambda file: (file.values, file.rows is None)):
            held = list(files)
            if is_whole:
                parts.append(self._part(held, values, ""))
            else:
                parts += [self._part([file], values, _between(file.rows)) for file in held]
        return " UNION ALL ".join(parts)

    def unchanged(self) -> ExitStack:
        """Refuse files that were changed, before they are read and after.

        Returns
        -------
        contextlib.ExitStack
            To be entered while they are read.
        """
        with ExitStack() as opening:
            for file in self.files:
                opening.enter_context(unchanged(file.path, file.version))
            return opening.pop_all()

    def _part(self, files: Sequence[_File], values: tuple[Any, ...], where: str) -> str:
        named = [f"CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in self.columns]
        named += [
            f"CAST({_literal(value)} AS {kind}) AS {quoted(name)}"
            for (name, kind), value in zip(self.of_directories, values, strict=True)
        ]
        paths = ", ".join(text_of(file.path) for file in files)
        options = "hive_partitioning = false" + (", file_row_number = true" if where else "")
        return f"SELECT {', '.join(named)} FROM read_parquet([{paths}], {options}){where}"


def readable_rows(
    source: Source, chunks: tuple[int, int], schema: pa.Schema, kinds: Mapping[str, str], *, compares_floats: bool
) -> ChunkStream | ParquetRows:
    """Choose how DuckDB gets some chunks.

    Parameters
    ----------
    source : Source
        What is read.
    chunks : (int, int)
        The first chunk, and the one after the last.
    schema : pyarrow.Schema
        The columns wanted.
    kinds : mapping of str to str
        DuckDB's type of each.
    compares_floats : bool
        As `dtk.analytics.sql.filters` tells of the query.

    Returns
    -------
    ChunkStream or ParquetRows
        The second for plain columns of local Parquet files.
    """
    stream = ChunkStream(source, chunks, schema)
    if not isinstance(source, ParquetSource) or source.filesystem is not None or source.as_dictionaries:
        return stream
    if compares_floats and any(map(pa.types.is_floating, schema.types)):
        return stream
    if not all(_is_plain(kind) for kind in schema.types) or _GLOB & set("".join([source.root, *source.names])):
        return stream
    files = _files(source, chunks, [name for name in schema.names if name in source.hive])
    stored = [name for name in schema.names if name not in source.hive]
    if files is None or not stored or len({file.values for file in files}) > MOST_DIRECTORIES:
        return stream
    return ParquetRows(
        tuple(files),
        tuple((name, kinds[name]) for name in stored),
        tuple((name, kinds[name]) for name in schema.names if name in source.hive),
    )


def _files(source: ParquetSource, chunks: tuple[int, int], hive: Sequence[str]) -> list[_File] | None:
    """List the rows of each file that some chunks are; None where row groups are left out, or joined."""
    found = []
    chunk, stop = chunks
    numbers = source.file_of_chunk
    while chunk < stop:
        file = int(numbers[chunk])
        of_file = np.flatnonzero(numbers == file)
        first, last = int(of_file[0]), int(of_file[-1]) + 1
        in_order = np.array_equal(source.row_group[first:last], np.arange(last - first))
        if last - first != len(of_file) or not in_order or (source.num_groups[first:last] != 1).any():
            return None
        end = min(stop, last)
        ends = np.concatenate([[0], np.cumsum(source.chunk_rows[first:last])])
        rows = (int(ends[chunk - first]), int(ends[end - first]))
        is_all = chunk == first and end == last
        values = tuple(source.hive[name][file].as_py() for name in hive)
        found.append(_File(source.root + source.names[file], source.versions[file], None if is_all else rows, values))
        chunk = end
    return found


def _is_plain(kind: pa.DataType) -> bool:
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(is_number or pa.types.is_string(kind) or pa.types.is_date32(kind) or _is_time(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal128(kind) or (pa.types.is_timestamp(kind) and kind.unit == "us"))


def _between(rows: tuple[int, int] | None) -> str:
    return "" if rows is None else f" WHERE file_row_number >= {rows[0]} AND file_row_number < {rows[1]}"


def _literal(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else text_of(value)
