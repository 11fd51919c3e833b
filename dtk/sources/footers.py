"""Parquet footers: what is in a file, checked and kept as compact arrays."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dtk.errors import DataError, NotFoundError
from dtk.sources.remote import REQUESTS
from dtk.sources.remote_files import RemoteFiles, remote_files

__all__ = [
    "FOOTER_THREADS",
    "TAIL_NBYTES",
    "Footer",
    "footer_bytes",
    "footer_length",
    "leaves_of_fields",
    "parse_footer",
    "read_footers",
    "stat_file",
]

MAGIC: Final = b"PAR1"
FOOTER_THREADS: Final = 8
TAIL_NBYTES: Final = 1 << 16  # of a file: most footers are shorter


@dataclass(frozen=True)
class Footer:
    """What one file's footer says.

    Parameters
    ----------
    path : str
        The file.
    nbytes : int
        Its size on disk, bytes.
    version : str
        When it was last written, as its file system tells.
    digest : str
        Hash of the footer.
    schema : pa.Schema
        Columns in the file, with their metadata.
    group_rows : np.ndarray
        Rows of each row group, int64 [row groups].
    column_nbytes : np.ndarray
        Bytes on disk, int64 [row groups, columns].
    decoded_nbytes : np.ndarray
        Bytes before compression, int64 [columns].
    nullable : frozenset of str
        Integer and boolean columns that may hold nulls.
    """

    path: str
    nbytes: int
    version: str
    digest: str
    schema: pa.Schema
    group_rows: npt.NDArray[np.int64]
    column_nbytes: npt.NDArray[np.int64]
    decoded_nbytes: npt.NDArray[np.int64]
    nullable: frozenset[str]


def read_footers(paths: Sequence[str], *, filesystem: Any = None) -> list[Footer]:
    """Read the footers of Parquet files, several at a time, and check that they agree.

    Parameters
    ----------
    paths : sequence of str
        Files.
    filesystem : fsspec.AbstractFileSystem, optional
        Where they lie; None for local files.

    Returns
    -------
    list of Footer
        In the order of `paths`.

    Raises
    ------
    NotFoundError
        If a file is not there.
    DataError
        If a file is no whole Parquet file, or its columns differ from the first file's.
    """
    if not paths:
        raise DataError("the Parquet dataset has no files")
    if filesystem is not None:
        footers = _read_remote(paths, filesystem)
    else:  # parsed on one thread: what others free is kept for them by the C library, 800 bytes a column of a row group
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(paths))) as pool:
            footers = [_parsed(*one) for one in pool.map(_read_footer, paths)]
    first = footers[0]
    for footer in footers[1:]:
        _check_same_columns(first, footer)
    return footers


def stat_file(path: str, filesystem: Any) -> str:
    """Tell a file's size and version, as ``"120:99"``.

    Parameters
    ----------
    path : str
        The file.
    filesystem : fsspec.AbstractFileSystem or None
        Where it lies; None for a local file.

    Returns
    -------
    str
        Bytes, a colon, and the time or tag that changes when the file does.

    Raises
    ------
    NotFoundError
        If it is not there.
    """
    if filesystem is not None:
        files = remote_files(filesystem)
        return files.fetcher.start(files.version, path).result()
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there; check the path") from error
    return f"{status.st_size}:{status.st_mtime_ns}"


def footer_length(path: str, nbytes: int, tail: bytes) -> int:
    """Tell from a file's last bytes how long its footer is, with the eight bytes that follow it.

    Parameters
    ----------
    path : str
        The file, for an error.
    nbytes : int
        Its size.
    tail : bytes
        At least its last eight bytes.

    Returns
    -------
    int
        Bytes; maybe more than the tail has.

    Raises
    ------
    DataError
        If it is no whole Parquet file.
    """
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if nbytes < 12 or tail[-4:] != MAGIC or length + 4 > nbytes:
        raise DataError(f"{path} is no Parquet file, or was cut off ({nbytes} bytes); write it again")
    return length


def parse_footer(path: str, content: bytes) -> tuple[pq.FileMetaData, pa.Schema]:
    """Parse a footer.

    Parameters
    ----------
    path : str
        The file, for an error.
    content : bytes
        The footer and the eight bytes that follow it.

    Returns
    -------
    metadata : pq.FileMetaData
        As Arrow has it.
    schema : pa.Schema
        The columns. `metadata.schema` would do, but the two refer to each other: their memory, megabytes for wide
        tables, then waits for the garbage collector, which sees two small objects.

    Raises
    ------
    DataError
        If it is damaged.
    """
    try:
        # The parser wants a file that starts with the magic bytes; the pages between are not looked at.
        metadata = pq.read_metadata(io.BytesIO(MAGIC + content))
        schema = pq.ParquetFile(io.BytesIO(MAGIC), metadata=metadata).schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} has a damaged footer: {error}; write it again") from error
    return metadata, schema


def leaves_of_fields(schema: pa.Schema) -> list[list[int]]:
    """Number the columns of Parquet that fields consist of: a struct has one for each part.

    Parameters
    ----------
    schema : pa.Schema
        Of a file.

    Returns
    -------
    list of list of int
        For each field, its columns.
    """
    ends = list(accumulate((_num_leaves(field.type) for field in schema), initial=0))
    return [list(range(*bounds)) for bounds in pairwise(ends)]


def _read_footer(path: str) -> tuple[str, str, bytes]:
    """Return path, version and footer of a local file."""
    version = stat_file(path, None)
    nbytes = int(version.partition(":")[0])
    try:
        with open(path, "rb") as file:
            tail = _tail(file, nbytes, min(nbytes, TAIL_NBYTES))
            length = footer_length(path, nbytes, tail)
            if length > len(tail):
                tail = _tail(file, nbytes, length)
    except IsADirectoryError as error:
        raise DataError(f"{path} is a directory where a Parquet file should be") from error
    return path, version, tail[-length:]


async def footer_bytes(files: RemoteFiles, path: str, version: str) -> bytes:
    """Fetch a remote file's footer.

    Parameters
    ----------
    files : RemoteFiles
        Where the file lies.
    path : str
        The file.
    version : str
        Its size and version.

    Returns
    -------
    bytes
        The footer and the eight bytes that follow it.

    Raises
    ------
    DataError
        If it is no whole Parquet file, or was changed.
    """
    tail = await files.tail(path, version, TAIL_NBYTES)
    length = footer_length(path, int(version.partition(":")[0]), tail)
    if length > len(tail):
        tail = await files.tail(path, version, length)
    return bytes(tail[-length:])


def _read_remote(paths: Sequence[str], filesystem: Any) -> list[Footer]:
    """Read the footers of remote files."""
    footers = [_parsed(*one) for one in _fetched(paths, remote_files(filesystem))]
    unknown = next((footer.path for footer in footers if not footer.version), None)
    if unknown is not None:
        warnings.warn(f"{unknown} has neither tag nor time: a change of it is seen by its size alone", stacklevel=2)
    return footers


def _fetched(paths: Sequence[str], files: RemoteFiles) -> Iterator[tuple[str, str, bytes]]:
    """Yield path, version and footer of each file; the next ones come while one is parsed."""

    async def one(path: str) -> tuple[str, str, bytes]:
        version = await files.listed_version(path)
        return path, version, await footer_bytes(files, path, version)

    coming: deque[Future[tuple[str, str, bytes]]] = deque()
    try:
        for path in paths:
            coming.append(files.fetcher.start(one, path))
            if len(coming) == REQUESTS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        for future in coming:
            future.cancel()


def _tail(file: Any, nbytes: int, length: int) -> bytes:
    file.seek(nbytes - length)
    return bytes(file.read(length))


def _parsed(path: str, version: str, content: bytes) -> Footer:
    """Turn a footer into arrays: its own objects take far more memory."""
    metadata, schema = parse_footer(path, content)
    fields = [at for at, leaves in enumerate(leaves_of_fields(schema)) for _ in leaves]
    assert len(fields) == metadata.num_columns, f"{path}: {schema} has {metadata.num_columns} columns in Parquet"
    counted = {
        at for at, field in enumerate(schema) if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
    }
    num_groups = metadata.num_row_groups
    group_rows = np.zeros(num_groups, np.int64)
    column_nbytes = np.zeros((num_groups, len(schema)), np.int64)
    decoded_nbytes = np.zeros(len(schema), np.int64)
    nullable = set()
    for number in range(num_groups):
        group = metadata.row_group(number)
        group_rows[number] = group.num_rows
        for leaf, at in enumerate(fields):
            column = group.column(leaf)
            column_nbytes[number, at] += column.total_compressed_size
            decoded_nbytes[at] += column.total_uncompressed_size
            if at in counted and at not in nullable and schema.field(at).nullable:
                statistics = column.statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    nullable.add(at)
    names = frozenset(schema.field(at).name for at in nullable)
    nbytes, written = version.split(":", 1)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Footer(path, int(nbytes), written, digest, schema, group_rows, column_nbytes, decoded_nbytes, names)


def _num_leaves(kind: pa.DataType) -> int:
    """Count the columns that Parquet stores for an Arrow type: a struct has one for each part."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind) or not pa.types.is_nested(kind):
        return 1
    return sum(_num_leaves(kind.field(number).type) for number in range(kind.num_fields))


def _check_same_columns(first: Footer, other: Footer) -> None:
    if first.schema.equals(other.schema):
        return
    types, others = ({field.name: field.type for field in footer.schema} for footer in (first, other))
    for name in [*types, *(name for name in others if name not in types)]:
        if types.get(name) == others.get(name):
            continue
        here = f"is {others[name]}" if name in others else "is missing"
        there = f"is {types[name]}" if name in types else "is missing"
        raise DataError(
            f"column {name!r} {here} in {other.path} but {there} in {first.path}; write the files with one schema"
        )
