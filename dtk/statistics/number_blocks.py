"""Blocks of a column's numbers that stay in a core's cache, summed up in memory that is used again.

Nothing here takes fresh memory that grows with the block: on a worker, whose allocator gives memory back at once,
touching it for the first time costs more than all the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import local
from typing import Final

import numpy as np
import pyarrow as pa

__all__ = ["BLOCK_VALUES", "Scratch", "as_floats", "base_of", "fill_absent", "present_blocks", "scratch"]

BLOCK_VALUES: Final = 65_536
_EXACT: Final = 2**53  # float64 holds every integer up to here
_held = local()


class Scratch:
    """A thread's memory for one block."""

    def __init__(self) -> None:
        self.values = np.empty(BLOCK_VALUES)
        self.distances = np.empty(BLOCK_VALUES)
        self.squares = np.empty(BLOCK_VALUES)
        self.mask = self.squares.view(np.int64)  # of no use any more when squares are


def scratch() -> Scratch:
    """Return this thread's memory.

    Returns
    -------
    Scratch
        With any content.
    """
    if not hasattr(_held, "scratch"):
        _held.scratch = Scratch()
    found: Scratch = _held.scratch
    return found


def present_blocks(chunk: pa.Array, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Cut the numbers of a chunk into blocks, and say which are not null.

    Parameters
    ----------
    chunk : pyarrow.Array
        Shape [rows].
    numbers : numpy.ndarray
        Shape [rows]: its numbers, anything where it is null.

    Yields
    ------
    numbers : numpy.ndarray
        Shape [values], at most `BLOCK_VALUES`, one of them at least present.
    present : numpy.ndarray or None
        bool [values]; None where all are.
    """
    if chunk.null_count == len(chunk):
        return
    validity = np.frombuffer(chunk.buffers()[0], np.uint8) if chunk.null_count else None
    for start in range(0, len(numbers), BLOCK_VALUES):
        block = numbers[start : start + BLOCK_VALUES]
        if validity is None:
            yield block, None
            continue
        first_byte, first_bit = divmod(chunk.offset + start, 8)
        packed = validity[first_byte : first_byte + len(block) // 8 + 2]
        present = np.unpackbits(packed, bitorder="little")[first_bit : first_bit + len(block)].view(bool)
        if present.all():
            yield block, None
        elif present.any():
            yield block, present


def fill_absent(numbers: np.ndarray, present: np.ndarray, memory: Scratch) -> np.ndarray:
    """Put a present number where numbers are absent, which leaves their range as it is.

    Parameters
    ----------
    numbers : numpy.ndarray
        Shape [values], 8 bytes each.
    present : numpy.ndarray
        bool [values], at least one true.
    memory : Scratch
        Its `values` are overwritten with the answer, and its `mask`.

    Returns
    -------
    numpy.ndarray
        Shape [values]: each absent number is the first present one.
    """
    # by bits, for a choice by value costs several times as much where it cannot be foreseen
    bits, out = numbers.view(np.int64), memory.values.view(np.int64)[: len(numbers)]
    first = bits[present.argmax()]
    mask = np.negative(present.view(np.int8), out=memory.mask[: len(numbers)], dtype=np.int64)
    np.bitwise_xor(bits, first, out=out)
    np.bitwise_and(out, mask, out=out)
    np.bitwise_xor(out, first, out=out)
    return out.view(numbers.dtype)


def base_of(low: int | float, high: int | float) -> int:
    """Return what integers are counted from so that float64 holds them.

    Parameters
    ----------
    low, high : int or float
        Their range.

    Returns
    -------
    int
        0 but for integers beyond 2**53.
    """
    return low if isinstance(low, int) and not -_EXACT <= low <= high <= _EXACT else 0


def as_floats(numbers: np.ndarray, base: int, out: np.ndarray) -> np.ndarray:
    """Turn numbers into float64, less a base.

    Parameters
    ----------
    numbers : numpy.ndarray
        Shape [values].
    base : int
        What `base_of` says.
    out : numpy.ndarray
        float64 [values or more], overwritten; it may hold the numbers.

    Returns
    -------
    numpy.ndarray
        float64 [values].
    """
    if numbers.dtype == np.float64:
        return numbers
    out = out[: len(numbers)]
    if base:  # counted from their minimum, int64 and uint64 fit into uint64, and wrap around rightly
        offsets = np.subtract(numbers.view(np.uint64), np.uint64(base % 2**64), out=out.view(np.uint64))
        numbers = offsets if offsets.max() >= 2**63 else offsets.view(np.int64)  # which is faster to convert
    np.copyto(out, numbers)
    return out
