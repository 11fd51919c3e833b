"""Which rows of a batch are padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dtk.loader.order import Order

__all__ = ["Paddings"]


class Paddings:
    """Which rows of a rank's batches are padding: those beyond its slots, and what the last step lacks.

    Parameters
    ----------
    order : Order
        The order of samples.
    epoch : int
        The epoch.
    rank : int
        The rank.
    ranks : int
        The number of ranks.
    """

    def __init__(self, order: Order, epoch: int, rank: int, ranks: int) -> None:
        self._order, self._epoch, self._shards = order, epoch, order.rank_shards(rank, ranks)
        first, last = order.rank_slots(rank, ranks)
        self._first, self._width = first, order.batch_width(ranks)
        beyond = np.arange(self._width) >= last - first
        self._beyond = beyond if beyond.any() else None

    def of(self, step: int) -> NDArray[np.bool_] | None:
        """Find the padding of a step.

        Parameters
        ----------
        step : int
            The step within the epoch.

        Returns
        -------
        numpy.ndarray or None
            A bool ``[width]``; None where all rows are real.
        """
        if self._order.samples_in_step(step) == self._order.global_batch_size:
            return self._beyond
        is_padding = np.ones(self._width, bool)
        rows = self._order.shard_rows(self._epoch)
        for shard in self._shards:
            slot, end = self._order.shard_slots[shard : shard + 2].tolist()
            stop = slot + int(rows[shard]) - step * (end - slot)
            is_padding[max(slot - self._first, 0) : max(stop - self._first, 0)] = False
        if self._beyond is not None:
            is_padding |= self._beyond
        return is_padding
