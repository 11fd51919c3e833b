"""Hashes of values of any type: 64 bits, equal for equal values whatever type the column has in another chunk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dtk.statistics.hashed_rows import hash_rows, splitmix64
from dtk.statistics.keys import category_keys
from dtk.statistics.kinds import infer_kind, stored_numbers, without_views

__all__ = ["hash_keys", "hash_values"]

_NS_PER_S = 10**9
_BLOCK_TEXTS = 32_768
_BEYOND = np.uint64(0xE7037ED1A0B428DB)  # of whole numbers that int64 doesn't hold
_FRACTION = np.uint64(0xA0761D6478BD642F)  # and of all other floats
_TEXT = np.uint64(0x8EBC6AF09C88C6E3)
_BOOLEAN = np.uint64(0x589965CC75374CC3)
_MIX = np.uint64(0xD6E8FEB86659FD93)


def hash_keys(values: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Hash values, and say which are there.

    Parameters
    ----------
    values : pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows], of any type but lists and structs.

    Returns
    -------
    hashes : numpy.ndarray
        uint64 [rows]: those of `hash_values`; anything where a value is missing.
    present : numpy.ndarray
        bool [rows].

    Raises
    ------
    DataError
        If the type has no categories.
    """
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    parts = [_hash_chunk(chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk) for chunk in chunks]
    if not parts:
        return np.empty(0, np.uint64), np.empty(0, bool)
    hashes, present = zip(*parts, strict=True)
    return np.concatenate(hashes), np.concatenate(present)


def _hash_chunk(chunk: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    if pa.types.is_dictionary(chunk.type):
        if len(chunk.dictionary) > len(chunk):
            return _hash_chunk(chunk.dictionary_decode())
        hashes, present = _hash_chunk(chunk.dictionary)
        if not len(hashes):
            return np.zeros(len(chunk), np.uint64), np.zeros(len(chunk), bool)
        codes = chunk.indices.fill_null(0).to_numpy()
        return hashes[codes], present[codes] & chunk.indices.is_valid().to_numpy(zero_copy_only=False)
    chunk = without_views(chunk)
    present = np.logical_not(chunk.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))
    hashes = np.zeros(len(chunk), np.uint64)
    if present.any():
        hashes[present] = hash_values(chunk if present.all() else chunk.filter(pa.array(present)))
    return hashes, present


def hash_values(values: pa.Array) -> np.ndarray:
    """Hash values that are not null.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows]: of any type but lists and structs; no nulls, no NaN, no dictionary.

    Returns
    -------
    numpy.ndarray
        uint64 [rows]. Equal values have equal hashes: 1 and 1.0, "a" as string and as large_string, a date and the
        timestamp of its midnight, the same time in another unit. Integers, dates, times and durations have different
        hashes if they differ, all others all but surely.

    Raises
    ------
    DataError
        If the type has no categories.
    """
    dtype = values.type
    if pa.types.is_null(dtype):
        return np.empty(0, np.uint64)
    if pa.types.is_boolean(dtype):
        return hash_rows(stored_numbers(values)[0].astype(np.uint64) ^ _BOOLEAN)
    if infer_kind(dtype) in ("number", "date") and not pa.types.is_decimal(dtype):
        numbers, unit = stored_numbers(values)
        # beyond the years of int64 this wraps around; no two times from the years 0 to 9999 become the same
        if unit.ns_per_tick is not None:
            numbers = numbers.astype(np.int64) * unit.ns_per_tick
        elif unit.ticks_per_s is not None:
            numbers = numbers.astype(np.int64) * (_NS_PER_S // unit.ticks_per_s)
        return _hash_floats(numbers) if numbers.dtype.kind == "f" else _hash_integers(numbers)
    if pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_fixed_size_binary(dtype):
        return _hash_text(values.cast(pa.large_binary()))
    return _hash_text(category_keys(values))


def _hash_integers(numbers: np.ndarray) -> np.ndarray:
    """Hash integers one to one, but for those that only uint64 holds beside negative ones."""
    bits = numbers.astype(np.uint64)
    if numbers.dtype == np.uint64:
        bits[numbers >= 2**63] ^= _BEYOND
    return hash_rows(bits)


def _hash_floats(numbers: np.ndarray) -> np.ndarray:
    """Hash floats, whole ones like integers: a column of integers with nulls may come as floats."""
    floats = numbers.astype(np.float64) + 0.0  # -0.0 and 0.0 are one
    bits = floats.view(np.uint64) ^ _FRACTION
    whole = np.trunc(floats) == floats
    for low, high, dtype, salt in (
        (-(2.0**63), 2.0**63, np.int64, np.uint64(0)),
        (2.0**63, 2.0**64, np.uint64, _BEYOND),
    ):
        fits = whole & (floats >= low) & (floats < high)
        bits[fits] = floats[fits].astype(dtype).astype(np.uint64) ^ salt
    return hash_rows(bits)


def _hash_text(texts: pa.Array) -> np.ndarray:
    """Hash the bytes of texts, a block that stays in the cache at a time."""
    blocks = [_hash_text_block(texts.slice(start, _BLOCK_TEXTS)) for start in range(0, len(texts), _BLOCK_TEXTS)]
    return np.concatenate([np.empty(0, np.uint64), *blocks])


def _hash_text_block(texts: pa.Array) -> np.ndarray:
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
