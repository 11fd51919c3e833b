"""The tasks that dtk makes: of a network and a loss, and behind a preparation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from dtk.models import PreparedModel
from dtk.training.loop.losses import SampleLoss
from dtk.training.loop.task import Losses, Optimizers, Task

__all__ = ["Metrics", "NetworkTask", "PreparedTask"]

_NOT_INPUTS: Final = ("target", "weight")


class Metrics(Protocol):
    """What a network's task asks of metrics; ranks synchronise inside `compute`."""

    def update(self, outputs: Tensor, target: Tensor, weight: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        outputs : Tensor [B, outputs]
            Of the module.
        target : Tensor [B]
            As the loader gives it.
        weight : Tensor [B]
            0 for padding.
        """

    def compute(self) -> dict[str, float]:
        """Return the metrics over all ranks; all of them must call it.

        Returns
        -------
        dict of str to float
            Each by name.
        """


class NetworkTask(Task):
    """The task of one network and one loss.

    Parameters
    ----------
    network : nn.Module
        Called with the batch's inputs; anything but ``"inputs"`` it takes by name.
    loss : SampleLoss
        One value a sample.
    optimizer : callable
        ``f(parameters) -> torch.optim.Optimizer``.
    make_metrics : callable, optional
        Makes the metrics of a validation.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: SampleLoss,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        make_metrics: Callable[[], Metrics] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._loss, self._optimizer, self._make_metrics = loss, optimizer, make_metrics
        self.criterion = loss.module  # what it holds goes to the device with the network
        self._metrics: Metrics | None = None

    def optimizers(self) -> torch.optim.Optimizer:
        """See `Task`."""
        return self._optimizer(self.parameters())

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Task`."""
        return self._loss(self.predict(batch), batch["target"])

    def validate(self, batch: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """See `Task`."""
        outputs = self.predict(batch)
        if self._metrics is not None:
            counted = self._loss.counted(batch["target"], batch["weight"])
            self._metrics.update(outputs, batch["target"], counted)
        return {"loss": self._loss(outputs, batch["target"])}

    def predict(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Task`."""
        named = {name: value for name, value in batch.items() if name not in ("inputs", *_NOT_INPUTS)}
        outputs = self.network(*((batch["inputs"],) if "inputs" in batch else ()), **named)
        assert isinstance(outputs, Tensor)
        return outputs

    def divisor(self, batch: dict[str, Tensor]) -> Tensor | None:
        """See `Task`."""
        return self._loss.divisor(batch["target"], batch["weight"]) if self._loss.reweighs else None

    @property
    def reweighs(self) -> bool:
        """See `Task`."""
        return self._loss.reweighs

    def validation_start(self) -> None:
        """See `Task`."""
        self._metrics = self._make_metrics() if self._make_metrics is not None else None

    def validation_end(self) -> Mapping[str, float]:
        """See `Task`."""
        return {} if self._metrics is None else self._metrics.compute()

    @property
    def shown(self) -> str:
        """See `Task`."""
        network = self.network.network if isinstance(self.network, PreparedModel) else self.network
        return type(network).__name__


class PreparedTask(Task):
    """A task behind a preparation: what it gets is prepared.

    Parameters
    ----------
    preparation : nn.Module
        What `TablePreparation.as_module` returns.
    task : Task
        The user's.
    """

    def __init__(self, preparation: nn.Module, task: Task) -> None:
        super().__init__()
        self.preparation, self.task = preparation, task

    def prepared(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Prepare the inputs of a batch.

        Parameters
        ----------
        batch : dict of str to Tensor
            As the loader gives it.

        Returns
        -------
        dict of str to Tensor
            With inputs that are standardised and without gaps.
        """
        inputs, codes = self.preparation(batch.get("inputs"), batch.get("codes"))
        found = {"inputs": inputs, "codes": codes}
        return batch | {name: value for name, value in found.items() if value is not None}

    def optimizers(self) -> Optimizers:
        """See `Task`."""
        return self.task.optimizers()

    def step(self, batch: dict[str, Tensor]) -> Losses:
        """See `Task`."""
        return self.task.step(self.prepared(batch))

    def validate(self, batch: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """See `Task`."""
        return self.task.validate(self.prepared(batch))

    def predict(self, batch: dict[str, Tensor]) -> Tensor:
        """See `Task`."""
        return self.task.predict(self.prepared(batch))

    def divisor(self, batch: dict[str, Tensor]) -> Tensor | None:
        """See `Task`."""
        return self.task.divisor(batch)

    @property
    def reweighs(self) -> bool:
        """See `Task`."""
        return self.task.reweighs

    def validation_start(self) -> None:
        """See `Task`."""
        self.task.validation_start()

    def validation_end(self) -> Mapping[str, float]:
        """See `Task`."""
        return self.task.validation_end()

    @property
    def yields(self) -> bool:
        """See `Task`."""
        return self.task.yields

    @property
    def shown(self) -> str:
        """See `Task`."""
        return self.task.shown
