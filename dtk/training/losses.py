"""Losses by name, one value a sample, and their weighted mean over the global batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtk.config import did_you_mean
from dtk.errors import ArgumentError

__all__ = ["LOSSES", "Loss", "resolve_loss", "weighted_sum"]

Loss = Callable[[Tensor, Tensor], Tensor]


def _cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, target, reduction="none")


def _on_columns(loss: Callable[..., Tensor]) -> Loss:
    """Let outputs [B, 1] meet targets [B]."""

    def per_sample(outputs: Tensor, target: Tensor) -> Tensor:
        return loss(outputs.reshape(target.shape), target.to(outputs.dtype), reduction="none")

    return per_sample


LOSSES: Final[dict[str, Loss]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _on_columns(functional.binary_cross_entropy_with_logits),
    "mse": _on_columns(functional.mse_loss),
    "l1": _on_columns(functional.l1_loss),
    "huber": _on_columns(functional.smooth_l1_loss),
}


def resolve_loss(loss: str | nn.Module | Loss) -> Loss:
    """Find a loss by name, or make a user's loss give one value a sample.

    Parameters
    ----------
    loss : str, nn.Module or callable
        A name; one of torch's loss modules; or ``f(outputs, target)`` that returns one value a sample.

    Returns
    -------
    callable
        ``f(outputs, target) -> Tensor [B]``.

    Raises
    ------
    ArgumentError
        If there is no loss of this name.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ArgumentError(f"loss={loss!r} is unknown{did_you_mean(loss, LOSSES)}")
        return LOSSES[loss]
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        loss = copy.copy(loss)
        setattr(loss, "reduction", "none")  # noqa: B010  # its type says that every attribute is a tensor
        return partial(_without_broadcast, loss)
    if not callable(loss):
        raise ArgumentError(f"loss={loss!r} must be a name, a torch loss, or a function of (outputs, target)")
    return loss


def _without_broadcast(loss: nn.Module, outputs: Tensor, target: Tensor) -> Tensor:
    """Let outputs [B, 1] meet targets [B]: torch would compare each with each."""
    if outputs.dim() == 2 and outputs.shape[1] == 1 and target.dim() == 1 and target.is_floating_point():
        outputs = outputs[:, 0]
    return loss(outputs, target)  # type: ignore[no-any-return]


def weighted_sum(losses: Tensor, weight: Tensor) -> Tensor:
    """Sum the samples' losses, each times its weight.

    Parameters
    ----------
    losses : Tensor [B] or [B, outputs]
        One value a sample; outputs are averaged.
    weight : Tensor [B]
        Not negative; 0 for padding.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    ArgumentError
        If the loss gave one value for the whole batch.
    """
    if losses.dim() == 0:
        raise ArgumentError(
            "loss returned one value for the batch; return one a sample (reduction='none'), "
            "so that weights and padding count as they should"
        )
    if losses.dim() > 1:
        losses = losses.flatten(1).mean(1)
    return torch.dot(losses, weight.to(losses.dtype))
