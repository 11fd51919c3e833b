"""A table small enough to be encoded once and kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from dtk.loader.encoder import LabelledEncoder
from dtk.loader.order import Order
from dtk.loader.ring import pad
from dtk.loader.sampling import EpochDraw, Sampling
from dtk.sources import TableSource

__all__ = ["KeptTable"]


class KeptTable:
    """The encoded rows of a table in memory.

    Parameters
    ----------
    source : TableSource
        The table.
    encoder : LabelledEncoder
        What makes arrays of its rows.
    in_folds : bool
        Whether it is given their numbers.
    """

    def __init__(self, source: TableSource, encoder: LabelledEncoder, *, in_folds: bool = False) -> None:
        self._source = source
        columns = list(encoder.columns)
        numbers = np.split(np.arange(source.table.num_rows), np.cumsum(source.chunk_rows))
        parts = [
            encoder.encode(source.read(chunk, columns), numbers[chunk] if in_folds else None)
            for chunk in range(source.num_chunks)
        ]
        self._arrays = {name: np.concatenate([part[name] for part in parts]) for name in encoder.fields}

    def batches(
        self, order: Order, sampling: Sampling | None, epoch: int, rank: int, ranks: int, start: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Take the batches of an epoch, each a copy.

        Parameters
        ----------
        order : Order
            The order of samples.
        sampling : Sampling, optional
            How rows are drawn; each comes once if None.
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
        iterator of dict of str to torch.Tensor
            For each field ``[batch, *shape]``.
        """
        rows_of_steps = order.batch_rows(epoch, rank, ranks, start)
        if sampling is not None:
            drawn = EpochDraw(sampling, order, epoch).all_rows(self._source)
            rows_of_steps = np.where(rows_of_steps < 0, -1, drawn[rows_of_steps])
        return map(self._batch, rows_of_steps)

    def _batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        batch = {name: values.take(rows, axis=0, mode="clip") for name, values in self._arrays.items()}
        if rows.min() < 0:
            pad(batch, rows < 0)
        return {name: torch.from_numpy(values) for name, values in batch.items()}
