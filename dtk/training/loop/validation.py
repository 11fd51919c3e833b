"""A validation: the figures of all samples, each counted once, over all ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dtk.loader import Loader
from dtk.training.loop.collective import Collective
from dtk.training.loop.losses import refuse_not_finite
from dtk.training.loop.task import Task, losses_sum, weight_of

__all__ = ["validate"]


def validate(
    task: Task,
    stepping: nn.Module,
    loader: Loader,
    collective: Collective,
    *,
    where: str,
    after_step: Callable[[], None],
) -> dict[str, float]:
    """Validate a task; all ranks call it.

    Parameters
    ----------
    task : Task
        What is validated.
    stepping : nn.Module
        Computes it; left in the mode for evaluation.
    loader : Loader
        Of this rank's part of the data.
    collective : Collective
        The ranks.
    where : str
        For errors.
    after_step : callable
        Called after each batch.

    Returns
    -------
    dict of str to float
        The weighted mean of each figure, and what the task adds; the same on all ranks.

    Raises
    ------
    DataError
        If the loss is infinite or NaN.
    """
    sums, weight_sum = dict[str, float](), 0.0
    stepping.eval()
    task.validation_start()
    with torch.no_grad():  # tensors of an inference could not be kept for a step
        for step, batch in enumerate(loader):
            for name, figures in stepping(batch, "validate").items():
                value = float(losses_sum(figures.float(), batch["weight"]))
                sums[name] = sums.get(name, 0.0) + value
                if name == "loss":
                    refuse_not_finite(value, batch, f"step {step + 1} of {where}")
            weight_sum += weight_of(task, batch)
            after_step()
    weight_sum = max(collective.sum(weight_sum), 1e-12)
    return {name: collective.sum(value) / weight_sum for name, value in sums.items()} | dict(task.validation_end())
