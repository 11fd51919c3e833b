"""What ranks make of numbers that each of them has; all of them call it."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn

__all__ = ["Collective"]


class Collective:
    """All ranks of a training, as one of them sees them.

    Parameters
    ----------
    rank, ranks : int
        This rank's number, and how many there are.
    device : torch.device
        Where they train.
    """

    def __init__(self, rank: int, ranks: int, device: torch.device) -> None:
        self.rank, self.ranks = rank, ranks
        self._device = device

    def sum(self, value: float) -> float:
        """Sum a number.

        Parameters
        ----------
        value : float
            This rank's.

        Returns
        -------
        float
            The same on all.
        """
        return self._reduced(value, distributed.ReduceOp.SUM)

    def most(self, value: float) -> float:
        """Find the largest number.

        Parameters
        ----------
        value : float
            This rank's.

        Returns
        -------
        float
            The same on all.
        """
        return self._reduced(value, distributed.ReduceOp.MAX)

    def gather(self, value: Any) -> list[Any]:
        """Bring together what each rank has.

        Parameters
        ----------
        value : object
            This rank's.

        Returns
        -------
        list
            By rank, the same on all.
        """
        found: list[Any] = [value]
        if self.ranks > 1:
            found = [None] * self.ranks
            distributed.all_gather_object(found, value)
        return found

    def share_buffers(self, module: nn.Module) -> None:
        """Give all ranks rank 0's buffers, which are those that are saved: each rank's step has changed its own.

        Parameters
        ----------
        module : nn.Module
            Changed in place.
        """
        if self.ranks > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    def _reduced(self, value: float, how: Any) -> float:
        if self.ranks == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self._device)
        distributed.all_reduce(found, how)
        return float(found)
