"""The moving average of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """An exponential moving average of the trained weights, which validations and the outcome then take.

    Parameters
    ----------
    module : nn.Module
        Trained; its weights are where they stay.
    decay : float
        Of the average, what a step leaves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.tensors: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._trained.items()}
        self._decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        torch._foreach_lerp_(list(self.tensors.values()), list(self._trained.values()), 1 - self._decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in the place of the weights for a while.

        Yields
        ------
        None
            While it is there.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self._trained.items():
            kept = value.detach().clone()
            value.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
