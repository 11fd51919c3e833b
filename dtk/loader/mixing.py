"""How well an order mixes: the entropy of labels that its batches will have, predicted from metadata.

The order is a pure function, so the runs of rows that are permuted together are known before anything is read. On data
that lies sorted by a label, each run says which labels it holds; a batch is then drawn from the fills that are open at
its step, as the order will draw it. The cost grows with the chunks, by a few vectorised passes, never with the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dtk.arguments import is_whole
from dtk.errors import ArgumentError
from dtk.loader.order import Order
from dtk.loader.segments import Fills, Integers, Segments, ranges

__all__ = ["LABELS", "Mixing"]

LABELS: Final = 10
"""Classes of the data that a plan speaks of where it is not told how many there are."""

_MOST_STEPS: Final = 2048
_MOST_DRAWS: Final = 200_000  # numbers drawn for one prediction, over steps, shards and labels
_MOST_EPOCHS: Final = 16
_MOST_BLOCKS: Final = 500_000  # laid out for one prediction, unless one epoch has more
_FULL_SHUFFLES: Final = 2048
_MIXING: Final = 3  # what a random stream is for: none of the order's


@dataclass(frozen=True, eq=False)
class _Steps:
    """Some steps of an epoch, and the labels of the fills that are open in them."""

    steps: Integers
    ends: Integers  # [fills]: the running total of the rows of all fills, shard after shard
    shard_ends: Integers  # [shards]: the same for the shards
    fill: Integers  # [fills]: the row of a fill in `labels`, or -1 if no step needs it
    labels: Integers  # [open fills, labels]: rows of each label
    open_rows: Integers  # [steps]: rows of the fills that are open


class Mixing:
    """Predicts the entropy of labels in the batches of an order, for data that lies sorted by the label.

    Parameters
    ----------
    order : Order
        The order of samples. It must shuffle, and have a step.
    labels : int or sequence of float
        How many classes of the same size there are, or the share of each, in the order on disk.

    Attributes
    ----------
    order : Order
        As given.
    num_labels : int
        How many classes there are.

    Raises
    ------
    ArgumentError
        If there is no class, or a share is no positive number.
    """

    def __init__(self, order: Order, labels: int | Sequence[float] = LABELS) -> None:
        assert order.shuffle
        assert order.num_steps
        if isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str):
            shares = np.array(labels, np.float64)
        else:
            shares = np.ones(int(labels) if is_whole(labels, 1) else 0)
        if shares.ndim != 1 or not len(shares) or not np.isfinite(shares).all() or shares.min() <= 0:
            raise ArgumentError(f"labels={labels!r} must be a number of classes, at least 1, or the share of each")
        self.order = order
        self.num_labels = len(shares)
        self._known: dict[int, float] = {}
        self._edges = np.round(np.append(0, np.cumsum(shares) / shares.sum()) * order.num_rows).astype(np.int64)
        self._chunk_start = np.cumsum(order.chunk_rows) - order.chunk_rows
        num_blocks = max(1, len(order.chunk_rows), order.num_rows // (order.block_rows or order.num_rows))
        num_epochs = max(1, min(_MOST_EPOCHS, _MOST_BLOCKS // num_blocks))
        num_steps = int(min(_MOST_STEPS, max(16, _MOST_DRAWS // (order.num_shards * len(shares)))))
        full_steps = max(1, order.num_rows // order.global_batch_size)
        some = min(full_steps, -(-num_steps // num_epochs))
        random = np.random.default_rng([order.seed, 0, _MIXING])
        self._parts = [
            self._open(epoch, np.sort(random.choice(full_steps, some, replace=False))) for epoch in range(num_epochs)
        ]

    def entropy(self, ranks: int = 1) -> float:
        """Predict the mean entropy of labels in a rank's batch.

        Parameters
        ----------
        ranks : int
            The number of ranks; 1 for the global batch.

        Returns
        -------
        float
            As a share of the mean entropy in batches of as many samples of a full shuffle: 1 is as good as that.
        """
        if ranks not in self._known:
            self._known[ranks] = self._predicted(ranks)
        return self._known[ranks]

    def _predicted(self, ranks: int) -> float:
        random = np.random.default_rng([self.order.seed, 1, _MIXING])
        drawn = np.concatenate([self._drawn(random, part, ranks) for part in self._parts])
        sizes = drawn.sum(axis=1)
        drawn, sizes = drawn[sizes > 0], sizes[sizes > 0]
        whole = np.tile(np.diff(self._edges), (_FULL_SHUFFLES, 1))
        alike = np.sort(sizes)[np.linspace(0, len(sizes) - 1, _FULL_SHUFFLES).astype(np.int64)]
        full = float(_entropy(_draw(random, whole, alike)).mean())
        return float(_entropy(drawn).mean()) / full if full else 1.0

    @property
    def pool_rows(self) -> float:
        """Mean number of rows in the fills that are open at a step, those of all shards."""
        return float(np.mean(np.concatenate([part.open_rows for part in self._parts])))

    def _open(self, epoch: int, steps: Integers) -> _Steps:
        """Count the labels of the fills that some steps draw from."""
        order, num_open = self.order, 0
        shard_ends = [0]
        parts: list[tuple[Integers, Integers, Integers]] = []
        open_rows = np.zeros(len(steps), np.int64)
        slots = np.diff(order.shard_slots).tolist()
        for shard, fills in enumerate(order.fills_by_shard(epoch, range(order.num_shards))):
            ends = np.cumsum(fills.num_rows)
            total = int(fills.num_rows.sum())
            first = steps * slots[shard]
            last = np.minimum(first + slots[shard], total) - 1
            inside = first <= last
            low, high = (np.searchsorted(ends, bound[inside], side="right") for bound in (first, last))
            open_rows[inside] += fills.num_rows[low]
            needed = np.unique(ranges(low, high - low + 1))
            fill = np.full(len(ends), -1)
            fill[needed] = np.arange(num_open, num_open + len(needed))
            parts.append((ends + shard_ends[-1], fill, self._labels(fills, needed)))
            shard_ends.append(total + shard_ends[-1])
            num_open += len(needed)
        ends, fill, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return _Steps(steps, ends, np.array(shard_ends[1:]), fill, labels, open_rows)

    def _labels(self, fills: Fills, needed: Integers) -> Integers:
        """Count the rows of each label in some fills, int64 ``[needed, labels]``."""
        sizes = fills.bounds[needed + 1] - fills.bounds[needed]
        segments: Segments = fills.segments.take(ranges(fills.bounds[needed], sizes))
        start = self._chunk_start[segments.chunk] + segments.first_row
        stop = start + segments.num_rows
        # An edge between labels cuts one segment at most.
        first, last = (np.searchsorted(self._edges, bound, side="right") - 1 for bound in (start, stop - 1))
        parts = last - first + 1
        label = ranges(first, parts)
        start, stop = np.repeat(start, parts), np.repeat(stop, parts)
        rows = np.minimum(stop, self._edges[label + 1]) - np.maximum(start, self._edges[label])
        num_labels = len(self._edges) - 1
        fill = np.repeat(np.repeat(np.arange(len(needed)), sizes), parts)
        counts = np.bincount(fill * num_labels + label, rows, len(needed) * num_labels)
        return counts.astype(np.int64).reshape(len(needed), num_labels)

    def _drawn(self, random: np.random.Generator, part: _Steps, ranks: int) -> Integers:
        """Draw the batches of all ranks in some steps; return the rows of each label, ``[steps * ranks, labels]``."""
        order = self.order
        slots = np.unique(np.append(order.shard_slots, _rank_bounds(order, ranks)))  # cut where shard or rank changes
        most = _MOST_DRAWS // ((len(slots) - 1) * self.num_labels * len(self._parts))
        steps = part.steps[:: -(-len(part.steps) // max(1, most))]
        shard = np.searchsorted(order.shard_slots, slots[:-1], side="right") - 1
        rank = np.searchsorted(_rank_bounds(order, ranks), slots[:-1], side="right") - 1
        shard_size = np.diff(order.shard_slots)[shard]
        shard_start = part.shard_ends[shard] - np.diff(part.shard_ends, prepend=0)[shard]
        first = shard_start + steps[:, None] * shard_size + slots[:-1] - order.shard_slots[shard]
        last = np.minimum(first + np.diff(slots), part.shard_ends[shard])
        batch = np.arange(len(steps))[:, None] * ranks + rank
        inside = first < last
        first, last, batch = first[inside], last[inside], batch[inside]
        low, high = (np.searchsorted(part.ends, bound, side="right") for bound in (first, last - 1))
        pieces = high - low + 1
        fill = ranges(low, pieces)
        stop = np.minimum(np.repeat(last, pieces), part.ends[fill])
        start = np.maximum(np.repeat(first, pieces), part.ends[fill] - np.diff(part.ends, prepend=0)[fill])
        drawn = np.zeros((len(steps) * ranks, self.num_labels), np.int64)
        np.add.at(drawn, np.repeat(batch, pieces), _draw(random, part.labels[part.fill[fill]], stop - start))
        return drawn


def _rank_bounds(order: Order, ranks: int) -> Integers:
    return np.array([0, *(order.rank_slots(rank, ranks)[1] for rank in range(ranks))])


def _draw(random: np.random.Generator, rows: Integers, sizes: Integers) -> Integers:
    """Draw from each population without putting back: ``rows[p, label]`` of them, ``sizes[p]`` draws."""
    most = 10**9 - 1  # of rows, for NumPy; no figure changes if there are as many
    total = rows.sum(axis=1)
    if total.max(initial=0) > most:
        rows = np.where(total[:, None] > most, rows // (total[:, None] // most + 1), rows)
    left, drawn = rows.sum(axis=1), np.zeros_like(rows)
    sizes = np.minimum(sizes, left)
    for label in range(rows.shape[1]):
        left = left - rows[:, label]
        drawn[:, label] = random.hypergeometric(rows[:, label], left, sizes)
        sizes = sizes - drawn[:, label]
    return drawn


def _entropy(counts: Integers) -> NDArray[np.float64]:
    """Return the entropy of labels in each batch, in nats: ``[batches, labels]`` to ``[batches]``."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    entropy: NDArray[np.float64] = -(shares * np.log(np.where(counts, shares, 1.0))).sum(axis=1)
    return entropy
