"""A step of two samples of zeros: what a task does with a batch, before anything is read."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dtk.errors import ArgumentError
from dtk.loader import Field
from dtk.training.checkpoints.standing import random_stream
from dtk.training.loop.strategies import Stepping
from dtk.training.loop.task import Task, TensorSpec, losses_sum, optimizers_of, refuse_foreign
from dtk.training.loop.tasks import PreparedTask

__all__ = ["batch_schema", "check_task", "leaves_parameters_out"]

_ROWS = 2


def leaves_parameters_out(stepping: Stepping, fields: Mapping[str, Field], device: torch.device, seed: int) -> bool:
    """Tell whether a step leaves a trained parameter without a gradient.

    Parameters
    ----------
    stepping : Stepping
        On its device; nothing in it changes.
    fields : mapping of str to Field
        Of a batch.
    device : torch.device
        Where it trains.
    seed : int
        Of the random state, which changes.

    Returns
    -------
    bool
        As it is for a batch of zeros.
    """
    torch.manual_seed(random_stream(seed))
    batch = {name: value.to(device) for name, value in _zeros(fields).items()}
    buffers = {name: value.clone() for name, value in stepping.named_buffers()}  # a step may change them
    trained = [parameter for parameter in stepping.parameters() if parameter.requires_grad]
    losses = functional_call(stepping.train(), buffers, (batch,))
    gradients = torch.autograd.grad(losses_sum(losses.float(), batch["weight"]), trained, allow_unused=True)
    return any(gradient is None for gradient in gradients)


def batch_schema(fields: Mapping[str, Field], preparation: nn.Module | None = None) -> dict[str, TensorSpec]:
    """Say what a task gets.

    Parameters
    ----------
    fields : mapping of str to Field
        Of a batch, as the loader makes it.
    preparation : nn.Module, optional
        What inputs go through first.

    Returns
    -------
    dict of str to TensorSpec
        By name.
    """
    batch = _zeros(fields)
    if preparation is not None:
        batch = PreparedTask(preparation, Task()).prepared(batch)
    return {name: TensorSpec(value.dtype, tuple(value.shape[1:])) for name, value in batch.items()}


def check_task(task: Task, fields: Mapping[str, Field], *, has_validation: bool) -> None:
    """Refuse a task that fails on a batch, or whose losses and optimizers don't go together.

    Parameters
    ----------
    task : Task
        Nothing in it changes.
    fields : mapping of str to Field
        Of a batch.
    has_validation : bool
        Whether it must validate, too.

    Raises
    ------
    ArgumentError
        If it cannot work.
    """
    task, batch, shown = copy.deepcopy(task), _zeros(fields), task.shown
    try:
        with torch.random.fork_rng(devices=[]):
            found = task.step(batch)
            is_tensor = isinstance(found, Tensor)
            losses = {"": found} if isinstance(found, Tensor) else dict(found)
            figures = dict(task.validate(batch)) if has_validation else {}
        names = optimizers_of(task)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in batch.items())
        raise ArgumentError(f"{shown} fails on a batch of {shapes}: {type(error).__name__}: {error}") from error
    if is_tensor == task.yields:
        raise ArgumentError(f"{shown}.step must contain its yields itself, or return a tensor")
    for loss in [*losses.values(), *figures.values()]:
        if not isinstance(loss, Tensor) or loss.shape[:1] not in ((), (_ROWS,)):
            what = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ArgumentError(f"{shown} gives {what} for {_ROWS} samples; give one loss a sample, [{_ROWS}]")
    unknown = [name for name in losses if name and name not in names]
    if unknown:
        raise ArgumentError(f"{shown}.step yields {unknown[0]!r}, and its optimizers are {', '.join(map(repr, names))}")
    if figures and "loss" not in figures:
        raise ArgumentError(f"{shown}.validate gives {', '.join(figures)}; it must give 'loss', too")
    refuse_foreign(task, names)
    if any(isinstance(one, torch.optim.LBFGS) for one in names.values()):
        raise ArgumentError(f"{shown} has an LBFGS optimizer, which computes losses itself; take another one")


def _zeros(fields: Mapping[str, Field]) -> dict[str, Tensor]:
    batch = {name: torch.from_numpy(np.zeros((_ROWS, *field.shape), field.dtype)) for name, field in fields.items()}
    return batch | {"weight": torch.ones(_ROWS)}
