"""Hashes of values of any type: 64 bits, equal for equal values whatever type the column has in another chunk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dtk.statistics.hashed_rows import splitmix64
from dtk.statistics.kinds import category_keys

__all__ = ["hash_values"]

_WHOLE = np.uint64(0xA0761D6478BD642F)  # of integers that float64 doesn't hold
_BEYOND = np.uint64(0xE7037ED1A0B428DB)  # and of those beyond int64
_TEXT = np.uint64(0x8EBC6AF09C88C6E3)
_BOOLEAN = np.uint64(0x589965CC75374CC3)
_MIX = np.uint64(0xD6E8FEB86659FD93)


def hash_values(values: pa.Array) -> np.ndarray:
    """Hash values that are not null.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows]: what has categories, see `dtk.statistics.category_keys`; no nulls, no dictionary.

    Returns
    -------
    numpy.ndarray
        uint64 [rows]. Equal keys have equal hashes: 1 and 1.0, "a" as string and as large_string, a date and the
        timestamp of its midnight. Numbers have different hashes if they differ, texts all but surely.

    Raises
    ------
    DataError
        If the type has no categories.
    """
    keys = category_keys(values)
    if pa.types.is_large_string(keys.type):
        return _hash_text(keys)
    if pa.types.is_boolean(keys.type):
        return splitmix64(np.asarray(keys.cast(pa.uint8()).to_numpy(), np.uint64) ^ _BOOLEAN)
    if pa.types.is_null(keys.type):
        return np.empty(0, np.uint64)
    numbers = keys.to_numpy()
    floats = numbers.astype(np.float64)
    hashes = splitmix64((floats + 0.0).view(np.uint64))
    if numbers.dtype.kind in "iu":
        limit = 2.0**63 if numbers.dtype.kind == "i" else 2.0**64
        fits = floats < limit  # or the way back would overflow
        is_whole = np.zeros(len(numbers), bool)
        is_whole[fits] = floats[fits].astype(numbers.dtype) == numbers[fits]
        rest = numbers[~is_whole]
        salts = np.where(rest > np.iinfo(np.int64).max, _BEYOND, _WHOLE)
        hashes[~is_whole] = splitmix64(rest.view(np.uint64) ^ salts)
    return hashes


def _hash_text(texts: pa.Array) -> np.ndarray:
    """Hash the bytes of texts, eight at a time in all texts that are as long."""
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(offsets)
    hashes = splitmix64(lengths.astype(np.uint64) ^ _TEXT)
    size = int(offsets[-1] - offsets[0])
    if size:
        padded = np.zeros(size + 8, np.uint8)
        padded[:size] = np.frombuffer(texts.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        _mix_words(hashes, padded, offsets[:-1] - offsets[0], lengths)
    return splitmix64(hashes)


def _mix_words(hashes: np.ndarray, padded: np.ndarray, start: np.ndarray, lengths: np.ndarray) -> None:
    """Mix the bytes of each text into its hash; there are eight bytes after the last text."""
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))  # the one that starts at each byte
    rows: slice | np.ndarray = slice(None)  # those that are long enough
    for position in range(0, int(lengths.max()), 8):
        left = lengths[rows] - position
        if left.min() <= 0:
            rows = np.flatnonzero(lengths > position)
            left = lengths[rows] - position
        word = words[start[rows] + position]
        word &= np.uint64(2**64 - 1) >> (np.maximum(8 - left, 0) * 8).astype(np.uint64)
        word ^= hashes[rows]
        word *= _MIX
        word ^= word >> np.uint64(32)
        hashes[rows] = word
