"""Parquet files as a source: one chunk a row group, known from the footers alone."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dtk.errors import DataError, FetchError, NotFoundError
from dtk.sources.columns import checked_columns
from dtk.sources.facts import changed_columns, changed_files, column_facts, file_facts, short_digest
from dtk.sources.footers import Footer, read_footers, stat_file
from dtk.sources.kept_files import FOOTERS, are_all_kept, kept_nbytes, map_file, mapped_file
from dtk.sources.remote import Fetch, FetchCost
from dtk.sources.remote_files import remote_files
from dtk.sources.remote_parquet import RowGroupBytes, fetch_cost, start_row_group

__all__ = ["ParquetSource"]

_CODES: Final = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, eq=False, repr=False)
class ParquetSource:
    """The row groups of Parquet files, read one at a time.

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
        int32 [chunks]: the row group within its file.
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
    as_dictionaries : tuple of str
        Columns of text that are read as codes of a dictionary.
    remote_cost : FetchCost or None
        What fetching the chunks takes; None for local files.
    kept_nbytes : int
        Bytes of footers that a process keeps from one read to the next.
    """

    root: str
    names: tuple[str, ...]
    versions: tuple[str, ...]
    filesystem: Any
    schema: pa.Schema
    identity: str
    file_of_chunk: npt.NDArray[np.int32]
    row_group: npt.NDArray[np.int32]
    chunk_rows: npt.NDArray[np.int64]
    chunk_nbytes: npt.NDArray[np.int64]
    decoded_nbytes: int
    nullable: frozenset[str]
    hive: Mapping[str, pa.Array]
    as_dictionaries: tuple[str, ...] = ()
    remote_cost: FetchCost | None = None
    kept_nbytes: int = 0

    @classmethod
    def from_files(
        cls,
        paths: Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        hive: Mapping[str, pa.Array] | None = None,
        filesystem: Any = None,
        row_groups: Sequence[Sequence[int] | None] | None = None,
    ) -> ParquetSource:
        """Read the footers, and nothing else.

        Parameters
        ----------
        paths : sequence of str
            Files, in the order of their rows.
        columns : sequence of str, optional
            What it yields, in order; all columns if None.
        hive : mapping of str to pa.Array, optional
            For each column that the directories' names hold, its value in each of `paths`.
        filesystem : fsspec.AbstractFileSystem, optional
            Where the files lie; None for local files.
        row_groups : sequence, optional
            For each of `paths`, the row groups wanted, None for all.

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
        footers = read_footers(paths, filesystem=filesystem)
        return cls.from_footers(footers, columns=columns, hive=hive, filesystem=filesystem, row_groups=row_groups)

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
        schema = _with_hive(footers[0].schema, hive)
        kept = checked_columns(columns, schema.names)
        schema = pa.schema([schema.field(name) for name in kept], metadata=schema.metadata)
        files, groups, rows, nbytes, decoded = [], [], [], [], 0
        for number, footer in enumerate(footers):
            chosen = None if row_groups is None else row_groups[number]
            group = np.arange(len(footer.group_rows)) if chosen is None else np.asarray(chosen, np.int64)
            group = group[footer.group_rows[group] > 0]
            at = [footer.schema.get_field_index(name) for name in kept if name not in hive]
            files.append(np.full(len(group), number, np.int32))
            groups.append(group.astype(np.int32))
            rows.append(footer.group_rows[group])
            nbytes.append(footer.column_nbytes[np.ix_(group, at)].sum(axis=1))
            share = rows[-1].sum() / max(1, footer.group_rows.sum())
            decoded += int(footer.decoded_nbytes[at].sum() * share)
        cost = None
        if filesystem is not None:
            cost = fetch_cost(remote_files(filesystem), footers, kept, groups, are_kept=are_all_kept(footers))
        paths = [footer.path for footer in footers]
        root = os.path.commonprefix(paths)  # noqa: RUF071 - characters are what is to be saved
        return cls(
            root=root,
            names=tuple(path[len(root) :] for path in paths),
            versions=tuple(f"{footer.nbytes}:{footer.version}" for footer in footers),
            filesystem=filesystem,
            schema=schema,
            identity=_identity(footers, schema, np.concatenate([*files, *groups])),
            file_of_chunk=np.concatenate(files),
            row_group=np.concatenate(groups),
            chunk_rows=np.concatenate(rows),
            chunk_nbytes=np.concatenate(nbytes).astype(np.int64),
            decoded_nbytes=decoded,
            nullable=_nullable(footers, hive) & set(kept),
            hive=hive,
            remote_cost=cost,
            kept_nbytes=kept_nbytes(footers),
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
        """Number of row groups that have rows."""
        return len(self.chunk_rows)

    @property
    def paths(self) -> list[str]:
        """The files, in the order of their rows."""
        return [self.root + name for name in self.names]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a saved state tells of it, see `dtk.sources.facts`."""
        names = [path[len(self._directory) + 1 :] for path in self.paths]
        return {
            "kind": "parquet",
            "columns": column_facts(self.schema),
            "directory": self._directory,
            "files": file_facts(names, self.versions, self._rows_of_files),
            "row_groups": short_digest(self.file_of_chunk.tobytes(), self.row_group.tobytes()),
        }

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
        found = changed_columns(facts["columns"], self.facts["columns"])
        then, now = facts["directory"], self._directory
        if not f"{then}/".startswith(f"{now}/") and not f"{now}/".startswith(f"{then}/"):
            return [*found, f"it lies in {now} and lay in {then}"]
        runs = [[f"{then}/{run[0]}", *run[1:]] for run in facts["files"]]
        files = changed_files(runs, self.paths, self.versions, self._rows_of_files)
        if not files and facts["row_groups"] != self.facts["row_groups"]:
            found.append("other row groups are chosen, by other filters")
        return found + files

    @property
    def _directory(self) -> str:
        """The one that all files lie in, or below."""
        return self.root.rpartition("/")[0]

    @property
    def _rows_of_files(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.file_of_chunk, self.chunk_rows, minlength=len(self.names)).astype(np.int64)

    def fetch_cost(self, columns: Sequence[str] | None = None) -> FetchCost | None:
        """Return what fetching the chunks takes.

        Parameters
        ----------
        columns : sequence of str, optional
            What is counted is all of the source's columns.

        Returns
        -------
        FetchCost or None
            None for local files.
        """
        return self.remote_cost

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
        file, names = int(self.file_of_chunk[chunk]), checked_columns(columns, self.schema.names)
        stored = [name for name in names if name not in self.hive]
        path, group = self.root + self.names[file], int(self.row_group[chunk])
        return [start_row_group(remote_files(self.filesystem), path, self.versions[file], group, stored, FOOTERS)]

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
        file = int(self.file_of_chunk[chunk])
        names, stored = self._named(columns)
        with self._naming(chunk), self._open(file, fetched or self.fetch(chunk, columns)) as opened:
            table = opened.read_row_group(int(self.row_group[chunk]), columns=stored, use_threads=False)
        return self._with_hive(table, names, file)

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
        file = int(self.file_of_chunk[chunk])
        names, stored = self._named(columns)
        with self._naming(chunk), self._open(file, fetched or self.fetch(chunk, columns), is_kept=False) as opened:
            slices = opened.iter_batches(
                num_rows, row_groups=[int(self.row_group[chunk])], columns=stored, use_threads=False
            )
            while (batch := next(slices, None)) is not None:
                yield self._with_hive(pa.Table.from_batches([batch]), names, file)

    def describe(self, chunk: int) -> str:
        """Say where a chunk lies.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        str
            Path and row group.
        """
        return f"{self.root}{self.names[self.file_of_chunk[chunk]]}, row group {self.row_group[chunk]}"

    def __repr__(self) -> str:
        return (
            f"ParquetSource({self.root!r}, {len(self.names)} files, {self.num_chunks} row groups,"
            f" {int(self.chunk_rows.sum())} rows)"
        )

    def _named(self, columns: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """Return which columns are wanted, and which of them are in the files."""
        names = checked_columns(columns, self.schema.names)
        return names, [name for name in names if name not in self.hive]

    def _with_hive(self, table: pa.Table, names: list[str], file: int) -> pa.Table:
        """Put the columns of the directories' names beside those of the file."""
        arrays = [
            pa.repeat(self.hive[name][file], table.num_rows) if name in self.hive else table.column(name)
            for name in names
        ]
        if not arrays:  # only such a table keeps its number of rows
            return table
        return pa.Table.from_arrays(arrays, schema=pa.schema([self.schema.field(name) for name in names]))

    @contextmanager
    def _naming(self, chunk: int) -> Iterator[None]:
        """Name the row group in what goes wrong."""
        try:
            yield
        except (FetchError, NotFoundError):
            raise
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.describe(chunk)} cannot be read: {error}; write the file again") from error

    @contextmanager
    def _open(self, file: int, fetched: Fetch, *, is_kept: bool = True) -> Iterator[pq.ParquetFile]:
        """Open a file for one read, or take up the one that this thread has open."""
        if fetched:
            content: RowGroupBytes = fetched[0].result()
            dictionaries = list(self.as_dictionaries)
            with pq.ParquetFile(
                content.file, metadata=content.footer, read_dictionary=dictionaries, pre_buffer=False
            ) as opened:
                yield opened
            return
        path = self.root + self.names[file]
        version = self.versions[file]
        if stat_file(path, None) != version:
            raise DataError(f"{path} was changed since it was opened; open the data again")
        key = path, version, self.as_dictionaries
        mapped, opened = mapped_file(*key) if is_kept else map_file(*key)
        yield opened
        mapped.madvise(mmap.MADV_DONTNEED)  # else the pages that were read stay: memory that grows with the data


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _with_hive(schema: pa.Schema, hive: Mapping[str, pa.Array]) -> pa.Schema:
    for name, values in hive.items():
        schema = schema.append(pa.field(name, values.type))
    return schema


def _nullable(footers: Sequence[Footer], hive: Mapping[str, pa.Array]) -> frozenset[str]:
    of_files = frozenset().union(*(footer.nullable for footer in footers))
    return of_files | {name for name, values in hive.items() if values.null_count}


def _identity(footers: Sequence[Footer], schema: pa.Schema, chunks: npt.NDArray[np.int32]) -> str:
    digest = hashlib.blake2b(chunks.tobytes(), digest_size=16)
    for footer in sorted(footers, key=lambda footer: footer.path):
        digest.update(f"{footer.path}\0{footer.nbytes}\0{footer.version}\0{footer.digest}\n".encode())
    digest.update(repr([(field.name, str(field.type)) for field in schema]).encode())
    return digest.hexdigest()
