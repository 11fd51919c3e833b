"""Parquet files as a source: one chunk a row group or several joined, known from the footers alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dtk.errors import DataError, FetchError, NotFoundError
from dtk.sources.columns import checked_columns
from dtk.sources.footers import Footer, leaves_of_fields, read_footers
from dtk.sources.hive import hive_schema, hive_table
from dtk.sources.kept_files import LEAST_FOOTERS_NBYTES, kept_nbytes, opened_file, parsed_nbytes, unchanged
from dtk.sources.parquet_facts import parquet_changes, parquet_facts, parquet_identity
from dtk.sources.remote import Fetch, FetchCost
from dtk.sources.remote_files import remote_files
from dtk.sources.remote_parquet import RowGroupBytes, fetch_cost, start_row_groups
from dtk.sources.row_groups import RowGroups

__all__ = ["ParquetSource"]

_CODES: Final = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, eq=False, repr=False)
class ParquetSource:
    """The row groups of Parquet files, read one at a time; or a few, see `dtk.sources.joining`.

    Made by `from_files`. It pickles as file names and a few compact arrays; a file is open only while it is
    read.

    Parameters
    ----------
    root : str
        What all file names start with.
    names : tuple of str
        The rest of each file's name.
    versions : tuple of str
        Size and time of each file, to notice that one was changed.
    filesystem : fsspec.AbstractFileSystem or None
        Where the files lie; None for local files.
    schema : pa.Schema
        The columns that it yields.
    identity : str
        Hash of names, sizes, times and footers.
    file_of_chunk : np.ndarray
        int32 [chunks].
    row_group : np.ndarray
        int32 [chunks]: the row group within its file; the first one of a chunk of several.
    num_groups : np.ndarray
        int32 [chunks]: how many row groups of the file, following each other, are the chunk.
    chunk_rows : np.ndarray
        int64 [chunks].
    chunk_nbytes : np.ndarray
        int64 [chunks]: bytes on disk of the columns that it yields.
    decoded_nbytes : int
        Bytes before compression of the columns that it yields, all chunks together.
    nullable : frozenset of str
        Integer and boolean columns that may hold nulls.
    hive : mapping of str to pa.Array
        For each column that the directories' names hold, its value in each file.
    footer_nbytes : np.ndarray
        int64 [files]: what each footer takes in memory.
    as_dictionaries : tuple of str
        Columns of text that are read as codes of a dictionary.
    remote_cost : FetchCost or None
        What fetching the chunks takes if all footers are kept; None for local files.
    leaves : mapping of str to list of int
        Of remote files: for each column that lies in them, the numbers of Parquet's columns that it consists of.
    footers_limit_nbytes : int
        Bytes of all footers that a process may keep from one read to the next.
    """

    root: str
    names: tuple[str, ...]
    versions: tuple[str, ...]
    filesystem: Any
    schema: pa.Schema
    identity: str
    file_of_chunk: npt.NDArray[np.int32]
    row_group: npt.NDArray[np.int32]
    num_groups: npt.NDArray[np.int32]
    chunk_rows: npt.NDArray[np.int64]
    chunk_nbytes: npt.NDArray[np.int64]
    decoded_nbytes: int
    nullable: frozenset[str]
    hive: Mapping[str, pa.Array]
    footer_nbytes: npt.NDArray[np.int64]
    as_dictionaries: tuple[str, ...] = ()
    remote_cost: FetchCost | None = None
    leaves: Mapping[str, list[int]] = field(default_factory=dict)
    footers_limit_nbytes: int = LEAST_FOOTERS_NBYTES

    @classmethod
    def from_files(
        cls, paths: Sequence[str], *, columns: Sequence[str] | None = None, filesystem: Any = None
    ) -> ParquetSource:
        """Read the footers, and nothing else.

        Parameters
        ----------
        paths : sequence of str
            Files, in the order of their rows.
        columns : sequence of str, optional
            What it yields, in order; all columns if None.
        filesystem : fsspec.AbstractFileSystem, optional
            Where the files lie; None for local files.

        Returns
        -------
        ParquetSource
            Without chunks for row groups that have no rows.

        Raises
        ------
        ArgumentError
            If a column is not there.
        NotFoundError
            If a file is not there.
        DataError
            If a file is no whole Parquet file, or the files' columns differ.
        """
        return cls.from_footers(read_footers(paths, filesystem=filesystem), columns=columns, filesystem=filesystem)

    @classmethod
    def from_footers(
        cls,
        footers: Sequence[Footer],
        *,
        columns: Sequence[str] | None = None,
        hive: Mapping[str, pa.Array] | None = None,
        filesystem: Any = None,
        row_groups: Sequence[Sequence[int] | None] | None = None,
    ) -> ParquetSource:
        """Make a source of footers that were read before.

        Parameters
        ----------
        footers : sequence of Footer
            One a file, in the order of their rows.
        columns : sequence of str, optional
            What it yields, in order; all columns if None.
        hive : mapping of str to pa.Array, optional
            For each column that the directories' names hold, its value in each file.
        filesystem : fsspec.AbstractFileSystem, optional
            Where the files lie; None for local files.
        row_groups : sequence, optional
            For each file, the row groups wanted, None for all.

        Returns
        -------
        ParquetSource
            Without chunks for row groups that have no rows.

        Raises
        ------
        ArgumentError
            If a column is not there.
        """
        # A column in the file itself goes before one of the same name in the directories, as in Dask.
        hive = {name: values for name, values in (hive or {}).items() if name not in footers[0].schema.names}
        schema = hive_schema(footers[0].schema, hive)
        kept = checked_columns(columns, schema.names)
        schema = pa.schema([schema.field(name) for name in kept], metadata=schema.metadata)
        groups = RowGroups.chosen(footers, [name for name in kept if name not in hive], row_groups)
        cost, leaves = None, {}
        if filesystem is not None:
            parts = dict(zip(footers[0].schema.names, leaves_of_fields(footers[0].schema), strict=True))
            leaves = {name: parts[name] for name in kept if name not in hive}
            cost = fetch_cost(remote_files(filesystem), footers, kept, groups.of_files)
        of_directories = {name for name, values in hive.items() if values.null_count}
        nullable = frozenset(of_directories.union(*(footer.nullable for footer in footers)))
        paths = [footer.path for footer in footers]
        root = os.path.commonprefix(paths)  # noqa: RUF071 - characters are what is to be saved
        return cls(
            root=root,
            names=tuple(path[len(root) :] for path in paths),
            versions=tuple(f"{footer.nbytes}:{footer.version}" for footer in footers),
            filesystem=filesystem,
            schema=schema,
            identity=parquet_identity(footers, schema, np.concatenate([groups.file, groups.number])),
            file_of_chunk=groups.file,
            row_group=groups.number,
            num_groups=np.ones(len(groups.number), np.int32),
            chunk_rows=groups.num_rows,
            chunk_nbytes=groups.nbytes,
            decoded_nbytes=groups.decoded_nbytes,
            nullable=nullable & set(kept),
            hive=hive,
            remote_cost=cost,
            leaves=leaves,
            footer_nbytes=np.array([parsed_nbytes(footer) for footer in footers], np.int64),
        )

    def with_dictionaries(self) -> ParquetSource:
        """Read text as codes of a dictionary, which takes half the time where values repeat.

        Returns
        -------
        ParquetSource
            Of the same rows and identity. The dictionaries of two chunks may differ.
        """
        found = tuple(field.name for field in self.schema if _is_text(field.type) and field.name not in self.hive)
        fields = [field.with_type(_CODES) if field.name in found else field for field in self.schema]
        return replace(self, schema=pa.schema(fields, metadata=self.schema.metadata), as_dictionaries=found)

    @property
    def num_chunks(self) -> int:
        """Number of row groups that have rows, or of what they are joined to."""
        return len(self.chunk_rows)

    @property
    def kept_nbytes(self) -> int:
        """Bytes of footers that a process keeps from one read to the next."""
        return kept_nbytes(self.footer_nbytes, self.footers_limit_nbytes)

    @property
    def paths(self) -> list[str]:
        """The files, in the order of their rows."""
        return [self.root + name for name in self.names]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a saved state tells of it, see `dtk.sources.facts`."""
        return parquet_facts(self)

    def changes(self, facts: Mapping[str, Any]) -> list[str]:
        """Say how it differs from what it was.

        Parameters
        ----------
        facts : mapping
            Its facts then.

        Returns
        -------
        list of str
            One for each difference.
        """
        return parquet_changes(self, facts)

    def fetch_cost(self, columns: Sequence[str] | None = None) -> FetchCost | None:
        """Return what fetching the chunks takes.

        Parameters
        ----------
        columns : sequence of str, optional
            Not looked at: the cost is that of all of the source's columns. Make a source of those that are read.

        Returns
        -------
        FetchCost or None
            None for local files.
        """
        are_kept = self.footer_nbytes.sum() <= self.footers_limit_nbytes
        return self.remote_cost if self.remote_cost is None or are_kept else self.remote_cost.with_footers()

    def fetch(self, chunk: int, columns: Sequence[str] | None = None) -> Fetch:
        """Start to fetch what `read` will need of a remote file.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which columns; all of the source's if None.

        Returns
        -------
        list of concurrent.futures.Future
            To be given to `read`, or cancelled; nothing for local files.
        """
        if self.filesystem is None:
            return []
        path, version = self._place(chunk)
        groups, (_, stored) = self._groups(chunk), self._wanted(columns)
        leaves = [leaf for name in stored for leaf in self.leaves[name]]
        files, limit = remote_files(self.filesystem), self.footers_limit_nbytes
        return [start_row_groups(files, path, version, groups, leaves, limit)]

    def read(self, chunk: int, columns: Sequence[str] | None = None, *, fetched: Fetch | None = None) -> pa.Table:
        """Read a row group.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which columns, in order; all of the source's if None.
        fetched : list of concurrent.futures.Future, optional
            What `fetch` returned for the same chunk and columns.

        Returns
        -------
        pa.Table
            ``chunk_rows[chunk]`` rows.

        Raises
        ------
        ArgumentError
            If a column is not there.
        DataError
            If the file is damaged, or was changed since the source was made.
        FetchError
            If a remote store does not give it.
        """
        schema, stored = self._wanted(columns)
        with self._reading(chunk), self._open(chunk, fetched or self.fetch(chunk, columns)) as opened:
            table = opened.read_row_groups(self._groups(chunk), columns=stored, use_threads=False)
        return hive_table(table, schema, self.hive, self.file_of_chunk[chunk])

    def read_slices(
        self, chunk: int, num_rows: int, columns: Sequence[str] | None = None, *, fetched: Fetch | None = None
    ) -> Iterator[pa.Table]:
        """Read a row group from its start, a slice after the other; it is never decoded whole.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        num_rows : int
            Rows of a slice; the last one may have fewer.
        columns : sequence of str, optional
            Which columns, in order; all of the source's if None.
        fetched : list of concurrent.futures.Future, optional
            What `fetch` returned for the same chunk and columns.

        Yields
        ------
        pa.Table
            The next rows.

        Raises
        ------
        ArgumentError
            If a column is not there.
        DataError
            If the file is damaged, or was changed since the source was made.
        FetchError
            If a remote store does not give it.
        """
        schema, stored = self._wanted(columns)
        batches = self._batches(chunk, num_rows, stored, fetched or self.fetch(chunk, columns))
        while True:
            with self._reading(chunk):
                batch = next(batches, None)
            if batch is None:
                return
            yield hive_table(pa.Table.from_batches([batch]), schema, self.hive, self.file_of_chunk[chunk])

    def describe(self, chunk: int) -> str:
        """Say where a chunk lies.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        str
            Path and row groups.
        """
        (path, _), groups = self._place(chunk), self._groups(chunk)
        named = f"row group {groups[0]}" if len(groups) == 1 else f"row groups {groups[0]} to {groups[-1]}"
        return f"{path}, {named}"

    def __repr__(self) -> str:
        return (
            f"ParquetSource({self.root!r}, {len(self.names)} files, {self.num_chunks} row groups,"
            f" {int(self.chunk_rows.sum())} rows)"
        )

    def _wanted(self, columns: Sequence[str] | None) -> tuple[pa.Schema, list[str]]:
        """Return which columns are wanted, and which of them are in the files."""
        names = checked_columns(columns, self.schema.names)
        return pa.schema([self.schema.field(name) for name in names]), [name for name in names if name not in self.hive]

    def _place(self, chunk: int) -> tuple[str, str]:
        """Return path and version of a chunk's file."""
        file = self.file_of_chunk[chunk]
        return self.root + self.names[file], self.versions[file]

    def _groups(self, chunk: int) -> list[int]:
        """Number the row groups of a chunk within its file."""
        first = int(self.row_group[chunk])
        return list(range(first, first + int(self.num_groups[chunk])))

    @contextmanager
    def _reading(self, chunk: int) -> Iterator[None]:
        """Name the row group in what goes wrong, and refuse a local file that changes meanwhile."""
        path, version = self._place(chunk)
        try:
            with unchanged(path, version) if self.filesystem is None else nullcontext():
                yield
        except (FetchError, NotFoundError):
            raise
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.describe(chunk)} cannot be read: {error}; write the file again") from error

    def _batches(self, chunk: int, num_rows: int, stored: list[str], fetched: Fetch) -> Iterator[pa.RecordBatch]:
        """Decode a row group in slices."""
        with self._open(chunk, fetched, is_kept=False) as opened:
            yield from opened.iter_batches(num_rows, row_groups=self._groups(chunk), columns=stored, use_threads=False)

    def _open(self, chunk: int, fetched: Fetch, *, is_kept: bool = True) -> AbstractContextManager[pq.ParquetFile]:
        """Open a chunk's file for one read."""
        if not fetched:
            path, version = self._place(chunk)
            return opened_file(path, version, self.as_dictionaries, self.footers_limit_nbytes, is_kept=is_kept)
        content: RowGroupBytes = fetched[0].result()
        options = {"read_dictionary": list(self.as_dictionaries), "page_checksum_verification": True}
        opened: AbstractContextManager[pq.ParquetFile] = pq.ParquetFile(
            content.file, metadata=content.footer, pre_buffer=False, **options
        )
        return opened


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
