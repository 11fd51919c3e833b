"""What a process keeps of Parquet files between reads: parsed footers, and the files that a thread read last.

Both are bounded in bytes: a parsed footer takes 800 bytes for each column of each row group, which adds up with the
data.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dtk.errors import DataError
from dtk.sources.footers import Footer, stat_file

__all__ = [
    "FOOTERS",
    "KEPT_FILES",
    "LEAST_FOOTERS_NBYTES",
    "footers_limit_nbytes",
    "kept_nbytes",
    "opened_file",
    "parsed_nbytes",
    "unchanged",
]

KEPT_FILES: Final = 8
"""Local files that a thread has open, at most."""

LEAST_FOOTERS_NBYTES: Final = 8 << 20
"""Of the footers that a process keeps, if no loader allows for more."""

_SHARE: Final = 8  # of what a loader may take
_FILES_NBYTES: Final = 2 << 20  # of the footers of a thread's open files
_COLUMN_NBYTES: Final = 800  # of a parsed footer, for a column of a row group
_THREADS: Final = 4  # that read by default, at most: the plan must not depend on how many cores there are
_UNCOUNTED_NBYTES: Final = 1 << 20  # what is less is lost in what the interpreter takes

_MappedFile = tuple[mmap.mmap, pq.ParquetFile]
Value = TypeVar("Value")


def _footer_nbytes(footer: pq.FileMetaData) -> int:
    return int(_COLUMN_NBYTES * footer.num_row_groups * footer.num_columns)


class _Bounded(Generic[Value]):
    """The values that were used last, of some bytes together; at least one."""

    def __init__(self, nbytes_of: Callable[[Value], int], most: int | None = None) -> None:
        self._kept: OrderedDict[Any, Value] = OrderedDict()
        self._nbytes_of, self._most = nbytes_of, most
        self._nbytes = 0

    def get(self, key: Any) -> Value | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Any, value: Value, limit_nbytes: int) -> None:
        self._discard(key)
        self._kept[key] = value
        self._nbytes += self._nbytes_of(value)
        while len(self._kept) > 1 and (self._nbytes > limit_nbytes or len(self._kept) > (self._most or 2**31)):
            self._discard(next(iter(self._kept)))

    def _discard(self, key: Any) -> None:
        if key in self._kept:
            self._nbytes -= self._nbytes_of(self._kept.pop(key))


class _Footers:
    """The footers of the files that were read last, for all threads of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def get(self, key: tuple[str, str]) -> pq.FileMetaData | None:
        """Return the footer of a file.

        Parameters
        ----------
        key : tuple of str
            Its path and version.

        Returns
        -------
        pq.FileMetaData or None
            None if it is not kept.
        """
        with self._lock:
            return self._kept.get(key)

    def put(self, key: tuple[str, str], footer: pq.FileMetaData, limit_nbytes: int) -> None:
        """Keep the footer of a file.

        Parameters
        ----------
        key : tuple of str
            Its path and version.
        footer : pq.FileMetaData
            The footer.
        limit_nbytes : int
            Bytes that it may take with those that are kept already; the ones that were not used for longest go.
        """
        with self._lock:
            self._kept.put(key, footer, limit_nbytes)

    def clear(self) -> None:
        """Keep none."""
        with self._lock:
            self._kept = _Bounded[pq.FileMetaData](_footer_nbytes)


class _Thread(threading.local):
    """The local files that a thread read last, mapped into memory: to open one costs a twentieth of a read."""

    def __init__(self) -> None:
        self.files = _Bounded[_MappedFile](lambda file: _footer_nbytes(file[1].metadata), KEPT_FILES)


FOOTERS: Final = _Footers()
_THREAD: Final = _Thread()


@contextmanager
def opened_file(
    path: str, version: str, as_dictionaries: tuple[str, ...], limit_nbytes: int, *, is_kept: bool = True
) -> Iterator[pq.ParquetFile]:
    """Open a local file, mapped into memory, for one read.

    Parameters
    ----------
    path : str
        The file.
    version : str
        Its size and time.
    as_dictionaries : tuple of str
        Columns that are read as codes of a dictionary.
    limit_nbytes : int
        Bytes of all footers that the process may keep.
    is_kept : bool
        Whether to take it up where this thread has it open, and to keep it so; only this thread may then use it.

    Yields
    ------
    pq.ParquetFile
        The file.
    """
    key = path, version, as_dictionaries
    kept = _THREAD.files.get(key) if is_kept else None
    if kept is None:
        kept = _map(*key, limit_nbytes)
        if is_kept:
            _THREAD.files.put(key, kept, _FILES_NBYTES)
    mapped, opened = kept
    yield opened
    mapped.madvise(mmap.MADV_DONTNEED)  # else the pages that were read stay: memory that grows with the data


def _map(path: str, version: str, as_dictionaries: tuple[str, ...], limit_nbytes: int) -> _MappedFile:
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    footer = FOOTERS.get((path, version))
    content = pa.BufferReader(pa.py_buffer(mapped))
    opened = pq.ParquetFile(
        content, metadata=footer, read_dictionary=list(as_dictionaries), page_checksum_verification=True
    )
    if footer is None:
        FOOTERS.put((path, version), opened.metadata, limit_nbytes)
    return mapped, opened


@contextmanager
def unchanged(path: str, version: str) -> Iterator[None]:
    """Refuse a local file that was changed before it is read, or is while it is read: the bytes may be of both.

    Parameters
    ----------
    path : str
        The file.
    version : str
        Its size and time when it was opened.

    Raises
    ------
    DataError
        If it was changed.
    NotFoundError
        If it is not there any more.
    """
    _check_version(path, version)
    try:
        yield
    except (pa.ArrowException, OSError):  # that it was changed says more
        _check_version(path, version)
        raise
    _check_version(path, version)


def _check_version(path: str, version: str) -> None:
    if stat_file(path, None) != version:
        raise DataError(f"{path} was changed since it was opened; open the data again")


def footers_limit_nbytes(memory_nbytes: int) -> int:
    """Return how much of a loader's memory footers may take.

    Parameters
    ----------
    memory_nbytes : int
        Bytes that the loader may take.

    Returns
    -------
    int
        Bytes of all footers that are kept in its process.
    """
    return max(LEAST_FOOTERS_NBYTES, memory_nbytes // _SHARE)


def parsed_nbytes(footer: Footer) -> int:
    """Return what a footer takes in memory when Arrow has parsed it.

    Parameters
    ----------
    footer : Footer
        Of a file.

    Returns
    -------
    int
        Bytes.
    """
    return _COLUMN_NBYTES * footer.column_nbytes.size


def kept_nbytes(footer_nbytes: npt.NDArray[np.int64], limit_nbytes: int) -> int:
    """Return what is kept at most while files are read.

    Parameters
    ----------
    footer_nbytes : numpy.ndarray
        An int64 ``[files]``: bytes of each footer as parsed.
    limit_nbytes : int
        Bytes of all footers that the process may keep.

    Returns
    -------
    int
        Bytes; 0 where it is less than a MiB.
    """
    largest = int(footer_nbytes.max(initial=0))
    most = min(int(footer_nbytes.sum()), max(limit_nbytes, largest) + _THREADS * max(_FILES_NBYTES, largest))
    return most if most > _UNCOUNTED_NBYTES else 0
