"""The index of a Zarr shard: where its chunks lie in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from dtk.sources.byte_ranges import Span

__all__ = ["Cell", "ShardIndex"]

Cell = tuple[int, ...]

_ABSENT: Final = 2**64 - 1  # what an index says of a chunk that is not there
_CHECKSUM_NBYTES: Final = 4
_OVERHEAD_NBYTES: Final = 1 << 16  # of a codec, at most, beside twice the chunk


@dataclass(frozen=True)
class ShardIndex:
    """How the index of a shard is written.

    Parameters
    ----------
    grid : tuple of int
        The chunks of the shard along each dimension.
    is_first : bool
        Whether the index lies at the start of the shard; else at its end.
    has_checksum : bool
        Whether a CRC32C follows it.
    chunk_nbytes : int
        Bytes of a decoded chunk.
    """

    grid: Cell
    is_first: bool
    has_checksum: bool
    chunk_nbytes: int

    @property
    def nbytes(self) -> int:
        """Its size, with the checksum."""
        return 16 * int(np.prod(self.grid, dtype=np.int64)) + _CHECKSUM_NBYTES * self.has_checksum

    def spans(self, content: memoryview, wanted: Iterable[Cell]) -> dict[Cell, Span | None]:
        """Find chunks.

        Parameters
        ----------
        content : memoryview
            The index, with the checksum.
        wanted : iterable of tuple of int
            Places of the chunks in the grid.

        Returns
        -------
        dict
            For each its first byte in the shard, and the one after the last; None where it is not there.

        Raises
        ------
        ValueError
            If the index is damaged.
        """
        if len(content) != self.nbytes:
            raise ValueError(f"its index has {len(content)} bytes where {self.nbytes} belong")
        if self.has_checksum:
            import google_crc32c  # Zarr has it

            content, checksum = content[:-_CHECKSUM_NBYTES], content[-_CHECKSUM_NBYTES:]
            if google_crc32c.value(bytes(content)) != int.from_bytes(checksum, "little"):
                raise ValueError("its index does not have the checksum that follows it")
        places = np.frombuffer(content, "<u8").reshape(*self.grid, 2)  # of each chunk: first byte, bytes
        found: dict[Cell, Span | None] = {}
        for cell in wanted:
            begin, nbytes = places[cell].tolist()
            if begin != _ABSENT and nbytes > 2 * self.chunk_nbytes + _OVERHEAD_NBYTES:
                raise ValueError(f"its index says that chunk {cell} takes {nbytes} bytes")
            found[cell] = None if begin == _ABSENT else (begin, begin + nbytes)
        return found

    def chunks(self, shard: memoryview, wanted: Iterable[Cell]) -> dict[Cell, memoryview | None]:
        """Cut chunks out of a shard.

        Parameters
        ----------
        shard : memoryview
            All of it.
        wanted : iterable of tuple of int
            Places of the chunks in the grid.

        Returns
        -------
        dict
            The encoded chunks; None where one is not there.

        Raises
        ------
        ValueError
            If the shard is cut off, or its index is damaged.
        """
        index = shard[: self.nbytes] if self.is_first else shard[-self.nbytes :]
        found: dict[Cell, memoryview | None] = {}
        for cell, span in self.spans(index, wanted).items():
            if span is not None and span[1] > len(shard):
                raise ValueError(f"chunk {cell} ends at byte {span[1]} of {len(shard)}")
            found[cell] = None if span is None else shard[slice(*span)]
        return found
