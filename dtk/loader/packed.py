"""What lies apart and belongs together in a row of a batch, and is put together when it is moved there, not before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Joined", "Packed", "Windows"]

TILE_NBYTES: Final = 1 << 20  # half of a core's cache: a tile is written, then read again to scatter it

# What the kernel calls the types that it reads.
KINDS: Final = {
    name: number
    for number, name in enumerate(
        ("float", "double", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
    )
}
_NUMPY_KINDS: Final = {np.dtype(name): KINDS[kind] for name, kind in (
    ("f4", "float"), ("f8", "double"), ("i1", "int8"), ("u1", "uint8"), ("i2", "int16"), ("u2", "uint16"),
    ("i4", "int32"), ("u4", "uint32"), ("i8", "int64"), ("u8", "uint64"), ("?", "uint8"),
)}  # fmt: skip


class Joined:
    """Arrays ``[rows, *shape]`` whose samples follow each other in the rows of one array.

    Parameters
    ----------
    parts : sequence of numpy.ndarray
        All with the same number of rows.
    """

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def to_numpy(self) -> NDArray[Any]:
        """Put the parts beside each other.

        Returns
        -------
        numpy.ndarray
            Shape ``[rows, values]``, where the parts have so many values a row together.
        """
        return np.concatenate([part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in self.parts], axis=1)


class Windows:
    """Windows of rows that lie behind each other: several may share a row, which lies there once.

    Parameters
    ----------
    rows : numpy.ndarray or Joined
        ``[rows, *shape]``.
    starts : numpy.ndarray
        An int64 ``[windows]``: the row that each begins with.
    offsets : sequence of int
        Which rows of a window are taken, counted from the one it begins with; not negative, rising.
    """

    def __init__(self, rows: NDArray[Any] | Joined, starts: NDArray[np.int64], offsets: Sequence[int]) -> None:
        self.rows, self.starts = rows, starts
        self.offsets = np.asarray(offsets, np.int64)

    def __len__(self) -> int:
        return len(self.starts)


class Packed:
    """Columns ``[rows]`` as one array ``[rows, columns]`` that is made where it is wanted.

    Parameters
    ----------
    columns : sequence of pyarrow.Array, pyarrow.ChunkedArray or numpy.ndarray
        Numbers or booleans, all of the same length. Nulls become NaN, and need a `dtype` that has one.
    dtype : numpy.dtype
        Of the array: float32 or int64.
    """

    def __init__(self, columns: Sequence[Any], dtype: np.dtype[Any]) -> None:
        self.columns = [
            _as_plain(column) if isinstance(column, np.ndarray) else _as_array(column) for column in columns
        ]
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), len(self.columns)

    def descriptors(self) -> NDArray[np.uint64]:
        """Describe the columns to the kernel.

        Returns
        -------
        numpy.ndarray
            A uint64 ``[columns, 4]``: addresses of the values and of the validity bits, or 0, the first row in both,
            and the kind. Valid as long as this object.
        """
        described = np.zeros((len(self.columns), 4), np.uint64)
        for row, column in zip(described, self.columns, strict=True):
            if isinstance(column, np.ndarray):
                row[0], row[3] = column.__array_interface__["data"][0], _NUMPY_KINDS[column.dtype]
                continue
            validity, values = column.buffers()
            row[0] = values.address if values is not None else 0
            row[1] = validity.address if validity is not None and column.null_count else 0
            row[2], row[3] = column.offset, KINDS[str(column.type)]
        return described

    def tiles(self) -> Iterator[NDArray[Any]]:
        """Pack a part of the rows after the other.

        Yields
        ------
        numpy.ndarray
            The next rows ``[rows, columns]``, few enough for a core's cache; the next part overwrites it.
        """
        columns = [(column, None) if isinstance(column, np.ndarray) else _to_numpy(column) for column in self.columns]
        most = max(256, TILE_NBYTES // (self.dtype.itemsize * len(columns)))
        tile = np.empty((min(most, len(self)), len(columns)), self.dtype)
        for start in range(0, len(self), most):
            packed = tile[: len(self) - start]
            for number, (values, is_null) in enumerate(columns):
                packed[:, number] = values[start : start + most]
                if is_null is not None:
                    packed[is_null[start : start + most], number] = np.nan
            yield packed

    def to_numpy(self) -> NDArray[Any]:
        """Pack all rows.

        Returns
        -------
        numpy.ndarray
            Shape ``[rows, columns]``.
        """
        whole = np.empty(self.shape, self.dtype)
        start = 0
        for tile in self.tiles():
            whole[start : start + len(tile)] = tile
            start += len(tile)
        return whole


def _as_plain(column: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(column, dtype=column.dtype if column.dtype in _NUMPY_KINDS else np.float64)


def _as_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return one array of a type that the kernel reads."""
    if str(column.type) not in KINDS:
        column = column.cast(pa.float64())
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def _to_numpy(array: pa.Array) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return values, without a copy where Arrow can, and which of them are to become NaN.

    Of whole numbers with nulls Arrow would make float64, and float32 of that: rounded twice, the kernel once.
    """
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if not array.null_count or pa.types.is_floating(array.type):
        return array.to_numpy(zero_copy_only=False), None
    is_null: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return array.fill_null(0).to_numpy(zero_copy_only=False), is_null
