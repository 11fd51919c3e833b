"""From losses to steps of optimizers: backward, the sum over ranks, scaling, clipping, the schedule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dtk.training.loop.task import Task, optimizers_of, refuse_foreign

if TYPE_CHECKING:
    from dtk.training.loop.recipe import Method, Precision
    from dtk.training.loop.strategies import Strategy

__all__ = ["Optimization"]

_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Optimization:
    """The optimizers of a training, and all that comes between a loss and their steps.

    Parameters
    ----------
    task : Task
        On its device.
    method : Method
        How losses become steps.
    strategy : Strategy
        How ranks share the module.
    device : torch.device
        Where it trains.
    steps : int
        Of the whole training.
    """

    def __init__(self, task: Task, method: Method, strategy: Strategy, device: torch.device, steps: int) -> None:
        self._strategy, self._clip_norm = strategy, method.clip_norm
        self._by_name = optimizers_of(task)
        self._parameters = {
            name: [one for group in optimizer.param_groups for one in group["params"] if one.requires_grad]
            for name, optimizer in self._by_name.items()
        }
        refuse_foreign(task, self._by_name)
        self._task, schedule = task, method.schedule
        made = [] if schedule is None else [schedule.scheduler(one, steps) for one in self.optimizers]
        self._schedulers = dict(zip(self._by_name, made, strict=False))
        self._scaler = torch.amp.GradScaler(device.type, enabled=method.precision == "fp16")
        self._divisor = 1.0
        self.autocast = self.autocast_of(method.precision, device)

    @staticmethod
    def autocast_of(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
        """Return what makes the context for a forward.

        Parameters
        ----------
        precision : {"fp32", "bf16", "fp16"}
            Of the operators that bear it.
        device : torch.device
            Where it trains.

        Returns
        -------
        callable
            Of no arguments.
        """
        if precision == "fp32":
            return nullcontext
        return partial(torch.autocast, device.type, dtype=_DTYPES[precision])

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """All of them."""
        return list(self._by_name.values())

    @property
    def learning_rate(self) -> float:
        """That of the first optimizer's first parameters."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    @property
    def follows_validation(self) -> bool:
        """Whether a schedule needs the validation's loss."""
        return any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in self._schedulers.values())

    def begin(self, total: float) -> None:
        """Begin a step.

        Parameters
        ----------
        total : float
            The sum of weights of its global batches, as far as it is known: what the sum of losses is divided by.
        """
        self._divisor = max(float(total), 1e-12)

    def backward(self, name: str, summed: Tensor) -> None:
        """Add to the gradients, and for a loss that names its optimizer take that one's step.

        Parameters
        ----------
        name : str
            Of the optimizer, whose parameters alone get gradients; empty for all, whose step comes with `end`.
        summed : Tensor
            The weighted sum of this rank's losses.
        """
        # ranks average their gradients; times their number it is the sum, over the global weight the mean
        loss = self._scaler.scale(summed * (self._strategy.num_ranks / self._divisor))
        if not name:
            self._strategy.backward(loss)
            return
        torch.autograd.backward(loss, inputs=self._parameters[name])
        self._strategy.sum_gradients(self._parameters[name])
        self._step(name)
        self._scaler.update()

    def end(self, total: float) -> None:
        """End a step: that of all optimizers whose losses named none.

        Parameters
        ----------
        total : float
            The sum of weights of its global batches; where `begin` could not know it, gradients are mended.
        """
        scale = self._scaler.get_scale()
        has_grads = [name for name, some in self._parameters.items() if any(one.grad is not None for one in some)]
        for name in has_grads:  # all others took their step with their loss
            self._step(name, self._divisor / max(total, 1e-12))
        if has_grads:
            self._scaler.update()
        self._task.zero_grad(set_to_none=True)
        if self._scaler.get_scale() >= scale:  # else the step was left out
            with warnings.catch_warnings():  # of an optimizer whose turn has not come yet
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step\\(\\)` before")
                for scheduler in self._schedulers.values():
                    if not isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.step()

    def end_epoch(self, loss: float) -> None:
        """Tell schedules that follow the validation.

        Parameters
        ----------
        loss : float
            Of the validation.
        """
        for scheduler in self._schedulers.values():
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Return what is not in the optimizers.

        Returns
        -------
        dict
            In types of JSON.
        """
        schedulers = {name: scheduler.state_dict() for name, scheduler in self._schedulers.items()}
        return {"schedulers": schedulers, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            That of a checkpoint.
        """
        for name, scheduler in self._schedulers.items():
            fresh = scheduler.state_dict()
            scheduler.load_state_dict(
                {key: _with_keys_of(fresh.get(key), value) for key, value in state["schedulers"][name].items()}
            )
        if state["scaler"]:
            self._scaler.load_state_dict(dict(state["scaler"]))

    @torch.no_grad()
    def _step(self, name: str, factor: float = 1.0) -> None:
        """Take an optimizer's step, after its gradients are what they must be."""
        optimizer, parameters = self._by_name[name], self._parameters[name]
        if self._clip_norm is not None or factor != 1.0:
            self._scaler.unscale_(optimizer)
        if factor != 1.0:
            torch._foreach_mul_([one.grad for one in parameters if one.grad is not None], factor)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        self._scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)


def _with_keys_of(fresh: Any, told: Any) -> Any:
    """Give back to a dict that was JSON the keys it had, such as the numbers of steps."""
    if not isinstance(fresh, dict) or not isinstance(told, dict) or not fresh:
        return told
    kind = type(next(iter(fresh)))
    return type(fresh)({kind(key): value for key, value in told.items()})
