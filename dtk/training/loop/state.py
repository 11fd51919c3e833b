"""What a checkpoint holds of a training, and how a training goes on from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dtk.loader import Loader
from dtk.training.checkpoints.standing import (
    Best,
    Standing,
    flat_state,
    forget,
    load_flat_state,
    parameter_of,
    refuse_another,
    shapes,
)
from dtk.training.loop.averaging import Average
from dtk.training.loop.callbacks import Callback, load_states, states_of
from dtk.training.loop.collective import Collective
from dtk.training.loop.optimization import Optimization
from dtk.training.loop.recipe import Recipe

__all__ = ["State"]


class State:
    """All of a training that outlives a launch, on one rank.

    Parameters
    ----------
    recipe : Recipe
        What is trained, and how.
    optimization : Optimization
        Of its module.
    average : Average or None
        Of its weights.
    loader : Loader
        Of the training data.
    collective : Collective
        The ranks.
    steps_per_epoch : int
        Those of all ranks together.

    Attributes
    ----------
    at : Standing
        Where it stands.
    best : Best
        The best epoch so far.
    callbacks : list of Callback
        Known again by class, and by their order within it.
    """

    def __init__(
        self,
        recipe: Recipe,
        optimization: Optimization,
        average: Average | None,
        loader: Loader,
        collective: Collective,
        *,
        steps_per_epoch: int,
    ) -> None:
        self._recipe, self._optimization, self._average, self._loader = recipe, optimization, average, loader
        self._module, self._collective, self._steps_per_epoch = recipe.task, collective, steps_per_epoch
        self.best = Best(recipe.patience, keeps_state=collective.rank == 0 or recipe.method.strategy == "fsdp")
        self.at = Standing()
        self.callbacks: list[Callback] = []

    @property
    def step(self) -> int:
        """The step that comes next, counted over all epochs."""
        return self.at.epoch * self._steps_per_epoch + self.at.step

    @property
    def epochs_done(self) -> int:
        """The epochs that are over, with their validation."""
        return len(self.at.history)

    def longest(self, seconds: float) -> float:
        """Return the most of all ranks' seconds; each of them asks.

        Parameters
        ----------
        seconds : float
            This rank's.

        Returns
        -------
        float
            The same on all.
        """
        return self._collective.most(seconds)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint.

        Returns
        -------
        dict of str to Tensor
            The module's and the optimizers', and on the rank that keeps them those of the best epoch.
        """
        self._collective.share_buffers(self._module)
        module, optimizer = flat_state(self._module, self._optimization.optimizers)
        return self._named(module, optimizer, self.best.state)

    def standing(self) -> dict[str, Any]:
        """Return all else of a checkpoint; all ranks call it.

        Returns
        -------
        dict
            In types of JSON.
        """
        module, optimizer = flat_state(self._module, self._optimization.optimizers)
        told = self._collective.gather((self.at.loss_sum, self.at.is_stopped))
        at = {name: value for name, value in vars(self.at).items() if name != "loss_sum"}
        return {
            "at": at | {"is_stopped": any(is_stopped for _, is_stopped in told)},
            "loss_sums": [loss_sum for loss_sum, _ in told],
            "loader": self._loader.state_dict(),
            "optimizer": {name: value for name, value in optimizer.items() if not isinstance(value, Tensor)},
            "optimization": self._optimization.state_dict(),
            "callbacks": states_of(self.callbacks),
            "best": self.best.standing(),
            "seed": self._recipe.seed,
            "method": self._recipe.method.marks(),
            "shapes": shapes(module, optimizer),
        }

    def restore(self, standing: Mapping[str, Any], load: Callable[[dict[str, Tensor]], None]) -> None:
        """Go on from a checkpoint.

        Parameters
        ----------
        standing : mapping
            What `standing` returned.
        load : callable
            Fills tensors, by the names that `tensors` gave.
        """
        optimizers = self._optimization.optimizers
        module, optimizer = flat_state(self._module, optimizers, fresh=True)
        kept = {parameter_of(name) for name in [*standing["shapes"], *standing["optimizer"]]}
        without = {parameter_of(name) for name in optimizer} - kept  # which had taken no step yet
        begun = {name: value for name, value in optimizer.items() if parameter_of(name) not in without}
        own = {"seed": self._recipe.seed, "method": self._recipe.method.marks(), "shapes": shapes(module, begun)}
        refuse_another(standing, own)
        best = {}
        if self.best.keeps_state and standing["best"]["epoch"] >= 0:
            best = copy.deepcopy(dict(self._module.state_dict()))
        load(self._named(module, begun, best))
        load_flat_state(self._module, optimizers, module, optimizer, standing["optimizer"])
        forget(self._module, optimizers, without)
        self._optimization.load_state_dict(standing["optimization"])
        self._loader.load_state_dict(standing["loader"])
        sums = standing["loss_sums"]
        rank, ranks = self._collective.rank, self._collective.ranks
        loss_sum = sums[rank] if len(sums) == ranks else sum(sums) * (rank == 0)
        self.at = Standing(**standing["at"], loss_sum=loss_sum)
        self.best.restore(standing["best"], best)
        load_states(self.callbacks, standing["callbacks"])

    def _named(
        self, module: dict[str, Any], optimizer: dict[str, Any], best: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Name all tensors of a checkpoint."""
        named = {name: value for name, value in (module | optimizer).items() if isinstance(value, Tensor)}
        averages = {} if self._average is None else self._average.tensors
        named |= {f"best.{name}": value for name, value in best.items()}
        return named | {f"ema.{name}": value for name, value in averages.items()}
