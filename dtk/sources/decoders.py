"""Decode chunks of the common codecs to where they belong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["DECODERS", "Decode", "copy"]

Decode = Callable[[Any, Any], Any]


def copy(encoded: memoryview, out: NDArray[Any]) -> None:
    """Take bytes that are not compressed.

    Parameters
    ----------
    encoded : memoryview
        A chunk.
    out : numpy.ndarray
        Where to, contiguous.

    Raises
    ------
    ValueError
        If it has another size.
    """
    _check_nbytes(len(encoded), out)
    flat = out.reshape(-1).view(np.uint8)
    flat[:] = np.frombuffer(encoded, np.uint8)


def _blosc(encoded: memoryview, out: NDArray[Any]) -> None:
    from numcodecs.blosc import decompress

    _check_nbytes(int.from_bytes(encoded[4:8], "little"), out)
    decompress(encoded, out)


def _zstd(encoded: memoryview, out: NDArray[Any]) -> None:
    from numcodecs.zstd import decompress

    nbytes = _zstd_nbytes(encoded)
    if nbytes is None:  # the writer did not know
        copy(memoryview(decompress(encoded)), out)
        return
    _check_nbytes(nbytes, out)
    decompress(encoded, out)


def _lz4(encoded: memoryview, out: NDArray[Any]) -> None:
    from numcodecs.lz4 import decompress

    _check_nbytes(int.from_bytes(encoded[:4], "little"), out)
    decompress(encoded, out)


def _check_nbytes(nbytes: int, out: NDArray[Any]) -> None:
    """Refuse what would leave a part of `out` as it was: the codecs only refuse what is too long."""
    if nbytes != out.nbytes:
        raise ValueError(f"it holds {nbytes} bytes where {out.nbytes} belong")


def _zstd_nbytes(encoded: memoryview) -> int | None:
    """Read from a frame's header how many bytes it holds (RFC 8878, 3.1.1.1); None if it does not say."""
    if len(encoded) < 5:
        raise ValueError("it is cut off")
    flags = encoded[4]
    is_single = bool(flags & 0x20)
    size = (int(is_single), 2, 4, 8)[flags >> 6]
    start = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    if not size or bytes(encoded[:4]) != b"\x28\xb5\x2f\xfd":  # no frame: the codec says so
        return None
    return int.from_bytes(encoded[start : start + size], "little") + (256 if size == 2 else 0)


DECODERS: Final[dict[str, Decode]] = {"blosc": _blosc, "zstd": _zstd, "lz4": _lz4}
"""By the name of a codec, what decodes a chunk to an array; a ValueError or RuntimeError if it is damaged."""
