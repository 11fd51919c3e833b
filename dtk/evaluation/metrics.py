"""Metrics of a task in bounded memory: filled batch by batch, merged over chunks, summed over ranks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from dtk.errors import ArgumentError
from dtk.preparation import ClassTarget, Target

if TYPE_CHECKING:
    import torchmetrics

__all__ = ["Metrics", "class_logits", "make_metrics"]


class Metrics:
    """All metrics of a task, filled batch by batch.

    Classification has ``accuracy``, ``precision``, ``recall``, ``f1``, ``auroc`` (see `parts`) and ``log_loss``:
    of the second class where there are two, the mean over classes where there are more. Regression has ``mae``,
    ``rmse`` and ``r2``.

    Parameters
    ----------
    task : str
        ``"classification"`` or ``"regression"``.
    num_classes : int
        At least 2 for a classification.
    scale : float
        For a regression: what errors are multiplied with, to be in the target's unit.
    decode : callable, optional
        For a regression of a transformed target: ``decode(numbers) -> numbers`` of NumPy's [n] into the target's unit.

    Raises
    ------
    ArgumentError
        If the task is unknown or the classes are fewer than 2.

    Notes
    -----
    Every state is a sum, so that merging over chunks and over ranks are both one addition of vectors.

    Examples
    --------
    >>> metrics = Metrics("regression")
    >>> metrics.update(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 2.0]))
    >>> metrics.compute()["mae"]
    0.5
    """

    def __init__(
        self,
        task: str,
        *,
        num_classes: int = 0,
        scale: float = 1.0,
        decode: Callable[[NDArray[Any]], NDArray[np.float64]] | None = None,
    ) -> None:
        if task not in ("classification", "regression"):
            raise ArgumentError(f"task={task!r} must be 'classification' or 'regression'")
        if task == "classification" and num_classes < 2:
            raise ArgumentError(f"num_classes={num_classes} must be at least 2")
        from dtk.evaluation.parts import make_parts

        self.task = task
        self._scale = scale
        self._decode = decode
        self._parts = make_parts(task, num_classes)
        for part in self._parts.values():
            part.set_dtype(torch.float64)  # sums over billions of rows
        self.num_rows = 0

    def update(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Take in a batch.

        Parameters
        ----------
        outputs : torch.Tensor
            Of the network: logits [n, classes], the log-odds of the second of two classes [n, 1], or standardised
            numbers [n, 1].
        target : torch.Tensor
            int64 codes [n], or float32 standardised numbers [n].
        weight : torch.Tensor, optional
            float32 [n]; rows of weight 0 are left out, all others count alike.
        """
        outputs, target = outputs.detach(), target.detach()
        if weight is not None:
            counts = weight > 0
            outputs, target = outputs[counts], target[counts]
        if not len(target):
            return
        self.num_rows += len(target)
        self._to(outputs.device)
        if self.task == "regression":
            outputs, target = (self._in_unit(numbers.reshape(-1)) for numbers in (outputs, target))
            for part in self._parts.values():
                part.update(outputs, target)
            return
        outputs = class_logits(outputs)
        predicted = outputs.argmax(dim=1)
        for name, part in self._parts.items():
            if name == "log_loss":
                part.update(torch.nn.functional.cross_entropy(outputs.float(), target, reduction="none"))
            else:
                part.update(outputs if name == "auroc" else predicted, target)

    def update_in_unit(self, outputs: Tensor, target: Tensor) -> None:
        """Take in a batch of a regression, of which the target was not encoded.

        Parameters
        ----------
        outputs : torch.Tensor
            Of the network: as for `update`.
        target : torch.Tensor
            float64 [n]: in its unit.
        """
        self.num_rows += len(target)
        for part in self._parts.values():
            part.update(self._in_unit(outputs.reshape(-1)), target)

    def _in_unit(self, numbers: Tensor) -> Tensor:
        """Return float64 [n], of a transformed target in its unit."""
        if self._decode is None:
            return numbers.to(torch.float64)
        return torch.from_numpy(self._decode(numbers.cpu().numpy())).to(numbers.device)

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Metrics
            Of the same task; left as it is.
        """
        self._load(self._vector() + other._vector().to(self._device))

    def compute(self) -> dict[str, float]:
        """Return the metrics over all rows of all ranks, where a process group is up; all ranks must call it.

        Returns
        -------
        dict
            Metrics by name; NaN where there are too few rows for one.
        """
        total = copy.deepcopy(self)
        if distributed.is_available() and distributed.is_initialized():
            vector = total._vector()
            distributed.all_reduce(vector)
            total._load(vector)
        return total._compute_here()

    def _compute_here(self) -> dict[str, float]:
        results = {}
        for name, part in self._parts.items():
            if self.num_rows < (2 if name == "r2" else 1):
                results[name] = math.nan
                continue
            value = float(part.compute())
            results[name] = value * self._scale if name in ("mae", "rmse") else value
        return results

    @property
    def _device(self) -> torch.device:
        return next(iter(self._parts.values())).device

    def _to(self, device: torch.device) -> None:
        if self._device != device:
            for part in self._parts.values():
                part.to(device)

    def _vector(self) -> Tensor:
        """All states in one float64 vector, which holds counts exactly up to 2**53."""
        states = [
            state.to(torch.float64).flatten() for part in self._parts.values() for state in _states(part).values()
        ]
        return torch.cat([torch.tensor([self.num_rows], dtype=torch.float64, device=self._device), *states])

    def _load(self, vector: Tensor) -> None:
        self.num_rows = int(vector[0])
        start = 1
        for part in self._parts.values():
            for name, state in _states(part).items():
                values = vector[start : start + state.numel()].reshape(state.shape).to(state.dtype)
                setattr(part, name, values)
                start += state.numel()
            part._update_count, part._computed = int(self.num_rows > 0), None


def class_logits(outputs: Tensor) -> Tensor:
    """Give each class a logit, also where a network returns the log-odds of the second of two classes alone.

    Parameters
    ----------
    outputs : torch.Tensor
        [n, classes], or [n, 1] for two classes.

    Returns
    -------
    torch.Tensor
        [n, classes], whose softmax are the chances.

    Examples
    --------
    >>> class_logits(torch.tensor([[3.0]]))
    tensor([[0., 3.]])
    """
    return outputs if outputs.shape[1] > 1 else torch.cat([torch.zeros_like(outputs), outputs], dim=1)


def make_metrics(target: Target) -> Metrics:
    """Make the metrics that suit a target.

    Parameters
    ----------
    target : ClassTarget or NumberTarget
        Fitted.

    Returns
    -------
    Metrics
        Empty; errors of a regression are in the target's unit.
    """
    if isinstance(target, ClassTarget):
        return Metrics("classification", num_classes=len(target.classes))
    if target.transform is not None:
        return Metrics("regression", decode=target.decode)
    return Metrics("regression", scale=target.scale)


def _states(part: torchmetrics.Metric) -> dict[str, Tensor]:
    return {name: state for name, state in part.metric_state.items() if isinstance(state, Tensor)}
