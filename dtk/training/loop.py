"""The training loop of one rank.

All ranks take the same steps of the same shape. The loss of a step is the weighted mean over the *global* batch, so
that the gradient, and with it the model, does not depend on how many ranks shared the work, unless the module itself
sees what its rank has alone: batch normalisation takes the mean of a rank's samples, dropout draws a rank's numbers.
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from dtk.errors import DataError
from dtk.loader import Loader
from dtk.memory import peak_rss_nbytes
from dtk.training.losses import SampleLoss, weighted_sum
from dtk.training.rank import RankContext

__all__ = ["Metrics", "RankReport", "Recipe", "train_rank"]

NOT_INPUTS = ("target", "weight")
_REMEDIES: Final = (
    "if inputs are missing, give the loader preparation=dtk.TablePreparation().fit(data), which fills and scales them; "
    "else lower learning_rate"
)


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
    loss : SampleLoss
        One value a sample.
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
    loss: SampleLoss
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
    best_epoch : int
        The place in `history` of the epoch that `state` is of.
    samples_per_s : float
        Over all ranks and epochs, validation left out.
    wait_share : float
        Share of the training time that this rank waited for data.
    peak_nbytes : int
        The most memory this process held.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
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

    Raises
    ------
    DataError
        If the loss or a weight of the module gets infinite or NaN.
    """
    loader = loader.on_device(context.device)
    validation = None if validation is None else validation.on_device(context.device)
    loop = _Loop(recipe, loader, context)
    best = _Best(recipe.patience, keeps_state=context.rank == 0)
    report = RankReport()
    for epoch in range(recipe.epochs):
        entry = loop.train_epoch(epoch)
        if validation is not None:
            entry |= {f"validation_{name}": value for name, value in loop.validate(validation, epoch).items()}
            best.consider(epoch, entry["validation_loss"], loop.module)
        report.history.append(entry)
        loop.tell(epoch, len(loader), entry=entry, at_once=True)
        if best.is_over:
            break
    loop.let_go()
    if context.rank == 0:
        state = best.state or loop.module.state_dict()
        report.state = {name: value.detach().cpu() for name, value in state.items()}
    report.best_epoch = len(report.history) - 1 if validation is None else best.epoch
    report.samples_per_s = loop.samples / max(loop.train_s, 1e-9)
    report.wait_share = loop.wait_s / max(loop.train_s, 1e-9)
    report.peak_nbytes = peak_rss_nbytes()
    return report


class _Best:
    """Keeps the best state by validation loss, and says when patience is out; NaN is worse than any loss."""

    def __init__(self, patience: int | None, *, keeps_state: bool) -> None:
        self._patience = patience
        self._keeps_state = keeps_state
        self._loss = math.inf
        self.epoch = -1
        self._epochs_since = 0
        self.state: dict[str, Tensor] = {}

    def consider(self, epoch: int, loss: float, module: nn.Module) -> None:
        self._epochs_since += 1
        loss = math.inf if math.isnan(loss) else loss
        if loss < self._loss or self.epoch < 0:
            self._loss, self.epoch, self._epochs_since = loss, epoch, 0
            if self._keeps_state:
                self._keep(module.state_dict())

    def _keep(self, state: dict[str, Tensor]) -> None:
        """Copy a state over the one before, so that there are never two."""
        shapes, kept = ({name: value.shape for name, value in some.items()} for some in (state, self.state))
        if shapes != kept:
            self.state = copy.deepcopy(state)
            return
        for name, value in state.items():
            self.state[name].copy_(value)

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
        recipe.loss.to(self._device)
        has_weight = loader.weight is not None or "weight" in getattr(loader.preparation, "fields", ())
        self._has_plain_total = not (has_weight or recipe.loss.reweighs)
        self._replica: nn.Module = self.module
        if context.ranks > 1:
            is_partial = self._sum_over_ranks(float(self._has_unused_parameter())) > 0
            self._replica = DistributedDataParallel(
                self.module, find_unused_parameters=is_partial, gradient_as_bucket_view=True
            )
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
        loss_sum = weight_sum = 0.0
        for step, batch in enumerate(self._timed(self._loader)):
            loss = weighted_sum(self._losses(batch), batch["weight"])
            total = self._total(step, batch)
            value = float(loss.detach())
            _refuse_not_finite(value, batch, f"step {step + 1} of epoch {epoch + 1}")
            self._optimizer.zero_grad(set_to_none=True)
            # DDP averages over ranks; times their number it is the sum, over the global weight the mean
            (loss * (self._context.ranks / max(total, 1e-12))).backward()
            self._optimizer.step()
            loss_sum += value
            weight_sum += total
            self.samples += self._loader.plan.samples_in_step(step)
            self._loss = loss_sum * self._context.ranks / max(weight_sum, 1e-12)
            self.tell(epoch, step + 1)
        if not all(bool(weights.isfinite().all()) for weights in self.module.parameters()):
            raise DataError(f"the module's weights are no longer finite after epoch {epoch + 1}; {_REMEDIES}")
        seconds = time.perf_counter() - start
        self.train_s += seconds
        return {
            "epoch": epoch + 1,
            "loss": self._sum_over_ranks(loss_sum) / max(weight_sum, 1e-12),
            "seconds": seconds,
            "samples": self.samples - samples,
            "samples_per_s": (self.samples - samples) / max(seconds, 1e-9),
            "wait_share": (self.wait_s - waited) / max(seconds, 1e-9),
        }

    def validate(self, validation: Loader, epoch: int) -> dict[str, float]:
        metrics = self._recipe.make_metrics() if self._recipe.make_metrics is not None else None
        loss_sum = weight_sum = 0.0
        self._replica.eval()
        self._share_buffers()
        with torch.inference_mode():
            for step, batch in enumerate(validation):
                outputs = _forward(self.module, batch)
                losses = self._recipe.loss(outputs, batch["target"])
                value = float(weighted_sum(losses, batch["weight"]))
                _refuse_not_finite(value, batch, f"step {step + 1} of the validation after epoch {epoch + 1}")
                loss_sum += value
                weight_sum += float(self._recipe.loss.divisor(batch["target"], batch["weight"]))
                if metrics is not None:
                    counted = self._recipe.loss.counted(batch["target"], batch["weight"])
                    metrics.update(outputs, batch["target"], counted)
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

    def let_go(self) -> None:
        """Free what only further steps need, so that there is room to send the outcome."""
        self._optimizer.zero_grad(set_to_none=True)
        del self._optimizer, self._replica
        gc.collect()  # a replica refers to itself

    def _total(self, step: int, batch: dict[str, Tensor]) -> float:
        """By what the global batch's sum is divided; the plan knows it where no sample counts more than another."""
        if self._has_plain_total:
            return float(self._loader.plan.samples_in_step(step))
        return self._sum_over_ranks(float(self._recipe.loss.divisor(batch["target"], batch["weight"])))

    def _has_unused_parameter(self) -> bool:
        """Tell whether a step leaves a trained parameter without a gradient, by two rows of zeros."""
        torch.manual_seed(_stream(self._recipe.seed))
        batch = {
            name: torch.from_numpy(np.zeros((2, *field.shape), field.dtype)).to(self._device)
            for name, field in self._loader.plan.fields.items()
        }
        positional, named = _arguments(batch)
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}  # a step may change them
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        outputs = functional_call(self.module.train(), buffers, positional, named)
        return any(gradient is None for gradient in torch.autograd.grad(outputs.sum(), trained, allow_unused=True))

    def _share_buffers(self) -> None:
        """Give all ranks rank 0's buffers, which are those that are saved: each rank's step has changed its own."""
        if self._context.ranks > 1:
            for buffer in self.module.buffers():
                distributed.broadcast(buffer, 0)

    def _losses(self, batch: dict[str, Tensor]) -> Tensor:
        return self._recipe.loss(_forward(self._replica, batch), batch["target"])

    def _timed(self, loader: Loader) -> Iterator[dict[str, Tensor]]:
        """Count the seconds between asking for a batch and having it."""
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.wait_s += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def _sum_over_ranks(self, value: float) -> float:
        if self._context.ranks == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self._device)
        distributed.all_reduce(total)
        return float(total)


def _forward(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    positional, named = _arguments(batch)
    outputs = module(*positional, **named)
    assert isinstance(outputs, Tensor)
    return outputs


def _arguments(batch: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Say how a module takes a batch: ``inputs`` by position, anything else by name."""
    named = {name: value for name, value in batch.items() if name not in ("inputs", *NOT_INPUTS)}
    return ((batch["inputs"],) if "inputs" in batch else ()), named


def _refuse_not_finite(loss: float, batch: dict[str, Tensor], where: str) -> None:
    """Stop before a step that would make the weights NaN, which no later step mends."""
    if math.isfinite(loss):
        return
    if not batch["target"].isfinite().all():
        raise DataError(
            f"the target is NaN or infinite in {where}; leave such rows out, with data.dropna(subset=[...])"
        )
    raise DataError(f"the loss is {loss} in {where}; {_REMEDIES}")


def _stream(*key: int) -> int:
    """Derive the seed of a random stream from where it stands.

    >>> _stream(0, 1, 2) == _stream(0, 1, 2) != _stream(0, 2, 1)
    True
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
