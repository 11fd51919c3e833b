"""What a step of training is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from dtk.errors import ArgumentError
from dtk.training.loop.losses import weighted_sum

__all__ = [
    "Task",
    "TensorSpec",
    "losses_sum",
    "optimizers_of",
    "refuse_foreign",
    "weight_of",
]

Optimizers = torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer]
Losses = Tensor | Iterator[tuple[str, Tensor]]

ONLY: Final = "optimizer"
"""The name of an optimizer that has no other."""


class TensorSpec(NamedTuple):
    """What a tensor of a batch is.

    Parameters
    ----------
    dtype : torch.dtype
        Its type.
    shape : tuple of int
        Of a sample; a batch has a dimension more, in front.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]


class Task(nn.Module):
    """What a training does with a batch, for all that is more than one network and one loss.

    A task is a module that holds networks. The loop owns the rest: backward, the sum of gradients over ranks, scaling,
    clipping, accumulation, optimizer steps, checkpoints.

    Examples
    --------
    A network with a loss of its own:

    >>> class Line(Task):
    ...     def build(self, schema):
    ...         self.layer = nn.Linear(schema["inputs"].shape[0], 1)
    ...
    ...     def optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.5)
    ...
    ...     def predict(self, batch):
    ...         return self.layer(batch["inputs"])
    ...
    ...     def step(self, batch):
    ...         return (self.predict(batch)[:, 0] - batch["target"]) ** 2
    """

    is_built = False
    """Whether `build` was called."""

    def build(self, schema: Mapping[str, TensorSpec]) -> None:
        """Make what depends on the data; called once, before the first training, with the seed of the loader's order.

        What changes from step to step and must survive a restart belongs into parameters and buffers: plain attributes
        are in no checkpoint.

        Parameters
        ----------
        schema : mapping of str to TensorSpec
            The tensors of a batch, by name.
        """

    def optimizers(self) -> Optimizers:
        """Make the optimizers; called on each rank, when the module is where it trains.

        Returns
        -------
        torch.optim.Optimizer or mapping of str to torch.optim.Optimizer
            One for all, or one for each name that `step` yields, of parameters of its own.
        """
        return torch.optim.Adam(self.parameters())

    def step(self, batch: dict[str, Tensor]) -> Losses:
        """Compute the loss of a batch.

        Parameters
        ----------
        batch : dict of str to Tensor
            As the loader gives it, with ``"weight"`` [B], 0 for padding.

        Returns
        -------
        Tensor or iterator of (str, Tensor)
            One loss a sample [B], of which the loop takes the weighted mean over the global batch; or a scalar, which
            is taken for the weighted mean over this batch. A generator yields such a loss with the name of an
            optimizer, as often as it likes: the loop then takes that optimizer's step before it goes on.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step(batch); write one that returns the losses [B]")

    def validate(self, batch: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """Compute the figures of a batch in a validation.

        Parameters
        ----------
        batch : dict of str to Tensor
            As the loader gives it.

        Returns
        -------
        mapping of str to Tensor
            By name, one figure a sample [B] or a scalar, as for `step`; ``"loss"`` decides which epoch is best. By
            default the loss that `step` returns.
        """
        losses = self.step(batch)
        if not isinstance(losses, Tensor):
            raise NotImplementedError(f"{type(self).__name__} yields losses; a validation of it needs validate(batch)")
        return {"loss": losses}

    def predict(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the outputs of a batch.

        Parameters
        ----------
        batch : dict of str to Tensor
            The inputs of a batch.

        Returns
        -------
        Tensor [B, outputs]
            What a bundle's predictions are made of.
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict(batch), which predictions need")

    def forward(self, inputs: Tensor | None = None, codes: Tensor | None = None) -> Tensor:
        """Predict, as a network is called.

        Parameters
        ----------
        inputs : Tensor, optional
            Of the batch.
        codes : Tensor, optional
            Of the batch.

        Returns
        -------
        Tensor [B, outputs]
            From `predict`.
        """
        batch = {"inputs": inputs, "codes": codes}
        return self.predict({name: value for name, value in batch.items() if value is not None})

    @property
    def reweighs(self) -> bool:
        """Whether `divisor` says something."""
        return False

    def divisor(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Say by what the sum of the weighted losses is to be divided, where it is not the sum of the weights.

        Parameters
        ----------
        batch : dict of str to Tensor
            As the loader gives it.

        Returns
        -------
        Tensor or None
            A scalar, to be summed over batches and ranks; None for the sum of the weights.
        """
        return None

    def validation_start(self) -> None:
        """Get ready for the batches of a validation."""

    def validation_end(self) -> Mapping[str, float]:
        """Add to the figures of a validation; called on all ranks.

        Returns
        -------
        mapping of str to float
            By name.
        """
        return {}

    @property
    def yields(self) -> bool:
        """Whether `step` is a generator."""
        return inspect.isgeneratorfunction(type(self).step)

    @property
    def shown(self) -> str:
        """What messages call it."""
        return type(self).__name__


def losses_sum(losses: Tensor, weight: Tensor) -> Tensor:
    """Sum the losses of a batch, each times its weight.

    Parameters
    ----------
    losses : Tensor [B], [B, outputs] or scalar
        One a sample, or the weighted mean over the batch.
    weight : Tensor [B]
        Not negative; 0 for padding.

    Returns
    -------
    Tensor
        A scalar.
    """
    return losses * weight.sum().to(losses.dtype) if losses.dim() == 0 else weighted_sum(losses, weight)


def weight_of(task: Task, batch: Mapping[str, Tensor]) -> float:
    """Return a batch's part of what the sum of losses is divided by.

    Parameters
    ----------
    task : Task
        What is trained.
    batch : mapping of str to Tensor
        As the loader gives it.

    Returns
    -------
    float
        To be summed over batches and ranks.
    """
    divisor = task.divisor(dict(batch))
    return float(batch["weight"].sum() if divisor is None else divisor)


def refuse_foreign(task: Task, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    """Refuse optimizers of parameters that are not the task's: they would train nothing.

    Parameters
    ----------
    task : Task
        On its device.
    optimizers : mapping of str to torch.optim.Optimizer
        By name.

    Raises
    ------
    ArgumentError
        If there is such a parameter, or one that has two optimizers.
    """
    own = {id(one) for one in task.parameters()}
    held = [id(one) for optimizer in optimizers.values() for group in optimizer.param_groups for one in group["params"]]
    if not own.issuperset(held):
        raise ArgumentError(
            f"{task.shown}.optimizers() hold a parameter that is none of the task's; make them of self.parameters(), "
            "in optimizers() itself"
        )
    if len(set(held)) < len(held):
        raise ArgumentError(f"{task.shown}.optimizers() give a parameter to two optimizers; give each to one")


def optimizers_of(task: Task) -> dict[str, torch.optim.Optimizer]:
    """Make a task's optimizers.

    Parameters
    ----------
    task : Task
        On its device.

    Returns
    -------
    dict of str to torch.optim.Optimizer
        By name.
    """
    made = task.optimizers()
    return {ONLY: made} if isinstance(made, torch.optim.Optimizer) else dict(made)
