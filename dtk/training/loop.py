"""The training loop of one rank.

All ranks take the same steps of the same shape. The loss of a step is the weighted mean over the *global* batch, so
that the gradient, and with it the model, does not depend on how many ranks shared the work.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dtk.loader import Loader
from dtk.memory import peak_rss_nbytes
from dtk.training.losses import Loss, weighted_sum
from dtk.training.rank import RankContext

__all__ = ["Metrics", "RankReport", "Recipe", "train_rank"]

NOT_INPUTS = ("target", "weight")


class Metrics(Protocol):
    """What the loop asks of metrics; ranks synchronise inside `compute`."""

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


@dataclass(frozen=True)
class Recipe:
    """What a rank trains, and how.

    Parameters
    ----------
    module : nn.Module
        Called with the batch's inputs.
    loss : callable
        ``f(outputs, target) -> Tensor [B]``.
    optimizer : callable
        ``f(parameters) -> torch.optim.Optimizer``.
    epochs : int
        At most.
    patience : int or None
        Epochs without a better validation loss after which training stops; None never stops early.
    make_metrics : callable or None
        Makes the metrics of a validation.
    seed : int
        Of dropout and other random streams.
    """

    module: nn.Module
    loss: Loss
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    epochs: int
    patience: int | None
    make_metrics: Callable[[], Metrics] | None
    seed: int


@dataclass
class RankReport:
    """What a rank brings home.

    Parameters
    ----------
    state : dict of str to Tensor
        The module's state of the best epoch, or of the last one without validation; empty but on rank 0.
    history : list of dict
        One entry an epoch.
    samples_per_s : float
        Over all ranks and epochs, validation left out.
    wait_share : float
        Share of the training time that this rank waited for data.
    peak_nbytes : int
        The most memory this process held.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    samples_per_s: float = 0.0
    wait_share: float = 0.0
    peak_nbytes: int = 0


def train_rank(recipe: Recipe, loader: Loader, validation: Loader | None, context: RankContext) -> RankReport:
    """Train as one rank of a gang, or alone.

    Parameters
    ----------
    recipe : Recipe
        What to train, and how.
    loader : Loader
        Of the training data, for this rank.
    validation : Loader or None
        Of the validation data, for this rank; it must pad.
    context : RankContext
        Who this rank is, and whom it tells.

    Returns
    -------
    RankReport
        The outcome.
    """
    loop = _Loop(recipe, loader, context)
    best = _Best(recipe.patience)
    report = RankReport()
    for epoch in range(recipe.epochs):
        entry = loop.train_epoch(epoch)
        if validation is not None:
            entry |= {f"validation_{name}": value for name, value in loop.validate(validation).items()}
            best.consider(entry["validation_loss"], loop.module)
        report.history.append(entry)
        loop.tell(epoch, len(loader), entry=entry, at_once=True)
        if best.is_over:
            break
    if context.rank == 0:
        state = best.state or loop.module.state_dict()
        report.state = {name: value.detach().cpu() for name, value in state.items()}
    report.samples_per_s = loop.samples / max(loop.train_s, 1e-9)
    report.wait_share = loop.wait_s / max(loop.train_s, 1e-9)
    report.peak_nbytes = peak_rss_nbytes()
    return report


class _Best:
    """Keeps the best state by validation loss, and says when patience is out."""

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._loss = float("inf")
        self._epochs_since = 0
        self.state: dict[str, Tensor] = {}

    def consider(self, loss: float, module: nn.Module) -> None:
        self._epochs_since += 1
        if loss < self._loss or not self.state:
            self._loss, self._epochs_since = loss, 0
            self.state = copy.deepcopy(module.state_dict())

    @property
    def is_over(self) -> bool:
        return self._patience is not None and self._epochs_since >= self._patience > 0


class _Loop:
    def __init__(self, recipe: Recipe, loader: Loader, context: RankContext) -> None:
        self._recipe = recipe
        self._loader = loader
        self._context = context
        self._device = torch.device(context.device)
        self.module = recipe.module.to(self._device)
        self._replica: nn.Module = self.module
        if context.ranks > 1:
            self._replica = DistributedDataParallel(self.module)
        self._optimizer = recipe.optimizer(self.module.parameters())
        self.samples = 0
        self.train_s = 0.0
        self.wait_s = 0.0
        self._loss = float("nan")

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        torch.manual_seed(_stream(self._recipe.seed, epoch, self._context.rank))
        self._replica.train()
        self._loader.set_epoch(epoch)
        start, waited, samples = time.perf_counter(), self.wait_s, self.samples
        loss_sum = torch.zeros((), dtype=torch.float64)
        weight_sum = 0.0
        for step, batch in enumerate(self._timed(self._loader)):
            total = self._sum_over_ranks(float(batch["weight"].sum()))
            loss = weighted_sum(self._losses(batch), batch["weight"])
            self._optimizer.zero_grad(set_to_none=True)
            # DDP averages over ranks; times their number it is the sum, over the global weight the mean
            (loss * (self._context.ranks / max(total, 1e-12))).backward()
            self._optimizer.step()
            loss_sum += loss.detach().cpu()
            weight_sum += total
            self.samples += self._loader.plan.samples_in_step(step)
            self._loss = float(loss_sum) * self._context.ranks / max(weight_sum, 1e-12)
            self.tell(epoch, step + 1)
        seconds = time.perf_counter() - start
        self.train_s += seconds
        return {
            "epoch": epoch + 1,
            "loss": self._sum_over_ranks(float(loss_sum)) / max(weight_sum, 1e-12),
            "seconds": seconds,
            "samples": self.samples - samples,
            "samples_per_s": (self.samples - samples) / max(seconds, 1e-9),
            "wait_share": (self.wait_s - waited) / max(seconds, 1e-9),
        }

    def validate(self, validation: Loader) -> dict[str, float]:
        metrics = self._recipe.make_metrics() if self._recipe.make_metrics is not None else None
        loss_sum = weight_sum = 0.0
        self._replica.eval()
        with torch.inference_mode():
            for batch in self._on_device(iter(validation)):
                outputs = _forward(self.module, batch)
                losses = self._recipe.loss(outputs, batch["target"])
                loss_sum += float(weighted_sum(losses, batch["weight"]))
                weight_sum += float(batch["weight"].sum())
                if metrics is not None:
                    metrics.update(outputs, batch["target"], batch["weight"])
                self._context.report(lambda: {"phase": "validation"})
        loss = self._sum_over_ranks(loss_sum) / max(self._sum_over_ranks(weight_sum), 1e-12)
        return {"loss": loss, **(metrics.compute() if metrics is not None else {})}

    def tell(self, epoch: int, step: int, *, entry: dict[str, Any] | None = None, at_once: bool = False) -> None:
        def message() -> dict[str, Any]:
            return {
                "phase": "training" if entry is None else "epoch",
                "epoch": epoch + 1,
                "epochs": self._recipe.epochs,
                "step": epoch * len(self._loader) + step,
                "steps": self._recipe.epochs * len(self._loader),
                "loss": self._loss,
                "samples": self.samples,
                "wait_s": self.wait_s,
                "entry": entry,
            }

        self._context.report(message, at_once=at_once)

    def _losses(self, batch: dict[str, Tensor]) -> Tensor:
        return self._recipe.loss(_forward(self._replica, batch), batch["target"])

    def _timed(self, loader: Loader) -> Iterator[dict[str, Tensor]]:
        """Count the seconds between asking for a batch and having it."""
        batches = self._on_device(iter(loader))
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.wait_s += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def _on_device(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        if self._device.type == "cpu":
            return batches
        return ({name: value.to(self._device, non_blocking=True) for name, value in batch.items()} for batch in batches)

    def _sum_over_ranks(self, value: float) -> float:
        if self._context.ranks == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self._device)
        distributed.all_reduce(total)
        return float(total)


def _forward(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Call a module with a batch: ``inputs`` by position, anything else by name."""
    named = {name: value for name, value in batch.items() if name not in ("inputs", *NOT_INPUTS)}
    outputs = module(batch["inputs"], **named) if "inputs" in batch else module(**named)
    assert isinstance(outputs, Tensor)
    return outputs


def _stream(*key: int) -> int:
    """Derive the seed of a random stream from where it stands.

    >>> _stream(0, 1, 2) == _stream(0, 1, 2) != _stream(0, 2, 1)
    True
    """
    import numpy as np

    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
