"""`dtk.train`: a module, a loader, a loss; the way to a bundle."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral, Real
from typing import Any, Final

import torch
from torch import nn

from dtk.bundle import Bundle
from dtk.config import did_you_mean
from dtk.errors import ArgumentError
from dtk.evaluation import make_metrics
from dtk.loader import Loader
from dtk.models import ModelSchema, ModelSpec, PreparedModel, check_model, count_outputs
from dtk.preparation import ClassTarget, NumberTarget, SampleEncoder, TablePreparation, Target
from dtk.training.loop import Recipe
from dtk.training.losses import ClassLoss, Loss, SampleLoss, goal_of, resolve_loss, weighted_sum
from dtk.training.run import TrainingReport, run_recipe

__all__ = ["OPTIMIZERS", "Optimizer", "fit_network", "resolve_optimizer", "train"]

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: Final[dict[str, Callable[..., torch.optim.Optimizer]]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def train(
    module: nn.Module,
    loader: Loader,
    *,
    validation: Loader | None = None,
    loss: str | nn.Module | Loss | None = None,
    optimizer: str | Optimizer = "adam",
    learning_rate: float = 1e-3,
    epochs: int = 1,
    patience: int | None = None,
    ranks: int | None = None,
    hang_timeout_s: float = 300.0,
    progress: bool | None = None,
) -> Bundle:
    """Train a module on what a loader gives, on the workers of the current Dask cluster.

    Each step's loss is the weighted mean over the global batch. So the result does not depend on the number of ranks
    but for rounding, unless the module itself sees what a rank has alone: batch normalisation takes the mean and
    deviation of a rank's share of the batch (and keeps rank 0's for predictions), and each rank draws its own dropout.

    Parameters
    ----------
    module : torch.nn.Module
        Called as ``module(inputs)``, or ``module(inputs, codes)`` where the loader's preparation makes codes; it
        returns [B, classes] or [B, 1]. It is trained in place, too.
    loader : Loader
        The training data, with a target.
    validation : Loader, optional
        Data for a validation after each epoch; the best epoch's weights are kept. It must have ``tail="pad"``, and the
        inputs, preparation and target of `loader`.
    loss : str, torch.nn.Module or callable, optional
        ``"cross_entropy"``, ``"binary_cross_entropy"``, ``"mse"``, ``"l1"``, ``"huber"``, a loss of torch, or
        ``f(outputs, target)`` that returns one value a sample. By default cross-entropy for a whole-number target and
        mean squared error for any other. It decides what the target is, too: for cross-entropy the labels 0 up to the
        number of outputs; for binary cross-entropy 0 or 1, of which the one output is the log-odds of 1; for the other
        names a number. By a loss of your own, whole numbers are labels where there are several outputs. Class weights
        and ``ignore_index`` of a loss of torch mean what they mean there.
    optimizer : str or callable
        ``"adam"``, ``"adamw"``, ``"sgd"``, or ``f(parameters) -> torch.optim.Optimizer``.
    learning_rate : float
        For an optimizer given by name.
    epochs : int
        At most.
    patience : int, optional
        Epochs without a better validation loss after which training stops.
    ranks : int, optional
        Training processes. None takes one a GPU or worker of the current cluster; where there is no cluster, or the
        data is in memory, it trains in this process. 1 does the latter, too, and else starts one on the cluster.
    hang_timeout_s : float
        Seconds of silence after which a rank counts as hung.
    progress : bool, optional
        Whether to show progress; None shows it for work on a cluster.

    Returns
    -------
    Bundle
        With the trained module, what encodes its inputs, and the metrics of the epoch whose weights were kept.

    Raises
    ------
    ArgumentError
        If an argument cannot work, or the module does not take the loader's batches.
    ClusterError
        If there are too few slots, or a worker is lost.
    DataError
        If the target holds a label that no output stands for, or the loss gets infinite or NaN. From a rank, it is the
        cause of a RankError.
    RankError
        If a rank raises, dies or hangs.
    MemoryLimitError
        If the plan needs more memory than a rank's share.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 64)
    >>> loader = Loader({"x": x, "y": 2 * x}, target="y", global_batch_size=16)
    >>> bundle = train(nn.Linear(1, 1), loader, optimizer="sgd", learning_rate=0.5, epochs=20)
    >>> bool(np.allclose(bundle.predict({"x": x}), 2 * x, atol=0.01))
    True
    """
    encoder = loader.encoder
    if loader.is_of_grids:
        raise ArgumentError(
            "loader is of grids, and a bundle of these is to come; write the loop yourself and run it with dtk.launch"
        )
    if loader.window is not None:
        raise ArgumentError(
            f"loader has window={loader.window!r}, and a bundle of windows is to come; write the loop yourself and run "
            "it with dtk.launch"
        )
    if "target" not in encoder.fields:
        raise ArgumentError("loader has no target; give Loader(..., target=...)")
    is_whole = encoder.fields["target"].dtype.kind == "i"
    if loss is None:
        loss = "cross_entropy" if is_whole else "mse"
    samples = loader.preparation if isinstance(loader.preparation, SampleEncoder) else None
    preparation = samples.preparation if samples is not None else loader.preparation
    if preparation is None:
        names = [name for name in encoder.columns if name not in (loader.target, loader.weight)]
        preparation = TablePreparation.raw(names)
    if not isinstance(preparation, TablePreparation):
        raise ArgumentError(f"loader.preparation={preparation!r} must be a TablePreparation for a bundle to carry it")
    target = samples.target if samples is not None else None
    if target is None:
        num_outputs = count_outputs(module, ModelSchema(len(preparation.feature_names), preparation.cardinalities))
        target = _plain_target(loss, str(loader.target), num_outputs, is_whole=is_whole)
    bundle, _ = fit_network(
        module,
        module,
        preparation,
        target,
        loader,
        validation,
        loss=loss,
        optimizer=resolve_optimizer(optimizer, learning_rate),
        epochs=epochs,
        patience=patience,
        seed=int(loader.plan.order.seed),
        ranks=ranks,
        hang_timeout_s=hang_timeout_s,
        progress=progress,
    )
    return bundle


def fit_network(
    network: nn.Module,
    model: ModelSpec,
    preparation: TablePreparation,
    target: Target,
    loader: Loader,
    validation: Loader | None,
    *,
    loss: str | nn.Module | Loss,
    optimizer: Optimizer,
    epochs: int,
    patience: int | None,
    seed: int,
    ranks: int | None,
    hang_timeout_s: float,
    progress: bool | None,
) -> tuple[Bundle, TrainingReport]:
    """Train a network behind its preparation, and bundle the two.

    Parameters
    ----------
    network : torch.nn.Module
        Takes what `preparation` makes; trained in place.
    model : str, mapping, torch.nn.Module or callable
        What the network was built of.
    preparation : TablePreparation
        Fitted.
    target : ClassTarget or NumberTarget
        Fitted.
    loader, validation : Loader
        Training and validation data; the latter may be None.
    loss : str, torch.nn.Module or callable
        See `train`.
    optimizer : callable
        ``f(parameters) -> torch.optim.Optimizer``.
    epochs, patience : int
        See `train`.
    seed : int
        Of dropout and other random streams.
    ranks, hang_timeout_s, progress : object
        See `train`.

    Returns
    -------
    bundle : Bundle
        The trained network with all it needs.
    report : TrainingReport
        How it went.

    Raises
    ------
    ArgumentError
        If an argument cannot work, or the network does not take the loader's batches.
    """
    if not _is_count(epochs):
        raise ArgumentError(f"epochs={epochs!r} must be a whole number, at least 1")
    if patience is not None and not _is_count(patience):
        raise ArgumentError(f"patience={patience!r} must be a whole number, at least 1, or None")
    if patience is not None and validation is None:
        raise ArgumentError(f"patience={patience} needs validation data; give validation=")
    for name, given in (("loader", loader), ("validation", validation)):
        if given is not None and given.collate is not None:
            raise ArgumentError(f"{name} has collate={given.collate!r}, which is for loops of your own; leave it out")
    if validation is not None:
        _check_validation(validation, loader)
    is_one_odds = goal_of(loss) == "two classes" and isinstance(target, ClassTarget) and len(target.classes) == 2
    num_outputs = 1 if is_one_odds else target.num_outputs
    schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities, num_outputs)
    check_model(network, schema)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ArgumentError(
            f"model={type(network).__name__} has no parameter that is trainable; give it one with requires_grad=True"
        )
    prepared = PreparedModel(preparation.as_module(), network)
    resolved = resolve_loss(loss)
    _check_loss(SampleLoss(resolved), target, num_outputs)
    if isinstance(target, ClassTarget):
        sample_loss: SampleLoss = ClassLoss(resolved, target.name, len(target.classes))
    else:
        sample_loss = SampleLoss(resolved)
    recipe = Recipe(
        module=prepared,
        loss=sample_loss,
        optimizer=optimizer,
        epochs=epochs,
        patience=patience,
        make_metrics=partial(make_metrics, target),
        seed=seed,
    )
    state, report = run_recipe(
        recipe, loader, validation, ranks=ranks, hang_timeout_s=hang_timeout_s, progress=progress
    )
    prepared.load_state_dict(state)
    best = report.history[report.best_epoch]
    bundle = Bundle.from_network(
        prepared,
        preparation=preparation,
        target=target,
        model=model,
        schema=schema,
        metrics={name.removeprefix("validation_"): best[name] for name in best if name.startswith("validation_")},
        history=report.history,
        plan_digest=loader.plan.digest,
    )
    return bundle, report


def resolve_optimizer(optimizer: str | Optimizer, learning_rate: float) -> Optimizer:
    """Find an optimizer by name.

    Parameters
    ----------
    optimizer : str or callable
        ``"adam"``, ``"adamw"``, ``"sgd"``, or ``f(parameters) -> torch.optim.Optimizer``, which is returned as it is.
    learning_rate : float
        For one given by name.

    Returns
    -------
    callable
        ``f(parameters) -> torch.optim.Optimizer``.

    Raises
    ------
    ArgumentError
        If the name is unknown, or the learning rate is no finite number that is more than 0.
    """
    if not isinstance(optimizer, str):
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise ArgumentError(f"optimizer={optimizer!r} is unknown{did_you_mean(optimizer, OPTIMIZERS)}")
    if not isinstance(learning_rate, Real) or not 0 < learning_rate < math.inf:
        raise ArgumentError(f"learning_rate={learning_rate!r} must be a finite number, more than 0")
    return partial(OPTIMIZERS[optimizer], lr=learning_rate)


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _check_validation(validation: Loader, loader: Loader) -> None:
    """Refuse validation data that the network would take for something else than the training data."""
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
        encoder.to_dict() if isinstance(encoder, TablePreparation) else encoder,
        None if target is None else target.to_dict() | {"counts": None},
    )


def _check_loss(loss: Loss, target: Target, num_outputs: int) -> None:
    """Refuse a loss that does not give one value a sample, by a few samples of zeros."""
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


def _plain_target(loss: str | nn.Module | Loss, name: str, num_outputs: int, *, is_whole: bool) -> Target:
    """Describe a target that the loader passes as it is: codes 0, 1, ... of classes, or numbers."""
    goal = goal_of(loss)
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


def _shown(loss: str | nn.Module | Loss) -> str:
    return repr(loss) if isinstance(loss, str) else type(loss).__name__
