"""Parquet footers: what is in a file, checked and kept as compact arrays."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dtk.errors import DataError, NotFoundError

__all__ = ["FOOTER_THREADS", "Footer", "read_footers", "stat_file", "version_of"]

MAGIC: Final = b"PAR1"
FOOTER_THREADS: Final = 8
_TAIL_NBYTES: Final = 1 << 16


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
    if len(paths) == 1:
        return [_read_footer(paths[0], filesystem)]
    with ThreadPoolExecutor(min(FOOTER_THREADS, len(paths))) as pool:
        footers = list(pool.map(lambda path: _read_footer(path, filesystem), paths))
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
    try:
        if filesystem is None:
            status = os.stat(path)
            return f"{status.st_size}:{status.st_mtime_ns}"
        info = filesystem.info(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there; check the path") from error
    return f"{info['size']}:{version_of(info)}"


def version_of(info: Mapping[str, Any]) -> str:
    """Tell a file's version from what fsspec says of it.

    Parameters
    ----------
    info : mapping
        What its ``info`` returns.

    Returns
    -------
    str
        The time or tag that changes when the file does; empty if there is none.
    """
    keys = ("ETag", "etag", "mtime", "LastModified", "updated", "created")
    return str(next((info[key] for key in keys if info.get(key)), ""))


def _read_footer(path: str, filesystem: Any) -> Footer:
    size, version = stat_file(path, filesystem).split(":", 1)
    nbytes = int(size)
    try:
        with open(path, "rb") if filesystem is None else filesystem.open(path, "rb") as file:
            tail = _tail(file, nbytes, min(nbytes, _TAIL_NBYTES))
            length = int.from_bytes(tail[-8:-4], "little") + 8
            whole = nbytes >= 12 and tail[-4:] == MAGIC and length + 4 <= nbytes
            if whole and length > len(tail):
                tail = _tail(file, nbytes, length)
    except IsADirectoryError as error:
        raise DataError(f"{path} is a directory where a Parquet file should be") from error
    if not whole:
        raise DataError(f"{path} is no Parquet file, or was cut off ({nbytes} bytes); write it again")
    try:
        # The parser wants a file that starts with the magic bytes; the pages between are not looked at.
        metadata = pq.read_metadata(io.BytesIO(MAGIC + tail[-length:]))
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} has a damaged footer: {error}; write it again") from error
    return _parsed(path, nbytes, version, hashlib.blake2b(tail[-length:], digest_size=16).hexdigest(), metadata, schema)


def _tail(file: Any, nbytes: int, length: int) -> bytes:
    file.seek(nbytes - length)
    return bytes(file.read(length))


def _parsed(path: str, nbytes: int, version: str, digest: str, metadata: pq.FileMetaData, schema: pa.Schema) -> Footer:
    """Turn a footer into arrays: its own objects take far more memory."""
    field_of_leaf = [at for at, field in enumerate(schema) for _ in range(_num_leaves(field.type))]
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
        for leaf, at in enumerate(field_of_leaf):
            column = group.column(leaf)
            column_nbytes[number, at] += column.total_compressed_size
            decoded_nbytes[at] += column.total_uncompressed_size
            if at in counted and at not in nullable and metadata.schema.column(leaf).max_definition_level > 0:
                statistics = column.statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    nullable.add(at)
    names = frozenset(schema.field(at).name for at in nullable)
    return Footer(path, nbytes, version, digest, schema, group_rows, column_nbytes, decoded_nbytes, names)


def _num_leaves(kind: pa.DataType) -> int:
    """Count the columns that Parquet stores for an Arrow type: a struct has one for each part."""
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
