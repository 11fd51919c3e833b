"""Optimizers by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from numbers import Real
from typing import Final

import torch
from torch import nn

from dtk.config import did_you_mean
from dtk.errors import ArgumentError
from dtk.training.loop.schedules import decay_groups

__all__ = ["OPTIMIZERS", "Optimizer", "resolve_optimizer"]

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: Final[dict[str, Callable[..., torch.optim.Optimizer]]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def resolve_optimizer(optimizer: str | Optimizer, learning_rate: float, weight_decay: float | None = None) -> Optimizer:
    """Find an optimizer by name.

    Parameters
    ----------
    optimizer : str or callable
        ``"adam"``, ``"adamw"``, ``"sgd"``, or ``f(parameters) -> torch.optim.Optimizer``, which is returned as it is.
    learning_rate : float
        For one given by name.
    weight_decay : float, optional
        For one given by name: of weights with two dimensions or more.

    Returns
    -------
    callable
        ``f(parameters) -> torch.optim.Optimizer``.

    Raises
    ------
    ArgumentError
        If the name is unknown, the learning rate is no finite number that is more than 0, or the decay is negative.
    """
    if not isinstance(optimizer, str):
        if weight_decay is not None:
            raise ArgumentError(f"weight_decay={weight_decay!r} needs an optimizer by name; give it in your own")
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise ArgumentError(f"optimizer={optimizer!r} is unknown{did_you_mean(optimizer, OPTIMIZERS)}")
    if not isinstance(learning_rate, Real) or not 0 < learning_rate < math.inf:
        raise ArgumentError(f"learning_rate={learning_rate!r} must be a finite number, more than 0")
    if weight_decay is None:
        return partial(OPTIMIZERS[optimizer], lr=learning_rate)
    if not isinstance(weight_decay, Real) or not 0 <= weight_decay < math.inf:
        raise ArgumentError(f"weight_decay={weight_decay!r} must be a finite number, not negative")
    return partial(_with_decay, OPTIMIZERS[optimizer], learning_rate, weight_decay)


def _with_decay(
    make: Callable[..., torch.optim.Optimizer],
    learning_rate: float,
    weight_decay: float,
    parameters: Iterable[nn.Parameter],
) -> torch.optim.Optimizer:
    return make(decay_groups(parameters, weight_decay), lr=learning_rate)
