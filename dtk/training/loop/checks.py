"""What a training refuses of its data and its loss, before it starts."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from dtk.arguments import is_whole
from dtk.errors import ArgumentError
from dtk.loader import Loader
from dtk.preparation import ClassTarget, NumberTarget, SampleEncoder, Target
from dtk.training.loop.callbacks import Callback
from dtk.training.loop.losses import Loss, goal_of, weighted_sum
from dtk.training.loop.recipe import Recipe
from dtk.training.loop.trial import check_task

__all__ = ["check_loss", "check_recipe", "check_validation", "plain_target"]


def check_recipe(recipe: Recipe, loader: Loader, validation: Loader | None) -> None:
    """Refuse a training that cannot work.

    Parameters
    ----------
    recipe : Recipe
        What is trained, and how.
    loader, validation : Loader
        Training and validation data; the latter may be None.

    Raises
    ------
    ArgumentError
        It names the argument.
    """
    task, patience = recipe.task, recipe.patience
    if not is_whole(recipe.epochs, 1):
        raise ArgumentError(f"epochs={recipe.epochs!r} must be a whole number, at least 1")
    if patience is not None and not is_whole(patience, 1):
        raise ArgumentError(f"patience={patience!r} must be a whole number, at least 1, or None")
    if patience is not None and validation is None:
        raise ArgumentError(f"patience={patience} needs validation data; give validation=")
    for name, given in (("loader", loader), ("validation", validation)):
        if given is not None and given.collate is not None:
            raise ArgumentError(f"{name} has collate={given.collate!r}, which is for loops of your own; leave it out")
    if validation is not None:
        check_validation(validation, loader)
    if not any(parameter.requires_grad for parameter in task.parameters()):
        raise ArgumentError(
            f"model={task.shown} has no parameter that is trainable; give it one with requires_grad=True"
        )
    other = next((name for name, value in task.state_dict().items() if not isinstance(value, torch.Tensor)), None)
    if other is not None:
        raise ArgumentError(f"model={task.shown} has a state {other!r} that is no tensor; keep it in a buffer")
    for callback in recipe.callbacks:
        if not isinstance(callback, Callback):
            raise ArgumentError(f"callbacks={list(recipe.callbacks)!r} must be instances of dtk.Callback")
    recipe.method.check(task, has_validation=validation is not None)
    check_task(task, loader.plan.fields, has_validation=validation is not None)


def check_validation(validation: Loader, loader: Loader) -> None:
    """Refuse validation data that the network would take for something else than the training data.

    Parameters
    ----------
    validation, loader : Loader
        Validation and training data.

    Raises
    ------
    ArgumentError
        If the metrics would not be exact, or those of other inputs.
    """
    if validation.plan.order.tail != "pad":
        raise ArgumentError("validation trims rows, so its metrics would not be exact; make it with tail='pad'")
    if validation.sampling is not None:
        raise ArgumentError(
            f"validation has sampling={validation.sampling!r}, so its metrics would be those of a draw; leave it out"
        )
    if "target" not in validation.encoder.fields:
        raise ArgumentError(f"validation has no target; give Loader(..., target={loader.target!r}), as for training")
    found, wanted = _sample(validation), _sample(loader)
    for what, value in found.items():
        if value != wanted[what]:
            raise ArgumentError(
                f"validation has {what} {value}, and the training data {wanted[what]}; make both loaders with the same "
                "inputs=, target= and preparation="
            )
    if validation.preparation is not loader.preparation and _fitted(validation) != _fitted(loader):
        raise ArgumentError(
            f"validation is encoded by {validation.preparation!r}, and the training data by {loader.preparation!r} of "
            "another fit; fit one preparation on the training data, and give it to both loaders"
        )


def _labels(loader: Loader) -> tuple[str | None, str | None]:
    """Name the columns of the target and of the weight."""
    if isinstance(loader.preparation, SampleEncoder) and loader.preparation.target is not None:
        return loader.preparation.target.name, loader.preparation.weight
    return loader.target, loader.weight


def _sample(loader: Loader) -> dict[str, Any]:
    """Say what a sample of a loader is, but for its weight."""
    labels, fields = _labels(loader), loader.encoder.fields
    return {
        "inputs": [name for name in loader.encoder.columns if name not in labels],
        "target": labels[0],
        "arrays": {name: f"{fields[name].dtype}{list(fields[name].shape)}" for name in fields if name != "weight"},
    }


def _fitted(loader: Loader) -> tuple[Any, Any]:
    """Describe what encodes a loader's samples, so that equal ones compare equal."""
    encoder, target = loader.preparation, None
    if isinstance(encoder, SampleEncoder):
        encoder, target = encoder.preparation, encoder.target
    return (
        encoder.to_dict() if encoder is not None and hasattr(encoder, "to_dict") else encoder,
        None if target is None else target.to_dict() | {"counts": None},
    )


def check_loss(loss: Loss, target: Target, num_outputs: int) -> None:
    """Refuse a loss that does not give one value a sample, by a few samples of zeros.

    Parameters
    ----------
    loss : callable
        ``f(outputs, target)``.
    target : ClassTarget or NumberTarget
        What it compares with.
    num_outputs : int
        Of the network.

    Raises
    ------
    ArgumentError
        If it raises, or gives another shape.
    """
    outputs = torch.zeros(3, num_outputs)
    zeros = torch.zeros(3, dtype=torch.int64 if isinstance(target, ClassTarget) else torch.float32)
    shapes = f"outputs [3, {num_outputs}] and a target [3]"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes, which are looked at below
            losses = loss(outputs, zeros)
    except Exception as error:
        raise ArgumentError(f"loss fails on {shapes}: {type(error).__name__}: {error}") from error
    weighted_sum(losses, torch.ones(3))
    if losses.shape not in (zeros.shape, outputs.shape):
        raise ArgumentError(
            f"loss gives {list(losses.shape)} for {shapes}: it compares samples with each other; return one value a "
            "sample, for example by outputs[:, 0]"
        )


def plain_target(loss: str | nn.Module | Loss | None, name: str, num_outputs: int, *, is_whole: bool) -> Target:
    """Describe a target that the loader passes as it is: codes 0, 1, ... of classes, or numbers.

    Parameters
    ----------
    loss : str, torch.nn.Module or callable
        As the user gave it; None for a task's own, of which nothing is known.
    name : str
        Of the target.
    num_outputs : int
        Of the network.
    is_whole : bool
        Whether the target is of whole numbers.

    Returns
    -------
    ClassTarget or NumberTarget
        As if it had been fitted.

    Raises
    ------
    ArgumentError
        If the loss does not go with such a target, or with so many outputs.
    """
    goal = None if loss is None else goal_of(loss)
    if goal in ("classes", "two classes") and not is_whole:
        raise ArgumentError(
            f"loss={_shown(loss)} compares classes, and target={name!r} is of floating point; cast it with "
            f"data.astype({{{name!r}: 'int64'}}), or take a loss of numbers, such as 'mse'"
        )
    if goal == "two classes":
        return ClassTarget(name, (0, 1), (0, 0))
    if goal == "numbers" or not is_whole or (goal is None and num_outputs == 1):
        return NumberTarget(name, 0.0, 1.0)
    if num_outputs == 1:
        raise ArgumentError(
            f"loss={_shown(loss)} needs an output a class, and the module returns one; return more, or give "
            f"loss='binary_cross_entropy' if target={name!r} is 0 or 1, or loss='mse' if it is a number"
        )
    return ClassTarget(name, tuple(range(num_outputs)), (0,) * num_outputs)


def _shown(loss: str | nn.Module | Loss | None) -> str:
    return repr(loss) if isinstance(loss, str) else type(loss).__name__
