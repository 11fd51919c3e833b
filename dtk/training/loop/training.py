"""The training loop of one rank.

All ranks take the same steps of the same shape. The loss of a step is the weighted mean over the *global* batch, so
that the gradient, and with it the model, does not depend on how many ranks shared the work, unless the module itself
sees what its rank has alone: batch normalisation takes the mean of a rank's samples, dropout draws a rank's numbers.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dtk.errors import ArgumentError, DataError
from dtk.loader import Loader
from dtk.memory import peak_rss_nbytes
from dtk.training.checkpoints.keeper import Left
from dtk.training.checkpoints.standing import Standing, own_part, random_stream
from dtk.training.gang.rank import RankContext
from dtk.training.loop.averaging import Average
from dtk.training.loop.beats import Beats
from dtk.training.loop.callbacks import Callback
from dtk.training.loop.checkpointing import Checkpointing
from dtk.training.loop.collective import Collective
from dtk.training.loop.losses import REMEDIES, refuse_not_finite
from dtk.training.loop.optimization import Optimization
from dtk.training.loop.recipe import RankReport, Recipe
from dtk.training.loop.state import State
from dtk.training.loop.strategies import Stepping, Strategy, gathered, share
from dtk.training.loop.task import losses_sum, weight_of
from dtk.training.loop.trial import leaves_parameters_out
from dtk.training.loop.validation import validate

__all__ = ["Training", "train_rank"]


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
    training = Training(recipe, loader, validation, context)
    callbacks: list[Callback] = [Beats(context), *recipe.callbacks]
    if recipe.checkpoint is None:
        training.run(callbacks)
        return training.report()
    checkpointing, left = Checkpointing(recipe.checkpoint, context), ""
    try:
        training.run([checkpointing, *callbacks])
    except Left as leaving:
        left = str(leaving)
    return replace(training.report(), left=left, incarnation=checkpointing.incarnation)


class Training:
    """A training as one rank runs it, and as callbacks see it.

    Parameters
    ----------
    recipe : Recipe
        What to train, and how.
    loader : Loader
        Of the training data, for this rank.
    validation : Loader or None
        Of the validation data, for this rank.
    context : RankContext
        Who this rank is.

    Attributes
    ----------
    rank, ranks : int
        This rank's number, and how many there are.
    module : nn.Module
        What is trained: a `Task`, or one that holds the user's module.
    epochs : int
        How many there will be at most.
    steps : int
        Those of all epochs.
    state : State
        What a checkpoint holds of it.
    """

    def __init__(self, recipe: Recipe, loader: Loader, validation: Loader | None, context: RankContext) -> None:
        self._recipe, self._loader, self._validation = recipe, loader, validation
        self.rank, self.ranks, self.epochs = context.rank, context.ranks, recipe.epochs
        self._device = torch.device(context.device)
        self._collective = Collective(context.rank, context.ranks, self._device)
        has_weight = loader.weight is not None or "weight" in getattr(loader.preparation, "fields", ())
        self._is_weighted = has_weight or recipe.task.reweighs
        self.module = recipe.task.to(self._device)
        self._strategy = self._share()
        self._average = None if recipe.method.ema is None else Average(self.module, recipe.method.ema)
        self._steps_per_epoch = -(-len(loader) // recipe.method.accumulate)
        self.steps = recipe.epochs * self._steps_per_epoch
        self._optimization = Optimization(recipe.task, recipe.method, self._strategy, self._device, self.steps)
        if self._optimization.follows_validation and validation is None:
            raise ArgumentError("schedule= follows the validation loss; give validation=")
        self.state = State(
            recipe, self._optimization, self._average, loader, self._collective, steps_per_epoch=self._steps_per_epoch
        )
        self._best = self.state.best
        self.loss = float("nan")
        """The mean loss of this epoch so far, as this rank sees it."""

    @property
    def epoch(self) -> int:
        """The epoch, from 0."""
        return self._at.epoch

    @property
    def step(self) -> int:
        """The step that comes next, counted over all epochs."""
        return self.state.step

    @property
    def samples(self) -> int:
        """The samples trained on so far, by all ranks."""
        return self._at.samples

    @property
    def history(self) -> list[dict[str, Any]]:
        """The figures of the epochs so far, one entry each."""
        return self._at.history

    @property
    def read_nbytes(self) -> int:
        """Bytes that this rank has read so far."""
        return self._loader.read_nbytes

    @property
    def wait_s(self) -> float:
        """Seconds that this rank waited for data so far."""
        return self._at.wait_s + self._at.epoch_wait_s

    @property
    def sync_s(self) -> float:
        """Seconds that this rank waited for other ranks in steps so far: for gradients, and weights, to be summed."""
        return self._at.sync_s + self._at.epoch_sync_s

    @property
    def compute_s(self) -> float:
        """Seconds of all else in steps so far, callbacks included."""
        return self._at.train_s + self._at.epoch_s - self.wait_s - self.sync_s

    @property
    def learning_rate(self) -> float:
        """That of the first optimizer's first parameters."""
        return self._optimization.learning_rate

    def stop(self) -> None:
        """End the training with this epoch; any rank may ask for it, before `Callback.on_epoch_end` is over."""
        self._at.is_stopped = True

    def run(self, callbacks: list[Callback]) -> None:
        """Train from where it stands to the end.

        Parameters
        ----------
        callbacks : list of Callback
            Called in this order; checkpoints know them again by class, and by their order within it.
        """
        self.state.callbacks = callbacks
        try:
            self._call("on_train_start")
            while not self._is_over():
                self._run_epoch()
            self._call("on_train_end")
        except BaseException as error:
            self._call("on_exception", error)
            raise
        finally:
            self._loader.read_ahead(None)

    def report(self) -> RankReport:
        """Let go of all that only further steps need, and say how it went.

        Returns
        -------
        RankReport
            The outcome.
        """
        at = self._at
        if self._best.epoch >= 0:
            state = gathered(self._best.state, self.rank)
        else:
            with self._averaged():
                state = gathered(self.module.state_dict(), self.rank, copies=self._average is not None)
        del self._optimization, self._strategy
        gc.collect()  # a replica refers to itself
        return RankReport(
            state=state,
            history=at.history,
            best_epoch=self._best.epoch if self._validation is not None else len(at.history) - 1,
            samples_per_s=at.samples / max(at.train_s, 1e-9),
            wait_share=at.wait_s / max(at.train_s, 1e-9),
            peak_nbytes=peak_rss_nbytes(),
        )

    def _is_over(self) -> bool:
        at = self._at
        return at.epoch >= self.epochs or (at.step == 0 and (self._best.is_over or at.is_stopped))

    def _run_epoch(self) -> None:
        at = self._at
        self._call("on_epoch_start")
        entry = self._train_epoch()
        if self._validation is not None:
            with self._averaged():
                found = self._validate(self._validation)
                entry |= {f"validation_{name}": value for name, value in found.items()}
                self._best.consider(at.epoch, entry["validation_loss"], self.module)
            self._optimization.end_epoch(entry["validation_loss"])
        at.history.append(entry)
        self._call("on_epoch_end", entry)
        at.is_stopped = self._collective.sum(float(at.is_stopped)) > 0
        at.begin_epoch(at.epoch + 1)

    def _train_epoch(self) -> dict[str, Any]:
        at = self._at
        if at.step < self._steps_per_epoch:  # else it left in the validation, which comes next
            self._take_steps()
        if not all(bool(own_part(weights).isfinite().all()) for weights in self.module.parameters()):
            raise DataError(f"the module's weights are no longer finite after epoch {at.epoch + 1}; {REMEDIES}")
        return {
            "epoch": at.epoch + 1,
            "loss": self._collective.sum(at.loss_sum) / max(at.weight_sum, 1e-12),
            "seconds": at.epoch_s,
            "samples": at.epoch_samples,
            "samples_per_s": at.epoch_samples / max(at.epoch_s, 1e-9),
            "wait_share": at.epoch_wait_s / max(at.epoch_s, 1e-9),
            "wait_s": at.epoch_wait_s,
            "sync_s": at.epoch_sync_s,
            "compute_s": at.epoch_s - at.epoch_wait_s - at.epoch_sync_s,
        }

    def _take_steps(self) -> None:
        """Take the steps of this epoch that are left."""
        at = self._at
        self._strategy.stepping.train()
        if at.step == 0:
            self._loader.set_epoch(at.epoch)
        if at.epoch + 1 < self.epochs:
            self._loader.read_ahead(at.epoch + 1)
        started, epoch_s = time.perf_counter(), at.epoch_s
        batches = iter(self._loader)
        while at.step < self._steps_per_epoch:
            self._call("on_step_start")
            self._take_step(batches)
            at.epoch_s = epoch_s + time.perf_counter() - started
            self._call("on_step_end")
        for _ in batches:  # it ends by itself, and with it what reads
            raise AssertionError("more batches than steps")

    def _take_step(self, batches: Iterator[dict[str, Tensor]]) -> None:
        """Take the batches of a step, each after the other, and go down their common gradient."""
        at, size = self._at, self._recipe.method.accumulate
        numbers = range(at.step * size, min((at.step + 1) * size, len(self._loader)))
        samples = sum(self._loader.plan.samples_in_step(number) for number in numbers)
        optimization, sync = self._optimization, self._strategy.sync
        value, weight, total = 0.0, 0.0, float(samples)
        optimization.begin(total)
        for number in numbers:
            batch = self._next(batches)
            torch.manual_seed(random_stream(self._recipe.seed, at.epoch, number, self.rank))
            if self._is_weighted:  # else the plan knows it
                weight += weight_of(self._recipe.task, batch)
            if self._is_weighted and size == 1:
                with sync.waiting():
                    total = self._collective.sum(weight)
                optimization.begin(total)
            with nullcontext() if number == numbers[-1] else self._strategy.no_sync():
                for name, loss in self._losses(batch):
                    summed = losses_sum(loss.float(), batch["weight"])
                    found = float(summed.detach())
                    refuse_not_finite(found, batch, f"step {at.step + 1} of epoch {at.epoch + 1}")
                    optimization.backward(name, summed)
                    value += found
        if self._is_weighted and size > 1:
            with sync.waiting():
                total = self._collective.sum(weight)
        optimization.end(total)
        at.epoch_sync_s += sync.take()
        if self._average is not None:
            self._average.update()
        at.take(samples, value, total)
        self.loss = at.loss_sum * self.ranks / max(at.weight_sum, 1e-12)

    def _next(self, batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Wait for a batch, and note for how long."""
        asked = time.perf_counter()
        batch = next(batches)
        self._at.epoch_wait_s += time.perf_counter() - asked
        return batch

    def _losses(self, batch: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses of a batch, each with the name of its optimizer; without one where all follow it."""
        if not self._recipe.task.yields:
            yield "", self._strategy.step(batch)
            return
        losses = self._strategy.step(batch)
        while True:
            with self._optimization.autocast():  # of the task's own lines, and not of what follows a loss
                named = next(losses, None)
            if named is None:
                return
            yield named

    def _validate(self, loader: Loader) -> dict[str, float]:
        at, seed = self._at, self._recipe.seed
        self._collective.share_buffers(self.module)
        torch.manual_seed(random_stream(seed, at.epoch, len(self._loader), self.rank))  # as if nothing came before it
        loader.set_epoch(at.epoch)
        return validate(
            self._recipe.task,
            self._strategy.stepping,
            loader,
            self._collective,
            where=f"the validation after epoch {at.epoch + 1}",
            after_step=lambda: self._call("on_validation_step"),
        )

    def _share(self) -> Strategy:
        """Spread the module over the ranks."""
        recipe, loader = self._recipe, self._loader

        def is_partial(stepping: Stepping) -> bool:
            found = leaves_parameters_out(stepping, loader.plan.fields, self._device, recipe.seed)
            return self._collective.sum(float(found)) > 0

        autocast = Optimization.autocast_of(recipe.method.precision, self._device)
        strategy = share(Stepping(recipe.task, autocast), self.ranks, self._device, recipe.method.strategy, is_partial)
        if recipe.method.compile:
            strategy.step = torch.compile(strategy.step)
        return strategy

    @property
    def _at(self) -> Standing:
        return self.state.at

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self._average is None else self._average.in_place()

    def _call(self, hook: str, *args: Any) -> None:
        for callback in self.state.callbacks:
            getattr(callback, hook)(self, *args)
