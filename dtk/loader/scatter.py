"""Moving rows to their places in the ring: with the compiled kernel, or with NumPy to the same bytes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dtk.loader.packed import TILE_NBYTES, Joined, Packed, Windows
from dtk.loader.segments import Integers

try:
    from dtk.loader import _kernel  # type: ignore[attr-defined,unused-ignore]
except ImportError:  # it is optional
    _kernel = None

__all__ = ["scatter"]

_MOST_ROW_NBYTES: Final = 196_608  # the kernel's tile


def scatter(rows: NDArray[Any] | Packed | Joined | Windows, places: Integers, array: NDArray[Any]) -> None:
    """Copy rows to their places.

    Parameters
    ----------
    rows : numpy.ndarray, Packed, Joined or Windows
        ``[rows, *shape]``.
    places : numpy.ndarray
        An int64 ``[rows]``: for each row, where it goes; -1 leaves it out.
    array : numpy.ndarray
        Where to: ``[places, *shape]``, C-contiguous; changed in place.
    """
    if len(places) == 0 or array.nbytes == 0:
        return
    if isinstance(rows, Windows):
        offset = 0
        for part in rows.rows.parts if isinstance(rows.rows, Joined) else [rows.rows]:
            _gather(part, rows, places, array, offset)
            offset += int(np.prod(part.shape[1:], dtype=np.int64))
    elif isinstance(rows, Joined):
        offset = 0
        for part in rows.parts:
            _move(part, places, array, offset)
            offset += int(np.prod(part.shape[1:], dtype=np.int64))
    elif not isinstance(rows, Packed):
        _move(rows, places, array, 0)
    elif _kernel is not None and array.nbytes // len(array) <= _MOST_ROW_NBYTES:
        row_nbytes = array.nbytes // len(array)
        _kernel.pack(rows.descriptors(), len(rows), places, array, row_nbytes, array.dtype.kind == "f")
    else:
        start = 0
        for tile in rows.tiles():
            _move(tile, places[start : start + len(tile)], array, 0)
            start += len(tile)


def _move(rows: NDArray[Any], places: Integers, array: NDArray[Any], offset: int) -> None:
    """Copy rows, or parts of rows, to an offset of `array`'s rows, counted in values."""
    rows = np.ascontiguousarray(rows, dtype=array.dtype)
    if _kernel is not None:
        row_nbytes, nbytes = array.nbytes // len(array), rows.nbytes // len(rows)
        _kernel.move(rows, places, array, row_nbytes, offset * array.itemsize, nbytes)
        return
    if (places < 0).any():
        is_placed = places >= 0
        rows, places = rows[is_placed], places[is_placed]
        if len(rows) == 0:
            return
    width, whole = rows[0].size, array[0].size
    # A row moves as one item, whatever its shape and type: one copy a row instead of one a value.
    if array.ndim == 1:  # the faster way differs between numbers and items of many bytes
        array[places] = rows
    elif width == whole:
        np.put(_as_items(array), places, _as_items(rows), mode="clip")  # "clip" spares a check; all places are valid
    else:
        array.reshape(len(array), whole)[places, offset : offset + width] = rows.reshape(len(rows), width)


def _gather(rows: NDArray[Any], windows: Windows, places: Integers, array: NDArray[Any], offset: int) -> None:
    """Copy windows of rows, or of parts of rows, to an offset in each of their rows, counted in values."""
    rows = np.ascontiguousarray(rows, dtype=array.dtype)
    starts, offsets = windows.starts, windows.offsets
    if _kernel is not None:
        row_nbytes, nbytes = array.nbytes // len(array), rows.nbytes // len(rows)
        starts = np.ascontiguousarray(starts)
        _kernel.gather(rows, starts, offsets, places, array, row_nbytes, offset * array.itemsize, nbytes)
        return
    is_placed = places >= 0
    starts, places = starts[is_placed], places[is_placed]
    whole, width = array.reshape(len(array), len(offsets), -1), rows[0].size
    rows = rows.reshape(len(rows), width)
    most = max(1, TILE_NBYTES // max(1, len(offsets) * rows[0].nbytes))
    for first in range(0, len(places), most):
        part = slice(first, first + most)
        whole[places[part], :, offset : offset + width] = rows[starts[part, None] + offsets]


def _as_items(array: NDArray[Any]) -> NDArray[Any]:
    """View ``[rows, *shape]`` as ``[rows]`` items of bytes."""
    row_nbytes = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    return array.reshape(len(array), -1).view(np.dtype((np.void, row_nbytes))).reshape(len(array))
