"""Distinct keys and their counts, in buckets where there are many: to join all at once takes six times their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.statistics.hashing import hash_values

__all__ = ["Counted", "KeyCounts", "joined_keys", "num_bytes"]

Counted = tuple[pa.Array, np.ndarray]
"""Keys without nulls, and int64 [keys]: how often each occurs."""

_BUCKETS: Final = 32
_SPLIT_NBYTES: Final = 4 * 2**20


class KeyCounts:
    """Distinct keys and their counts; above some MiB they are cut into buckets by the keys' hashes."""

    def __init__(self) -> None:
        self._buckets: list[Counted] = []

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._buckets)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and counts."""
        return sum(num_bytes(keys) for keys, _ in self._buckets)

    @property
    def buckets(self) -> list[Counted]:
        """The keys and counts, in any order; no key is in two of them."""
        return list(self._buckets)

    @property
    def keys(self) -> pa.Array:
        """All keys, in any order."""
        return pa.concat_arrays([keys for keys, _ in self._buckets]) if self._buckets else pa.nulls(0)

    @property
    def counts(self) -> np.ndarray:
        """The counts, in the order of `keys`: int64 [keys]."""
        return np.concatenate([counts for _, counts in self._buckets]) if self._buckets else np.empty(0, np.int64)

    @property
    def bytes_each(self) -> np.ndarray:
        """The bytes that each key takes, with its count: int64 [keys]."""
        sizes = [16 + _text_lengths(keys) for keys, _ in self._buckets]
        return np.concatenate(sizes) if sizes else np.empty(0, np.int64)

    def set(self, buckets: Sequence[Counted]) -> None:
        """Take over keys and counts.

        Parameters
        ----------
        buckets : sequence of (pyarrow.Array, numpy.ndarray)
            As of another one's `buckets`, which they are shared with.
        """
        self._buckets = list(buckets)

    def fold(self, pending: Sequence[Counted]) -> None:
        """Add counts to those that are held.

        Parameters
        ----------
        pending : sequence of (pyarrow.Array, numpy.ndarray)
            Keys, which may repeat, and their counts.
        """
        held = self._buckets if len(self) else []
        keys, counts = zip(*held, *pending, strict=True)
        parts = list(zip(_of_one_type(keys), counts, strict=True))
        is_split = len(held) == _BUCKETS and parts[0][0].type == held[0][0].type
        if is_split:
            held, pending = parts[:_BUCKETS], parts[_BUCKETS:]
        elif sum(num_bytes(keys) for keys, _ in parts) <= _SPLIT_NBYTES:
            self._buckets = [_summed(parts)]
            return
        else:
            empty = parts[0][0][:0], np.empty(0, np.int64)
            held, pending = [empty] * _BUCKETS, parts
        orders = [_by_bucket(keys) for keys, _ in pending]
        self._buckets = held
        for bucket in range(_BUCKETS):  # one after the other, so that little is in work at a time
            pieces = [held[bucket]]
            for (keys, counts), (order, edges) in zip(pending, orders, strict=True):
                index = order[edges[bucket] : edges[bucket + 1]]
                pieces.append((keys.take(pa.array(index)), counts[index]))
            self._buckets[bucket] = _summed(pieces)
        del held, pieces, parts
        pa.default_memory_pool().release_unused()  # or what was freed stays between what is held

    def lower(self, excess: int) -> None:
        """Lower all counts, and let go of the keys that have none left.

        Parameters
        ----------
        excess : int
            By how much.
        """
        for number, (keys, counts) in enumerate(self._buckets):
            stays = counts > excess
            self._buckets[number] = keys.filter(pa.array(stays)), counts[stays] - excess


def num_bytes(keys: pa.Array) -> int:
    """Count the bytes of keys and their counts.

    Parameters
    ----------
    keys : pyarrow.Array
        Of any type.

    Returns
    -------
    int
        Of slices, only what they show.
    """
    return int(keys.nbytes) + 8 * len(keys)


def _summed(parts: Sequence[Counted]) -> Counted:
    """Join parts of one type; equal keys become one."""
    keys, counts = zip(*parts, strict=True)
    encoded = pa.concat_arrays(keys).dictionary_encode()
    # weighted as float64, which is exact up to 2**53 rows
    sums = np.bincount(encoded.indices.to_numpy(), weights=np.concatenate(counts), minlength=len(encoded.dictionary))
    return encoded.dictionary, sums.astype(np.int64)


def _by_bucket(keys: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of keys by bucket, and where each bucket begins and ends in it."""
    buckets = (hash_values(keys) >> np.uint64(56)).astype(np.uint8) % np.uint8(_BUCKETS)
    edges = np.concatenate([[0], np.cumsum(np.bincount(buckets, minlength=_BUCKETS))])
    return np.argsort(buckets, kind="stable").astype(np.int32), edges


def joined_keys(parts: Sequence[pa.Array]) -> pa.Array:
    """Join keys; where parts differ in type, numbers become floats and all else text.

    Parameters
    ----------
    parts : sequence of pyarrow.Array
        At least one.

    Returns
    -------
    pyarrow.Array
        In order.
    """
    return pa.concat_arrays(_of_one_type(parts))


def _of_one_type(parts: Sequence[pa.Array]) -> list[pa.Array]:
    dtypes = {part.type for part in parts}
    if len(dtypes) == 1:
        return list(parts)
    are_numbers = all(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) for dtype in dtypes)
    common = pa.float64() if are_numbers else pa.large_string()
    return [part.cast(common, safe=False) for part in parts]


def _text_lengths(keys: pa.Array) -> np.ndarray:
    is_text = pa.types.is_large_string(keys.type)
    return np.asarray(pc.binary_length(keys).to_numpy() if is_text else np.zeros(len(keys), np.int64))
