"""Sums over some axes of an array, NaN left out, in blocks that stay in a core's cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Final

import numpy as np

from dtk.statistics.compiled_sums import add_rows
from dtk.statistics.number_blocks import BLOCK_VALUES, scratch

__all__ = ["GridSums", "add_block"]

_ROW_VALUES: Final = 8_192  # of a product: BLAS takes threads for longer ones, which fight for Dask's cores
_COLUMNS: Final = 4_096  # of a block that is summed down its columns
_CANCELS: Final = 1e4  # four digits of sixteen


@dataclass
class GridSums:
    """Sums for each cell that is kept: of distances from a value near them, and of their squares.

    Parameters
    ----------
    count : numpy.ndarray
        int64 [cells]: values that are present.
    start : numpy.ndarray
        float64 [cells]: what distances are counted from; a value of the cell, so that they are small.
    total, squares : numpy.ndarray
        float64 [cells]: sums of the distances, and of their squares.
    low, high : numpy.ndarray
        float64 [cells]: the range; NaN without values.
    """

    count: np.ndarray
    start: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> GridSums:
        """Return the sums of nothing.

        Parameters
        ----------
        shape : tuple of int
            Of the cells.

        Returns
        -------
        GridSums
            Of that shape.
        """
        zeros, nothing = np.zeros(shape), np.full(shape, np.nan)
        return cls(np.zeros(shape, np.int64), zeros, zeros.copy(), zeros.copy(), nothing, nothing.copy())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name.

        Returns
        -------
        dict of str to numpy.ndarray
            Not copied.
        """
        return dict(vars(self))

    def at(self, where: tuple[slice, ...]) -> GridSums:
        """Look at some of the cells.

        Parameters
        ----------
        where : tuple of slice
            Which.

        Returns
        -------
        GridSums
            Views.
        """
        index: Any = (*where, ...)  # which gives a view also where there are no axes
        return GridSums(*(array[index] for array in self.arrays().values()))

    def flat(self) -> GridSums:
        """Look at the cells as one axis.

        Returns
        -------
        GridSums
            Contiguous: views where the arrays are, else copies.
        """
        return GridSums(*(np.ascontiguousarray(array.reshape(-1)) for array in self.arrays().values()))

    def set(self, other: GridSums) -> None:
        """Take over the arrays of another.

        Parameters
        ----------
        other : GridSums
            As many cells, of any shape.
        """
        for name, array in self.arrays().items():
            if not np.may_share_memory(array, getattr(other, name)):
                array[...] = getattr(other, name).reshape(array.shape)

    def merge(self, other: GridSums) -> None:
        """Take in other values of the same cells.

        Parameters
        ----------
        other : GridSums
            Left as it is.
        """
        np.copyto(self.start, other.start, where=self.count == 0)
        apart = other.start - self.start
        self.squares += other.squares + 2 * apart * other.total + other.count * apart * apart
        self.total += other.total + other.count * apart
        self.count += other.count
        np.fmin(self.low, other.low, out=self.low)
        np.fmax(self.high, other.high, out=self.high)

    def mean(self) -> np.ndarray:
        """Return the means.

        Returns
        -------
        numpy.ndarray
            float64; NaN without values.
        """
        return np.asarray(self.start + self.total / np.where(self.count, self.count, np.nan))

    def variance(self) -> np.ndarray:
        """Return the variances of the population.

        Returns
        -------
        numpy.ndarray
            float64; NaN without values.
        """
        count = np.where(self.count, self.count, np.nan)
        return np.asarray(np.maximum(self.squares / count - np.square(self.total / count), 0.0))


def add_block(sums: GridSums, block: np.ndarray, axes: tuple[int, ...], *, is_close: bool = True) -> bool:
    """Take in a block.

    Parameters
    ----------
    sums : GridSums
        Of the shape of the block without the axes.
    block : numpy.ndarray
        Numbers or booleans, in memory.
    axes : tuple of int
        Those that are summed over.
    is_close : bool
        Whether to try first how far squares of the values themselves go, which is faster.

    Returns
    -------
    bool
        Whether that is to be tried with the next block.
    """
    if not block.size:
        return is_close
    kept = tuple(axis for axis in range(block.ndim) if axis not in axes)
    if kept and kept[-1] - kept[0] >= len(kept):  # between them is an axis that is summed over
        block = block.transpose(*axes, *kept)
        kept = tuple(range(len(axes), block.ndim))
    first, last = (kept[0], kept[-1] + 1) if kept else (0, 0)
    outer, cells = (math.prod(block.shape[:first]), math.prod(block.shape[first:last]))
    values = np.ascontiguousarray(block).reshape(outer, cells, -1)
    if values.dtype.kind == "b" or values.dtype == np.float16:  # which NumPy is slow to compare
        values = values.astype(np.float32)
    flat = sums.flat()
    with np.errstate(invalid="ignore", over="ignore"):
        if values.shape[2] == 1:
            _add_columns(flat, values[:, :, 0])
        elif not add_rows(values, list(flat.arrays().values())):
            is_close = _add_rows(flat, values, is_close)
    sums.set(flat)
    return is_close


def _add_rows(sums: GridSums, values: np.ndarray, is_close: bool) -> bool:
    """Sum ``[outer, cells, length]`` over the first and the last axis, and say whether values were close to 0."""
    outer, cells, length = values.shape
    width = min(length, BLOCK_VALUES)
    num_cells = min(cells, BLOCK_VALUES // width)
    num_outer = min(outer, BLOCK_VALUES // (width * num_cells))
    starts = product(range(0, outer, num_outer), range(0, cells, num_cells), range(0, length, width))
    parts = [
        (slice(row, row + num_outer), slice(cell, cell + num_cells), slice(column, column + width))
        for row, cell, column in starts
    ]
    if is_close and _add_close_rows(sums, values, parts, width):
        return True
    for part in parts:
        _add_row_part(sums.at((part[1],)), values[part])
    return False


def _add_close_rows(sums: GridSums, values: np.ndarray, parts: Sequence[tuple[slice, ...]], width: int) -> bool:
    """Sum values as they are, and their squares; add nothing, and say so, where these would lose digits."""
    length = values.shape[2]
    lengths = np.diff(np.append(np.arange(0, length, width), length))
    shape = (*values.shape[:2], len(lengths))
    low, high, total, squares = (np.empty(shape, dtype) for dtype in (values.dtype, values.dtype, "f8", "f8"))
    for rows, cells, columns in parts:
        part, where = values[rows, cells, columns], (rows, cells, columns.start // width)
        floats = _floats(part)
        np.fmin.reduce(part, axis=2, out=low[where])
        np.fmax.reduce(part, axis=2, out=high[where])
        np.add.reduce(floats, axis=2, out=total[where])
        squares[where] = _row_squares(floats)
    if not (squares <= _CANCELS * (squares - total * total / lengths)).all():  # nor is NaN
        return False
    _widen(sums, np.fmin.reduce(low, axis=(0, 2)), np.fmax.reduce(high, axis=(0, 2)))
    start = sums.start[:, np.newaxis]
    squares += start * (lengths * start - 2 * total)
    total -= lengths * start
    _add(sums, len(values) * length, np.add.reduce(total, axis=(0, 2)), np.add.reduce(squares, axis=(0, 2)))
    return True


def _add_row_part(sums: GridSums, part: np.ndarray) -> None:
    """Sum up what stays in the cache, counted from where the cells start, NaN left out."""
    low, high = np.fmin.reduce(part, axis=2), np.fmax.reduce(part, axis=2)
    _widen(sums, np.fmin.reduce(low, axis=0), np.fmax.reduce(high, axis=0))
    floats = _floats(part)
    floats -= sums.start[:, np.newaxis]
    count: int | np.ndarray = part.shape[2] * len(part)
    total = np.add.reduce(floats, axis=2)
    if not np.isfinite(total).all():
        count = np.add.reduce(_without_missing(floats), axis=(0, 2), dtype=np.int64)
        total = np.add.reduce(floats, axis=2)
    _add(sums, count, np.add.reduce(total, axis=0), np.add.reduce(_row_squares(floats), axis=0))


def _add_columns(sums: GridSums, values: np.ndarray) -> None:
    """Sum ``[outer, cells]`` over the first axis."""
    outer, cells = values.shape
    num_folded = 1 << max(0, (_COLUMNS // cells).bit_length() - 1)
    if num_folded > 8 and outer >= 8 * num_folded:  # columns of a few values next to each other are slow: wrap them
        whole = outer // num_folded * num_folded
        folded = GridSums.empty((num_folded * cells,))
        _add_columns(folded, values[:whole].reshape(-1, num_folded * cells))
        while len(folded.count) > cells:
            half = len(folded.count) // 2
            rest, folded = folded.at((slice(half, None),)), folded.at((slice(half),))
            folded.merge(rest)
        sums.merge(folded)
        values = values[whole:]
    width = min(cells, max(_COLUMNS, BLOCK_VALUES // outer))
    num_rows = BLOCK_VALUES // width
    for cell, row in product(range(0, cells, width), range(0, len(values), num_rows)):
        _add_column_part(sums.at((slice(cell, cell + width),)), values[row : row + num_rows, cell : cell + width])


def _add_column_part(sums: GridSums, part: np.ndarray) -> None:
    _widen(sums, np.fmin.reduce(part, axis=0), np.fmax.reduce(part, axis=0))
    floats = _floats(part)
    floats -= sums.start
    count: int | np.ndarray = len(part)
    total = np.add.reduce(floats, axis=0)
    if not np.isfinite(total).all():
        count = np.add.reduce(_without_missing(floats), axis=0, dtype=np.int64)
        total = np.add.reduce(floats, axis=0)
    _add(sums, count, total, np.add.reduce(np.square(floats, out=floats), axis=0))


def _widen(sums: GridSums, low: np.ndarray, high: np.ndarray) -> None:
    """Take in a range, and count from it where there was none."""
    np.fmin(sums.low, low, out=sums.low)
    np.fmax(sums.high, high, out=sums.high)
    if not sums.count.all():
        np.copyto(sums.start, low, where=(sums.count == 0) & np.isfinite(low))


def _add(sums: GridSums, count: int | np.ndarray, total: np.ndarray, squares: np.ndarray) -> None:
    sums.count += count
    sums.total += total
    sums.squares += squares


def _floats(part: np.ndarray) -> np.ndarray:
    """Copy to memory that is used again."""
    floats = scratch().values[: part.size].reshape(part.shape)
    np.copyto(floats, part)
    return floats


def _without_missing(floats: np.ndarray) -> np.ndarray:
    """Make NaN 0 in place, and say what was none."""
    present: np.ndarray = np.equal(floats, floats)
    mask = np.negative(present.view(np.int8), out=scratch().mask[: floats.size].reshape(floats.shape), dtype=np.int64)
    bits = floats.view(np.int64)
    bits &= mask  # by bits, for a choice by value costs several times as much where it cannot be foreseen
    return present


def _row_squares(floats: np.ndarray) -> np.ndarray:
    """Sum the squares over the last axis, in rows that BLAS takes on one thread."""
    length = floats.shape[-1]
    width = _row_width(length)
    if width < 64 < length:
        squared = np.square(floats, out=scratch().squares[: floats.size].reshape(floats.shape))
        return np.asarray(np.add.reduce(squared, axis=-1))
    rows = floats.reshape(*floats.shape[:-1], length // width, width)
    return np.asarray(np.add.reduce(np.vecdot(rows, rows), axis=-1))


@lru_cache
def _row_width(length: int) -> int:
    """Return the largest divisor that is short enough for a product."""
    return next(width for width in range(min(length, _ROW_VALUES), 0, -1) if length % width == 0)
