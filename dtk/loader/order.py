"""The order of samples: a pure function of the order's parameters and the epoch.

The rows on disk become global batches in these steps; nothing but (parameters, seed, epoch) decides any of them::

    chunks ─ blocks ─ stream ─────────── shards ───────── fills ──────── global batches
             slices   stratified random  K ranges,        whole blocks,  position p of a shard is
             of one   order of blocks    odd ones run     permuted       row p // g of its columns,
             chunk                       backwards        together       g slots a step

Shards belong to the order and not to the ranks: rank r of any R owns a range of the slots of each global batch, so
that every number of ranks sees the same global batches.

Where chunks have weights, an epoch has as many rows as the data, but they are drawn with replacement: each epoch shares
them out among the chunks anew, and what a chunk got is cut into blocks like the rows of a chunk elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dtk.loader.dealing import GOLDEN, Tail, dealt, even_bounds, shard_bounds
from dtk.loader.draws import rows_a_draw, shared_out
from dtk.loader.segments import Fills, Integers, Segments, clip, cut, ranges, sliced, typical, without

__all__ = ["Order", "Tail"]

_STREAM, _TRIM, _FILL, _SHARE, _DRAW = range(5)  # what a random stream is for


@dataclass(frozen=True, eq=False)
class Order:
    """The order of samples, for every epoch and any number of ranks.

    Parameters
    ----------
    chunk_rows : numpy.ndarray
        An int64 ``[chunks]``: the rows of each chunk, in the order on disk.
    global_batch_size : int
        Samples of a global batch.
    num_shards : int
        Canonical shards, at most `global_batch_size`; each fills its own slots of the global batch. 1 without shuffle.
    fill_rows : int
        The most rows of a shard that are permuted together: a shard's part of the pool.
    block_rows : int, optional
        The most rows of a block; None for whole chunks.
    join_rows : int, optional
        About the rows that small row groups are joined to, which are then the chunks; None if none are.
    seed : int
        The seed; not negative.
    tail : {"trim", "pad"}
        What becomes of the rows that fill no global batch: left out, at places that are random anew in each epoch, or
        handed out in a last batch that is padded with weight 0.
    shuffle : bool
        Whether to shuffle; else every epoch has the order on disk.
    chunk_weights : numpy.ndarray, optional
        A float64 ``[chunks]``: what the rows of each chunk weigh together. Rows are then drawn by their weights, with
        replacement; else each comes once. Needs `shuffle`.
    """

    chunk_rows: Integers
    global_batch_size: int
    num_shards: int
    fill_rows: int
    block_rows: int | None = None
    join_rows: int | None = None
    seed: int = 0
    tail: Tail = "trim"
    shuffle: bool = True
    chunk_weights: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunk_rows", np.ascontiguousarray(self.chunk_rows, dtype=np.int64))
        if self.chunk_weights is not None:
            object.__setattr__(self, "chunk_weights", np.ascontiguousarray(self.chunk_weights, dtype=np.float64))
            assert self.shuffle
        assert 1 <= self.num_shards <= self.global_batch_size
        assert self.shuffle or self.num_shards == 1
        assert self.fill_rows >= 1
        assert self.seed >= 0

    @cached_property
    def num_rows(self) -> int:
        """Rows of the source, and of an epoch."""
        return int(self.chunk_rows.sum())

    @cached_property
    def expected_rows(self) -> Integers:
        """Rows of each chunk in an epoch, int64 ``[chunks]``; on average and rounded up, where they are drawn."""
        if self.chunk_weights is None:
            return self.chunk_rows
        total = float(self.chunk_weights.sum())
        return np.ceil(self.num_rows * (self.chunk_weights / (total or 1.0))).astype(np.int64)

    @property
    def num_steps(self) -> int:
        """Global batches of an epoch."""
        if self.tail == "trim":
            return self.num_rows // self.global_batch_size
        return -(-self.num_rows // self.global_batch_size)

    @cached_property
    def shard_slots(self) -> Integers:
        """Bounds of the shards' slots, int64 ``[shards + 1]``: shard k fills ``[k]``, inclusive, to ``[k + 1]``."""
        return even_bounds(self.num_shards, self.global_batch_size)

    @cached_property
    def digest(self) -> str:
        """Hash of everything that the order depends on, in hex."""
        text = json.dumps(self.parameters(), sort_keys=True)
        weights = b"" if self.chunk_weights is None else self.chunk_weights.tobytes()
        return hashlib.sha256(text.encode() + self.chunk_rows.tobytes() + weights).hexdigest()

    def parameters(self) -> dict[str, Any]:
        """Return all parameters but the rows and weights of the chunks.

        Returns
        -------
        dict
            Plain values, fit for JSON, by the names of the constructor.
        """
        return {
            "global_batch_size": self.global_batch_size,
            "num_shards": self.num_shards,
            "fill_rows": self.fill_rows,
            "block_rows": self.block_rows,
            "join_rows": self.join_rows,
            "seed": self.seed,
            "tail": self.tail,
            "shuffle": self.shuffle,
        }

    @classmethod
    def from_parameters(
        cls, chunk_rows: Integers, parameters: dict[str, Any], chunk_weights: NDArray[np.float64] | None = None
    ) -> Self:
        """Make an order from what `parameters` returned.

        Parameters
        ----------
        chunk_rows : numpy.ndarray
            An int64 ``[chunks]``: the rows of each chunk.
        parameters : dict
            All other parameters.
        chunk_weights : numpy.ndarray, optional
            A float64 ``[chunks]``: the weights of each chunk.

        Returns
        -------
        Order
            The same order.
        """
        return cls(chunk_rows, chunk_weights=chunk_weights, **parameters)

    def epoch_rows(self, epoch: int) -> Integers:
        """Return the rows of each chunk in an epoch.

        Parameters
        ----------
        epoch : int
            The epoch.

        Returns
        -------
        numpy.ndarray
            An int64 ``[chunks]`` whose sum is `num_rows`: those of the chunk, or as many as are drawn of it.
        """
        if self.chunk_weights is None:
            return self.chunk_rows
        return shared_out(self._random(epoch, _SHARE), self.num_rows, self.chunk_weights)

    def draw_random(self, epoch: int, chunk: int, number: int) -> np.random.Generator:
        """Return what decides which rows are drawn of a chunk.

        Parameters
        ----------
        epoch : int
            The epoch.
        chunk : int
            The chunk.
        number : int
            Of the draw: each is of `rows_a_draw` rows, the last one of a chunk of what is left.

        Returns
        -------
        numpy.random.Generator
            The same wherever a rank reads the chunk.
        """
        return self._random(epoch, _DRAW, chunk, number)

    def samples_in_step(self, step: int) -> int:
        """Count the real rows of a global batch.

        Parameters
        ----------
        step : int
            The step within the epoch.

        Returns
        -------
        int
            The global batch size, or less in the last step where that is padded.
        """
        return min(self.global_batch_size, self.num_rows - step * self.global_batch_size)

    def rank_slots(self, rank: int, ranks: int) -> tuple[int, int]:
        """Return the slots of each global batch that a rank owns.

        Parameters
        ----------
        rank : int
            The rank.
        ranks : int
            The number of ranks.

        Returns
        -------
        tuple of int
            The first slot, inclusive, and the last, exclusive.
        """
        bound = [-(-(rank + end) * self.global_batch_size // ranks) for end in (0, 1)]
        return bound[0], bound[1]

    def batch_width(self, ranks: int) -> int:
        """Return the rows of a rank's batch, padding included.

        Parameters
        ----------
        ranks : int
            The number of ranks.

        Returns
        -------
        int
            The same for all ranks.
        """
        return -(-self.global_batch_size // ranks)

    def rank_shards(self, rank: int, ranks: int) -> list[int]:
        """Return the shards that a rank reads from.

        Parameters
        ----------
        rank : int
            The rank.
        ranks : int
            The number of ranks.

        Returns
        -------
        list of int
            Rising; empty where there are more ranks than slots and this one owns none.
        """
        first, last = self.rank_slots(rank, ranks)
        if first == last:
            return []
        start = int(np.searchsorted(self.shard_slots, first, side="right")) - 1
        stop = int(np.searchsorted(self.shard_slots, last, side="left"))
        return list(range(start, stop))

    def fills(self, epoch: int, shards: Iterable[int]) -> Fills:
        """Lay out the fills of some shards; no other shard's are made.

        Parameters
        ----------
        epoch : int
            The epoch.
        shards : iterable of int
            The shards.

        Returns
        -------
        Fills
            Shard by shard, in the order of time.
        """
        return Fills.joined(list(self.fills_by_shard(epoch, shards)))

    def fills_by_shard(self, epoch: int, shards: Iterable[int]) -> Iterator[Fills]:
        """Lay out the fills of some shards one after the other, which takes less memory than all of them.

        Parameters
        ----------
        epoch : int
            The epoch.
        shards : iterable of int
            The shards.

        Yields
        ------
        Fills
            Those of one shard, in the order of time.
        """
        stream = self._stream(epoch)
        ends = np.cumsum(stream.num_rows)
        bounds = shard_bounds(ends, self.shard_slots, self.num_steps, self.tail).tolist()
        for shard in shards:
            yield self._shard_fills(epoch, shard, clip(stream, ends, bounds[shard], bounds[shard + 1]))

    def shard_rows(self, epoch: int) -> Integers:
        """Count the rows of each shard, before any are left out.

        Parameters
        ----------
        epoch : int
            The epoch.

        Returns
        -------
        numpy.ndarray
            An int64 ``[shards]``.
        """
        return np.diff(
            shard_bounds(np.cumsum(self._stream(epoch).num_rows), self.shard_slots, self.num_steps, self.tail)
        )

    def shuffle_fill(self, places: Integers, epoch: int, shard: int, number: int) -> None:
        """Put the places of a fill in the order of its rows.

        Parameters
        ----------
        places : numpy.ndarray
            An int64 ``[rows]``, contiguous: one for each position of the fill; changed in place, to one for each row
            in the order of the fill's segments.
        epoch : int
            The epoch.
        shard : int
            The shard.
        number : int
            The fill's place among those of its shard.
        """
        if self.shuffle:
            self._random(epoch, _FILL, shard, number).shuffle(places)

    def batch_rows(self, epoch: int, rank: int = 0, ranks: int = 1, start: int = 0) -> Integers:
        """Return which rows a rank hands out; the whole epoch at once, so for small data and for tests.

        Parameters
        ----------
        epoch : int
            The epoch.
        rank : int
            The rank.
        ranks : int
            The number of ranks.
        start : int
            The first step.

        Returns
        -------
        numpy.ndarray
            An int64 ``[num_steps - start, batch_width]``: numbers of rows, counted over the `epoch_rows` of all
            chunks; -1 is padding.
        """
        first, last = self.rank_slots(rank, ranks)
        batches = np.full((max(self.num_steps - start, 0), self.batch_width(ranks)), -1, np.int64)
        fills = self.fills(epoch, self.rank_shards(rank, ranks))
        epoch_rows = self.epoch_rows(epoch)
        chunk_start = np.cumsum(epoch_rows) - epoch_rows
        segments = fills.segments
        rows = ranges(chunk_start[segments.chunk] + segments.first_row, segments.num_rows)
        stops = np.cumsum(fills.num_rows)
        for fill, (stop, num_rows) in enumerate(zip(stops.tolist(), fills.num_rows.tolist(), strict=True)):
            shard = int(fills.shard[fill])
            slot, end = self.shard_slots[shard : shard + 2].tolist()
            position = int(fills.position[fill]) + np.arange(num_rows)
            self.shuffle_fill(position, epoch, shard, int(fills.number[fill]))
            step, column = np.divmod(position, end - slot)
            column += slot
            mine = (column >= first) & (column < last) & (step >= start)
            batches[step[mine] - start, column[mine] - first] = rows[stop - num_rows : stop][mine]
        return batches

    def _random(self, *where: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *where])

    def _blocks(self, epoch: int) -> Segments:
        """Cut the chunks into blocks, in the order on disk; empty chunks give none."""
        rows = self.epoch_rows(epoch)
        most = rows if self.chunk_weights is None else rows_a_draw(rows, self.chunk_rows)
        if self.block_rows is not None and self.shuffle:
            most = np.minimum(most, self.block_rows)
        return cut(rows, most)

    def _stream(self, epoch: int) -> Segments:
        """Put the blocks of all shards in the order of an epoch, shard after shard."""
        blocks = self._blocks(epoch)
        num_blocks = len(blocks.num_rows)
        if not self.shuffle or num_blocks == 0:
            return blocks
        turns = max(1, min(self.fill_rows // typical(blocks.num_rows), num_blocks // self.num_shards))
        return blocks.take(dealt(self._random(epoch, _STREAM), num_blocks, turns, self.num_shards))

    def _shard_fills(self, epoch: int, shard: int, segments: Segments) -> Fills:
        """Turn a shard's range of the stream into fills."""
        if shard % 2:
            # Neighbours then come to the block that their border cuts at the same time, and one decode serves both.
            segments = segments.take(slice(None, None, -1))
        segments = self._trimmed(epoch, shard, segments)
        # Shards that fill their pools at different times need memory for one or two more fills, and not for one each.
        stagger = (shard + 1) * GOLDEN % 1 if self.num_shards > 1 else 1.0
        first_rows = max(int(self.fill_rows * stagger), 1)
        return Fills.filled(shard, sliced(segments, self.fill_rows), self.fill_rows, first_rows)

    def _trimmed(self, epoch: int, shard: int, segments: Segments) -> Segments:
        """Leave out the rows that fill no step, from a random place on: round the corner, so that it is fair to all."""
        total = int(segments.num_rows.sum())
        keep = self.num_steps * int(self.shard_slots[shard + 1] - self.shard_slots[shard])
        if self.tail == "pad" or total <= keep:
            return segments
        start = int(self._random(epoch, _TRIM, shard).integers(total)) if self.shuffle else keep
        return without(segments, start, total - keep)
