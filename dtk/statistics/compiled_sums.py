"""Sums by the compiled kernel, in one pass over the numbers; where it was not built, NumPy does the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

try:
    from dtk.statistics import _sums  # type: ignore[attr-defined,unused-ignore]
except ImportError:  # it is optional
    _sums = None

__all__ = ["add_rows", "count_codes", "sum_numbers"]

_FEW_CODES: Final = 65_536

_KINDS: Final = {
    np.dtype(name): kind for kind, name in enumerate(("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"))
}


def add_rows(values: np.ndarray, cells: Sequence[np.ndarray]) -> bool:
    """Add rows of numbers to the sums of cells.

    Parameters
    ----------
    values : numpy.ndarray
        Shape [outer, cells, length], C-contiguous: NaN is left out.
    cells : sequence of numpy.ndarray
        Each [cells], C-contiguous: those of `dtk.statistics.grid_sums.GridSums`, in order. Changed in place.

    Returns
    -------
    bool
        Whether it is done; False without the kernel, or for a type that it does not know.
    """
    kind = _KINDS.get(values.dtype)
    if _sums is None or kind is None:
        return False
    _sums.add_rows(values, kind, *values.shape, *cells)
    return True


def count_codes(codes: np.ndarray, chunk: pa.Array, num_codes: int) -> np.ndarray | None:
    """Count the codes of a chunk that are not null.

    Parameters
    ----------
    codes : numpy.ndarray
        Integers [rows], C-contiguous: the codes of the chunk, anything where it is null.
    chunk : pyarrow.Array
        Shape [rows]: says which are null.
    num_codes : int
        Codes run from 0 to ``num_codes - 1``.

    Returns
    -------
    numpy.ndarray or None
        int64 [codes]: how often each occurs; None without the kernel.
    """
    if _sums is None:
        return None
    counts = np.zeros((4 if num_codes <= _FEW_CODES else 1, num_codes), np.int64)
    validity = chunk.buffers()[0] if chunk.null_count else None
    _sums.count_codes(codes, _KINDS[codes.dtype], validity, chunk.offset, counts, num_codes)
    return np.asarray(counts.sum(axis=0))


def sum_numbers(numbers: np.ndarray, chunk: pa.Array) -> tuple[int, float, float, float, float] | None:
    """Sum up the numbers of a chunk that are neither null nor NaN.

    Parameters
    ----------
    numbers : numpy.ndarray
        Shape [rows], C-contiguous: the numbers of the chunk, anything where it is null.
    chunk : pyarrow.Array
        Shape [rows]: says which are null.

    Returns
    -------
    tuple or None
        How many there are, their mean, the sum of the squares of their distances from it, the smallest and the
        largest. None without the kernel, and for what it leaves to NumPy: unusual types, infinite values, integers
        beyond 2**53.
    """
    kind = _KINDS.get(numbers.dtype)
    if _sums is None or kind is None:
        return None
    validity = chunk.buffers()[0] if chunk.null_count else None
    found: tuple[int, float, float, float, float] | None = _sums.sum_numbers(numbers, kind, validity, chunk.offset)
    return found
