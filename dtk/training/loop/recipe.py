"""What a rank trains and how, and what it brings home."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from torch import Tensor

from dtk.errors import ArgumentError
from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.loop.callbacks import Callback
from dtk.training.loop.schedules import Schedule
from dtk.training.loop.task import Task

__all__ = ["Method", "Precision", "RankReport", "Recipe"]

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Method:
    """How losses become steps.

    Parameters
    ----------
    schedule : Schedule or None
        Of the learning rate.
    accumulate : int
        Batches of a step.
    clip_norm : float or None
        To which the gradients of a step are cut.
    precision : {"fp32", "bf16", "fp16"}
        Of the operators that bear less than 32 bits.
    strategy : {"ddp", "fsdp"}
        Whether each rank has the whole module, or a part of each weight.
    ema : float or None
        The decay of the weights' moving average, which validations and the outcome then take.
    compile : bool
        Whether torch compiles the step.
    """

    schedule: Schedule | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Precision = "fp32"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    ema: float | None = None
    compile: bool = False

    def marks(self) -> dict[str, Any]:
        """Return what a training that goes on must have in common with the one before.

        Returns
        -------
        dict
            In types of JSON, by the name of the argument.
        """
        schedule = self.schedule
        named = None if schedule is None else "a function" if schedule.make is not None else schedule.name
        return {"accumulate": self.accumulate, "ema": self.ema, "schedule": named}

    def check(self, task: Task, *, has_validation: bool) -> None:
        """Refuse what cannot work.

        Parameters
        ----------
        task : Task
            What is trained.
        has_validation : bool
            Whether there is validation data.

        Raises
        ------
        ArgumentError
            It names the argument.
        """
        if type(self.accumulate) is not int or self.accumulate < 1:
            raise ArgumentError(f"accumulate={self.accumulate!r} must be a whole number of batches, at least 1")
        if self.clip_norm is not None and not (isinstance(self.clip_norm, Real) and 0 < self.clip_norm < math.inf):
            raise ArgumentError(f"clip_norm={self.clip_norm!r} must be a finite number, more than 0")
        if self.ema is not None and not (isinstance(self.ema, Real) and 0 < self.ema < 1):
            raise ArgumentError(f"ema={self.ema!r} must be between 0 and 1, such as 0.999")
        if not isinstance(self.compile, bool):
            raise ArgumentError(f"compile={self.compile!r} must be True or False")
        for name, known in (("precision", ("fp32", "bf16", "fp16")), ("strategy", ("ddp", "fsdp"))):
            if getattr(self, name) not in known:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(repr, known))}")
        if self.schedule is not None and self.schedule.needs_validation and not has_validation:
            raise ArgumentError("schedule='plateau' follows the validation loss; give validation=")
        if self.strategy == "fsdp" and any(one.dim() == 0 for one in task.parameters()):
            raise ArgumentError("strategy='fsdp' cannot part a parameter without dimensions; give it one, of size 1")
        if task.yields:
            self._check_yielding()

    def _check_yielding(self) -> None:
        """Refuse what needs a step that returns all losses before any optimizer's step."""
        given = {"accumulate": self.accumulate > 1, "strategy": self.strategy == "fsdp", "compile": self.compile}
        for name, is_given in given.items():
            if is_given:
                raise ArgumentError(
                    f"{name}={getattr(self, name)!r} needs a step that returns its losses, and this task's yields "
                    "them; leave it out"
                )


@dataclass(frozen=True)
class Recipe:
    """What a rank trains, and how.

    Parameters
    ----------
    task : Task
        What is trained.
    epochs : int
        At most.
    patience : int or None
        Epochs without a better validation loss after which training stops; None never stops early.
    seed : int
        Of dropout and other random streams.
    method : Method
        How losses become steps.
    checkpoint : Checkpoint or None
        Where checkpoints are kept; None takes none.
    callbacks : tuple of Callback
        The user's.
    """

    task: Task
    epochs: int
    patience: int | None
    seed: int
    method: Method = field(default_factory=Method)
    checkpoint: Checkpoint | None = None
    callbacks: tuple[Callback, ...] = ()


@dataclass
class RankReport:
    """What a rank brings home.

    Parameters
    ----------
    state : dict of str to Tensor
        The module's state of the best epoch, or of the last one without validation; empty but on rank 0.
    history : list of dict
        One entry an epoch.
    best_epoch : int
        The place in `history` of the epoch that `state` is of.
    samples_per_s : float
        Over all ranks and epochs, validation left out.
    wait_share : float
        Share of the training time that this rank waited for data.
    peak_nbytes : int
        The most memory this process held.
    left : str
        Why this rank left before the end, with a checkpoint; empty if it is at the end.
    incarnation : int
        Which launch of the training this was; 0 without checkpoints.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
    samples_per_s: float = 0.0
    wait_share: float = 0.0
    peak_nbytes: int = 0
    left: str = ""
    incarnation: int = 0
