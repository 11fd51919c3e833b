"""Where a training stands: what a checkpoint keeps beside the tensors, and how these are named."""

from __future__ import annotations

import copy
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

from dtk.errors import CheckpointError

__all__ = [
    "Best",
    "Standing",
    "flat_state",
    "forget",
    "load_flat_state",
    "own_part",
    "parameter_of",
    "random_stream",
    "refuse_another",
    "shapes",
]

_FLAT: Final = StateDictOptions(flatten_optimizer_state_dict=True)


class Best:
    """Keeps the best state by validation loss, and says when patience is out; NaN is worse than any loss.

    Parameters
    ----------
    patience : int or None
        Epochs without a better loss after which it is; None for never.
    keeps_state : bool
        Whether the state is kept here, and not only which epoch's it is.
    """

    def __init__(self, patience: int | None, *, keeps_state: bool) -> None:
        self._patience = patience
        self.keeps_state = keeps_state
        self._loss = math.inf
        self.epoch = -1
        self._epochs_since = 0
        self.state: dict[str, Tensor] = {}

    def consider(self, epoch: int, loss: float, module: nn.Module) -> None:
        """Take in an epoch.

        Parameters
        ----------
        epoch : int
            Its number.
        loss : float
            Of the validation.
        module : nn.Module
            As it is after the epoch.
        """
        self._epochs_since += 1
        loss = math.inf if math.isnan(loss) else loss
        if loss < self._loss or self.epoch < 0:
            self._loss, self.epoch, self._epochs_since = loss, epoch, 0
            if self.keeps_state:
                self._keep(module.state_dict())

    def standing(self) -> dict[str, Any]:
        """Describe all but the state itself.

        Returns
        -------
        dict
            Fit for JSON.
        """
        return {"loss": self._loss, "epoch": self.epoch, "epochs_since": self._epochs_since}

    def restore(self, standing: Mapping[str, Any], state: dict[str, Tensor]) -> None:
        """Go on from what `standing` described.

        Parameters
        ----------
        standing : mapping
            From `standing`.
        state : dict of str to Tensor
            The best state.
        """
        self._loss, self.epoch, self._epochs_since = standing["loss"], standing["epoch"], standing["epochs_since"]
        self.state = state

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
        """Whether patience is out."""
        return self._patience is not None and self._epochs_since >= self._patience > 0


@dataclass
class Standing:
    """Where a training stands: what follows, and what it has added up.

    Parameters
    ----------
    epoch, step : int
        What comes next; the step is counted within the epoch.
    samples : int
        Trained on, over all ranks.
    train_s, wait_s, sync_s : float
        Seconds of the steps of the epochs before: all, those spent waiting for data, and those for other ranks.
    epoch_s, epoch_wait_s, epoch_sync_s, epoch_samples : float, float, float, int
        The same of this epoch so far.
    loss_sum : float
        Of this rank, in this epoch.
    weight_sum : float
        Of all ranks, in this epoch.
    history : list of dict
        One entry an epoch.
    is_stopped : bool
        Whether a callback ended it.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    train_s: float = 0.0
    wait_s: float = 0.0
    sync_s: float = 0.0
    epoch_s: float = 0.0
    epoch_wait_s: float = 0.0
    epoch_sync_s: float = 0.0
    epoch_samples: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    is_stopped: bool = False

    def begin_epoch(self, epoch: int) -> None:
        """Add the epoch to those before, and set all of it to nothing.

        Parameters
        ----------
        epoch : int
            Its number.
        """
        self.train_s += self.epoch_s
        self.wait_s += self.epoch_wait_s
        self.sync_s += self.epoch_sync_s
        self.epoch, self.step, self.epoch_samples = epoch, 0, 0
        self.epoch_s = self.epoch_wait_s = self.epoch_sync_s = self.loss_sum = self.weight_sum = 0.0

    def take(self, samples: int, loss_sum: float, weight_sum: float) -> None:
        """Add a step.

        Parameters
        ----------
        samples : int
            Of all ranks.
        loss_sum : float
            Of this rank.
        weight_sum : float
            Of all ranks.
        """
        self.step += 1
        self.samples += samples
        self.epoch_samples += samples
        self.loss_sum += loss_sum
        self.weight_sum += weight_sum


def flat_state(
    module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, fresh: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Name what a module and its optimizers hold, so that any number of ranks finds it again.

    Parameters
    ----------
    module : nn.Module
        Trained by the optimizers.
    optimizers : sequence of torch.optim.Optimizer
        Of the module's parameters.
    fresh : bool
        Whether optimizers shall begin to hold what they do not hold yet, to be filled.

    Returns
    -------
    tuple of dict of str to object
        Of the module and of the optimizers: tensors, and plain values.
    """
    had = {id(parameter) for optimizer in optimizers for parameter in optimizer.state}
    of_module, of_optimizer = get_state_dict(module, optimizers, options=_FLAT)
    if not fresh:  # torch has taken a step with what had taken none
        without = {name for name, parameter in module.named_parameters() if id(parameter) not in had}
        forget(module, optimizers, without)
        of_optimizer = {name: value for name, value in of_optimizer.items() if parameter_of(name) not in without}
    named = {f"module.{name}": value for name, value in of_module.items()}
    return named, {f"optimizer.{name}": value for name, value in of_optimizer.items()}


def load_flat_state(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    of_module: dict[str, Any],
    of_optimizer: dict[str, Any],
    scalars: Mapping[str, Any],
) -> None:
    """Take over what `flat_state` has named, once its tensors were read.

    Parameters
    ----------
    module : nn.Module
        Changed in place.
    optimizers : sequence of torch.optim.Optimizer
        Changed in place.
    of_module, of_optimizer : dict of str to object
        From `flat_state`.
    scalars : mapping of str to object
        What the optimizers hold beside tensors, as it came from JSON.
    """
    told: dict[str, Any] = {
        name: value if isinstance(value, Tensor) or name not in scalars else _like(value, scalars[name])
        for name, value in of_optimizer.items()
    }
    set_state_dict(
        module,
        optimizers,
        model_state_dict={name.removeprefix("module."): value for name, value in of_module.items()},
        optim_state_dict={name.removeprefix("optimizer."): value for name, value in told.items()},
        options=_FLAT,
    )


def shapes(*named: Mapping[str, Any]) -> dict[str, str]:
    """Describe tensors by name.

    Parameters
    ----------
    *named : mapping of str to object
        Values that are no tensors are left out.

    Returns
    -------
    dict of str to str
        Such as ``"float32[8, 4]"``.
    """
    tensors = {name: value for held in named for name, value in held.items() if isinstance(value, Tensor)}
    return {name: f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" for name, value in tensors.items()}


def parameter_of(name: str) -> str:
    """Return the parameter that a state of an optimizer is of.

    Parameters
    ----------
    name : str
        As `flat_state` names it, with or without ``"optimizer."``.

    Returns
    -------
    str
        Its name in the module; empty for what is no state of a parameter.

    Examples
    --------
    >>> parameter_of("optimizer.state.layers.0.weight.exp_avg")
    'layers.0.weight'
    """
    name = name.removeprefix("optimizer.")
    return name.removeprefix("state.").rpartition(".")[0] if name.startswith("state.") else ""


def forget(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], names: Container[str]) -> None:
    """Let optimizers hold nothing of some parameters, as before their first step.

    Parameters
    ----------
    module : nn.Module
        With the parameters.
    optimizers : sequence of torch.optim.Optimizer
        Changed in place.
    names : container of str
        Of the parameters.
    """
    for name, parameter in module.named_parameters():
        if name in names:
            for optimizer in optimizers:
                optimizer.state.pop(parameter, None)


def refuse_another(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another training, and say what is different.

    Parameters
    ----------
    saved, own : mapping
        The checkpoint's and this training's ``"shapes"``, ``"seed"`` and ``"method"``.

    Raises
    ------
    CheckpointError
        If they differ.
    """
    for name, value in own["method"].items():
        if saved["method"][name] != value:
            raise CheckpointError(
                f"checkpoint= is of a training with {name}={saved['method'][name]!r}, and this has {name}={value!r}; "
                "give another directory"
            )
    for name in sorted(saved["shapes"].keys() | own["shapes"].keys()):
        there, here = (shapes.get(name, "none") for shapes in (saved["shapes"], own["shapes"]))
        if there != here:
            raise CheckpointError(
                f"checkpoint= is of another training: {name} is {there} there and {here} here; give another directory"
            )
    if saved["seed"] != own["seed"]:
        raise CheckpointError(
            f"checkpoint= is of a training with seed {saved['seed']}, and this has {own['seed']}; give another one"
        )


def own_part(value: Tensor) -> Tensor:
    """Return what this rank holds of a tensor.

    Parameters
    ----------
    value : Tensor
        Whole, or in parts.

    Returns
    -------
    Tensor
        Without gradients.
    """
    value = value.detach()
    return value.to_local() if isinstance(value, DTensor) else value


def random_stream(*key: int) -> int:
    """Derive the seed of a random stream from where it stands.

    Parameters
    ----------
    *key : int
        Not negative: the training's seed, and the place.

    Returns
    -------
    int
        For `torch.manual_seed`.

    Examples
    --------
    >>> random_stream(0, 1, 2) == random_stream(0, 1, 2) != random_stream(0, 2, 1)
    True
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _like(value: Any, told: Any) -> Any:
    """Give what came from JSON the type that it had."""
    return tuple(told) if isinstance(value, tuple) else told
