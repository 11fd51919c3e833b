"""Losses by name, one value a sample, and their weighted mean over the global batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError

__all__ = [
    "LOSSES",
    "REMEDIES",
    "ClassLoss",
    "Goal",
    "Loss",
    "SampleLoss",
    "goal_of",
    "refuse_not_finite",
    "resolve_loss",
    "weighted_sum",
]

REMEDIES: Final = (
    "if inputs are missing, give the loader preparation=dtk.TablePreparation().fit(data), which fills and scales them; "
    "else lower learning_rate"
)

Loss = Callable[[Tensor, Tensor], Tensor]
Goal = Literal["classes", "two classes", "numbers"]
"""What a loss compares: an output a class, the one log-odds of the second of two classes, or a number."""


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


_GOALS: Final[dict[Goal, tuple[str | type[nn.Module], ...]]] = {
    "classes": ("cross_entropy", nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss),
    "two classes": ("binary_cross_entropy", nn.BCEWithLogitsLoss),
    "numbers": ("mse", "l1", "huber", nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
}


def goal_of(loss: str | nn.Module | Loss) -> Goal | None:
    """Tell what a loss compares.

    Parameters
    ----------
    loss : str, nn.Module or callable
        As the user gave it.

    Returns
    -------
    str or None
        ``"classes"``, ``"two classes"`` or ``"numbers"``; None where dtk does not know the loss.
    """
    for goal, known in _GOALS.items():
        for name in known:
            if loss == name if isinstance(name, str) else isinstance(loss, name):
                return goal
    return None


class SampleLoss:
    """A loss of one value a sample, and how much of a batch's mean each sample is.

    Parameters
    ----------
    loss : callable
        ``f(outputs, target) -> Tensor [B]``; one of torch's modules may have class weights and an ignored label.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._is_of_torch = isinstance(loss, nn.Module) and hasattr(loss, "reduction")
        self._labelled = loss if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else None
        self._ignored = None if self._labelled is None else self._labelled.ignore_index

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Compare.

        Parameters
        ----------
        outputs : Tensor [B, outputs]
            Of the module.
        target : Tensor [B]
            As the loader gives it.

        Returns
        -------
        Tensor [B] or [B, 1]
            The samples' losses, times the weights of their classes where the loss has such.
        """
        if self._is_of_torch and outputs.dim() == 2 and outputs.shape[1] == 1 and target.dim() == 1:
            outputs, target = outputs[:, 0], target.to(outputs.dtype)  # torch would compare each with each
        return self._loss(outputs, target)

    @property
    def reweighs(self) -> bool:
        """Whether a sample's part of the mean is more than its weight says: its class has a weight, or is ignored."""
        return self._labelled is not None

    def counted(self, target: Tensor, weight: Tensor) -> Tensor:
        """Take the weight from the samples that do not count.

        Parameters
        ----------
        target : Tensor [B]
            As the loader gives it.
        weight : Tensor [B]
            Of the samples; 0 for padding.

        Returns
        -------
        Tensor [B]
            0 for ignored samples, too.
        """
        return weight if self._ignored is None else weight * (target != self._ignored)

    def divisor(self, target: Tensor, weight: Tensor) -> Tensor:
        """Say by what the sum of the weighted losses is to be divided, as torch does it.

        Parameters
        ----------
        target : Tensor [B]
            As the loader gives it.
        weight : Tensor [B]
            Of the samples; 0 for padding.

        Returns
        -------
        Tensor
            A scalar, to be summed over all batches and ranks.
        """
        weight = self.counted(target, weight)
        if self._labelled is not None and self._labelled.weight is not None:
            # a label that is ignored may be none of the classes
            weight = weight * self._labelled.weight[target.where(weight > 0, 0)]
        return weight.sum()

    @property
    def module(self) -> nn.Module | None:
        """The loss, where it is a module, which may hold tensors."""
        return self._loss if isinstance(self._loss, nn.Module) else None


class ClassLoss(SampleLoss):
    """A loss of classes that refuses other labels: torch ignores some, and names none.

    Parameters
    ----------
    loss : callable
        ``f(outputs, target) -> Tensor [B]``.
    name : str
        Of the target.
    num_classes : int
        The labels are 0 up to this.
    """

    def __init__(self, loss: Loss, name: str, num_classes: int) -> None:
        super().__init__(loss)
        self._name = name
        self._num_classes = num_classes

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Compare, after a look at the labels.

        Parameters
        ----------
        outputs : Tensor [B, outputs]
            Of the module.
        target : Tensor [B]
            int64.

        Returns
        -------
        Tensor [B] or [B, 1]
            The samples' losses, times the weights of their classes where the loss has such.

        Raises
        ------
        DataError
            If there is another label, and it is not the ignored one.
        """
        labels = target if self._ignored is None else target.where(target != self._ignored, 0)
        least, most = (int(label) for label in labels.aminmax())
        if least < 0 or most >= self._num_classes:
            label = least if least < 0 else most
            raise DataError(
                f"target={self._name!r} holds label {label}, and the module's outputs stand for labels 0 to "
                f"{self._num_classes - 1}; number the classes from 0 without gaps, or give the module an output for "
                "each"
            )
        return super().__call__(outputs, target)


def resolve_loss(loss: str | nn.Module | Loss) -> Loss:
    """Find a loss by name, or make a user's loss give one value a sample.

    Parameters
    ----------
    loss : str, nn.Module or callable
        A name; one of torch's loss modules; or ``f(outputs, target)`` that returns one value a sample.

    Returns
    -------
    callable
        ``f(outputs, target) -> Tensor [B]``; for one of torch's modules a copy with ``reduction="none"``.

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
    if not callable(loss):
        raise ArgumentError(f"loss={loss!r} must be a name, a torch loss, or a function of (outputs, target)")
    return loss


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


def refuse_not_finite(loss: float, batch: Mapping[str, Tensor], where: str) -> None:
    """Stop before a step that would make the weights NaN, which no later step mends.

    Parameters
    ----------
    loss : float
        Of the batch.
    batch : mapping of str to Tensor
        As the loader gave it.
    where : str
        For the error.

    Raises
    ------
    DataError
        If the loss is infinite or NaN.
    """
    if math.isfinite(loss):
        return
    if "target" in batch and not batch["target"].isfinite().all():
        raise DataError(
            f"the target is NaN or infinite in {where}; leave such rows out, with data.dropna(subset=[...])"
        )
    raise DataError(f"the loss is {loss} in {where}; {REMEDIES}")
