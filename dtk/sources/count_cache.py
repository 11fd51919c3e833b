"""Counts kept on disk, so that the same data is counted once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dtk.config import cache_directory
from dtk.sources.publishing import written_whole
from dtk.sources.source import TableSource

__all__ = ["Counts", "key_of", "load_arrays", "load_counts", "save_arrays", "save_counts"]

_VERSION: Final = "dtk counts 1"
_DIGEST_NBYTES: Final = 16
_KEPT_FILES: Final = 256
_KILLED_S: Final = 86_400  # after which nobody still writes a temporary file


@dataclass(frozen=True, eq=False)
class Counts:
    """What one pass over a source counted.

    Parameters
    ----------
    chunk_rows : numpy.ndarray
        An int64 ``[chunks]``: the rows of each chunk.
    chunk_weights : numpy.ndarray, optional
        A float64 ``[chunks]``: the sum of the weights of its rows; None where rows have no weights.
    classes : pyarrow.Array, optional
        All classes, if rows weigh by their class.
    class_rows : numpy.ndarray, optional
        An int64 ``[classes]``: the rows of each class.
    """

    chunk_rows: npt.NDArray[np.int64]
    chunk_weights: npt.NDArray[np.float64] | None = None
    classes: pa.Array | None = None
    class_rows: npt.NDArray[np.int64] | None = None


def key_of(source: Any, *asked: object) -> str | None:
    """Name what is counted of a source.

    Parameters
    ----------
    source : Source or ArraySource
        What is counted.
    *asked : object
        What of it.

    Returns
    -------
    str or None
        None where it must not be kept: of what lies in memory, of arrays, whose metadata does not tell that values
        changed, and of expressions with functions of the user, which may come to call something else.
    """
    from dtk.sources.arrays import ArraySource

    if isinstance(source, (TableSource, ArraySource)) or getattr(source, "has_own_functions", False):
        return None
    return " ".join([source.identity, str(source.num_chunks), *map(repr, asked)])


def load_counts(key: str) -> Counts | None:
    """Find what was counted before.

    Parameters
    ----------
    key : str
        What was counted, of which data.

    Returns
    -------
    Counts or None
        None where there is no file, or one that is damaged or of another version.
    """
    found = load_arrays(key)
    if found is None:
        return None
    return Counts(**{name: values if name == "classes" else values.to_numpy() for name, values in found.items()})


def save_counts(key: str, counts: Counts) -> None:
    """Keep what was counted; where that cannot be written, warn and go on.

    Parameters
    ----------
    key : str
        What was counted, of which data.
    counts : Counts
        The result.
    """
    save_arrays(key, {name: value for name, value in vars(counts).items() if value is not None})


def load_arrays(key: str) -> dict[str, pa.Array] | None:
    """Find arrays that were kept.

    Parameters
    ----------
    key : str
        What they are, of which data.

    Returns
    -------
    dict of str to pyarrow.Array or None
        None where there is no file, or one that is damaged or of another version.
    """
    try:
        content = _path(key).read_bytes()
    except OSError:
        return None
    with contextlib.suppress(OSError):
        os.utime(_path(key))  # those used least recently go first
    digest, payload = content[:_DIGEST_NBYTES], content[_DIGEST_NBYTES:]
    return _unpacked(payload) if digest == _digest(key, payload) else None


def save_arrays(key: str, arrays: Mapping[str, Any]) -> None:
    """Keep arrays; where that cannot be written, warn and go on.

    Parameters
    ----------
    key : str
        What they are, of which data.
    arrays : mapping of str to array
        NumPy's or Arrow's, of any lengths.

    Warns
    -----
    UserWarning
        If the cache directory cannot be written.
    """
    path, payload = _path(key), _packed(arrays)
    try:
        with written_whole(str(path), is_lasting=False) as temporary:
            Path(temporary).write_bytes(_digest(key, payload) + payload)
        _forget_oldest(path.parent)
    except OSError as error:
        warnings.warn(
            f"what was counted cannot be kept in {str(path.parent)!r} and will be counted again: {error}; "
            "set dtk.cache-dir in Dask's configuration, or DASK_DTK__CACHE_DIR",
            stacklevel=2,
        )


def _path(key: str) -> Path:
    name = hashlib.blake2b(key.encode(), digest_size=_DIGEST_NBYTES).hexdigest()
    return cache_directory() / "counts" / f"{name}.counts"


def _digest(key: str, payload: bytes) -> bytes:
    """Hash a file's content with its key: whatever else is there under its name is not taken for it."""
    return hashlib.blake2b(f"{_VERSION} {key}".encode() + payload, digest_size=_DIGEST_NBYTES).digest()


def _packed(arrays: Mapping[str, Any]) -> bytes:
    """Write an Arrow file of one row, with a list for each array."""
    lists = {}
    for name, value in arrays.items():
        values = pa.array(value)
        lists[name] = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    sink = pa.BufferOutputStream()
    table = pa.table(lists)
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
        file.write_table(table)
    return bytes(sink.getvalue())


def _unpacked(payload: bytes) -> dict[str, pa.Array]:
    table = pa.ipc.open_file(pa.py_buffer(payload)).read_all()
    return {name: table.column(name).chunk(0).flatten() for name in table.column_names}


def _forget_oldest(folder: Path) -> None:
    """Keep the cache small: data that changes is counted under a new name each time."""
    files = []
    for path in folder.glob("*.counts"):
        with contextlib.suppress(FileNotFoundError):  # another process may do the same
            files.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(files)[:-_KEPT_FILES]:
        path.unlink(missing_ok=True)
    for path in folder.glob(".*.counts.*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _KILLED_S:
                path.unlink()
