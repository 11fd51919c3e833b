"""How the learning rate changes from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, Final, Self

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from dtk.config import did_you_mean
from dtk.errors import ArgumentError

__all__ = ["SCHEDULES", "MakeScheduler", "Schedule", "decay_groups"]

SCHEDULES: Final = ("constant", "linear", "cosine", "plateau")

MakeScheduler = Callable[[Optimizer, int], LRScheduler]


@dataclass(frozen=True)
class Schedule:
    """A schedule of the learning rate.

    Parameters
    ----------
    name : str
        ``"constant"``; ``"linear"`` or ``"cosine"``, which fall to `min_factor`, that they reach after
        the last step; or ``"plateau"``, which
        multiplies by `factor` after each `patience` epochs without a better validation loss.
    warmup : int or float
        Steps in which it rises from 0 to its full value; below 1 a share of all steps.
    min_factor : float
        Of the full value, what it falls to.
    factor : float
        For ``"plateau"``.
    patience : int
        For ``"plateau"``: epochs.
    make : callable, optional
        ``f(optimizer, steps) -> torch.optim.lr_scheduler.LRScheduler``, in place of all else; it is stepped with each
        of the training's steps.
    """

    name: str = "constant"
    warmup: float = 0
    min_factor: float = 0.0
    factor: float = 0.1
    patience: int = 10
    make: MakeScheduler | None = None

    @classmethod
    def of(cls, given: str | Mapping[str, Any] | MakeScheduler | None) -> Self | None:
        """Read what the user gave.

        Parameters
        ----------
        given : str, mapping, callable or None
            A name; ``{"name": "cosine", "warmup": 0.05}``; or what makes one of torch's.

        Returns
        -------
        Schedule or None
            None for none.

        Raises
        ------
        ArgumentError
            If a name or an option is unknown, or a value cannot work.
        """
        if given is None:
            return None
        if callable(given):
            return cls(make=given)
        options = {"name": given} if isinstance(given, str) else dict(given)
        name = options.pop("name", None)
        if name not in SCHEDULES:
            raise ArgumentError(
                f"schedule={given!r} needs a name of {', '.join(SCHEDULES)}{did_you_mean(str(name), SCHEDULES)}"
            )
        known = ("factor", "patience") if name == "plateau" else ("warmup", "min_factor")
        for option, value in options.items():
            if option not in known:
                raise ArgumentError(f"schedule={given!r} has no option {option!r}{did_you_mean(option, known)}")
            if not isinstance(value, Real) or isinstance(value, bool):
                raise ArgumentError(f"schedule={given!r}: {option}={value!r} must be a number")
        schedule = cls(name, **options)
        if not 0 <= schedule.warmup < math.inf or (schedule.warmup >= 1 and schedule.warmup % 1):
            raise ArgumentError(f"schedule={given!r}: warmup must be a number of steps, or a share below 1 of all")
        if not 0 <= schedule.min_factor <= 1 or not 0 < schedule.factor < 1 or schedule.patience < 0:
            raise ArgumentError(f"schedule={given!r}: min_factor is from 0 to 1, factor between them, patience from 0")
        return schedule

    @property
    def needs_validation(self) -> bool:
        """Whether it follows the validation loss."""
        return self.make is None and self.name == "plateau"

    def scheduler(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Make the scheduler of an optimizer.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            Its learning rate changes with this call already.
        steps : int
            Of the whole training.

        Returns
        -------
        torch.optim.lr_scheduler.LRScheduler
            To be stepped after each step; one of a plateau after each validation.
        """
        if self.make is not None:
            return self.make(optimizer, steps)
        if self.name == "plateau":
            return ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        return LambdaLR(optimizer, partial(_factor, self.name, self.min_factor, warmup, steps))


def _factor(name: str, min_factor: float, warmup: int, steps: int, step: int) -> float:
    """Say which part of the full value a step has.

    >>> [round(_factor("linear", 0.0, 2, 6, step), 2) for step in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    if name == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    falling = 1 - done if name == "linear" else (1 + math.cos(math.pi * done)) / 2
    return min_factor + (1 - min_factor) * falling


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Part parameters into those that decay and those that don't: biases, and the scales of normalisations.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Of a module.
    weight_decay : float
        For those with two dimensions or more.

    Returns
    -------
    list of dict
        For an optimizer.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.dim() > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
