"""`dtk.train`: a module, a loader, a loss; the way to a bundle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from dtk.bundle import Bundle
from dtk.config import did_you_mean
from dtk.errors import ArgumentError
from dtk.evaluation import make_metrics
from dtk.loader import Loader
from dtk.models import ModelSchema, ModelSpec, PreparedModel, check_model
from dtk.preparation import ClassTarget, NumberTarget, SampleEncoder, TablePreparation, Target
from dtk.training.loop import Recipe
from dtk.training.losses import Loss, resolve_loss, weighted_sum
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

    Each step's loss is the weighted mean over the global batch, so the result does not depend on the number of ranks
    but for rounding.

    Parameters
    ----------
    module : torch.nn.Module
        Called as ``module(inputs)``, or ``module(inputs, codes)`` where the loader's preparation makes codes; it
        returns [B, classes] or [B, 1]. It is trained in place, too.
    loader : Loader
        The training data, with a target.
    validation : Loader, optional
        Data for a validation after each epoch; the best epoch's weights are kept. It must have ``tail="pad"``.
    loss : str, torch.nn.Module or callable, optional
        ``"cross_entropy"``, ``"binary_cross_entropy"``, ``"mse"``, ``"l1"``, ``"huber"``, a loss of torch, or
        ``f(outputs, target)`` that returns one value a sample. By default cross-entropy for a whole-number target and
        mean squared error for any other.
    optimizer : str or callable
        ``"adam"``, ``"adamw"``, ``"sgd"``, or ``f(parameters) -> torch.optim.Optimizer``.
    learning_rate : float
        For an optimizer given by name.
    epochs : int
        At most.
    patience : int, optional
        Epochs without a better validation loss after which training stops.
    ranks : int, optional
        Training processes. None takes one a GPU or worker of the current cluster, or this process where there is none.
    hang_timeout_s : float
        Seconds of silence after which a rank counts as hung.
    progress : bool, optional
        Whether to show progress; None shows it for work on a cluster.

    Returns
    -------
    Bundle
        With the trained module, what encodes its inputs, and the metrics of the last validation.

    Raises
    ------
    ArgumentError
        If an argument cannot work, or the module does not take the loader's batches.
    ClusterError
        If there are too few slots, or a worker is lost.
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
    network_schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities)
    target = samples.target if samples is not None else None
    if target is None:
        target = _plain_target(module, network_schema, str(loader.target), is_whole=is_whole)
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
    if epochs < 1:
        raise ArgumentError(f"epochs={epochs} must be at least 1")
    if patience is not None and patience < 1:
        raise ArgumentError(f"patience={patience} must be at least 1, or None")
    if patience is not None and validation is None:
        raise ArgumentError(f"patience={patience} needs validation data; give validation=")
    if validation is not None and validation.plan.order.tail != "pad":
        raise ArgumentError("validation trims rows, so its metrics would not be exact; make it with tail='pad'")
    check_model(network, ModelSchema(len(preparation.feature_names), preparation.cardinalities, target.num_outputs))
    prepared = PreparedModel(preparation.as_module(), network)
    loss = resolve_loss(loss)
    _check_loss(loss, target)
    recipe = Recipe(
        module=prepared,
        loss=loss,
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
    last = min(report.history, key=lambda entry: entry.get("validation_loss", -entry["epoch"]))
    bundle = Bundle.from_network(
        prepared,
        preparation=preparation,
        target=target,
        model=model,
        metrics={name.removeprefix("validation_"): last[name] for name in last if name.startswith("validation_")},
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
        If the name is unknown, or the learning rate is not more than 0.
    """
    if not isinstance(optimizer, str):
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise ArgumentError(f"optimizer={optimizer!r} is unknown{did_you_mean(optimizer, OPTIMIZERS)}")
    if not learning_rate > 0:
        raise ArgumentError(f"learning_rate={learning_rate!r} must be more than 0")
    return partial(OPTIMIZERS[optimizer], lr=learning_rate)


def _check_loss(loss: Loss, target: Target) -> None:
    """Refuse a loss that does not give one value a sample, by a few samples of zeros."""
    outputs = torch.zeros(3, target.num_outputs)
    zeros = torch.zeros(3, dtype=torch.int64 if isinstance(target, ClassTarget) else torch.float32)
    shapes = f"outputs [3, {target.num_outputs}] and a target [3]"
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


def _plain_target(module: nn.Module, schema: ModelSchema, name: str, *, is_whole: bool) -> Target:
    """Describe a target that the loader passes as it is: codes 0, 1, ... of classes, or numbers."""
    if not is_whole:
        return NumberTarget(name, 0.0, 1.0)
    num_classes = _num_outputs(module, schema)
    return ClassTarget(name, tuple(range(num_classes)), (0,) * num_classes)


def _num_outputs(module: nn.Module, schema: ModelSchema) -> int:
    """Count a module's outputs, by a batch of two rows of zeros."""
    arguments: list[Tensor | None] = [torch.zeros(2, schema.num_inputs) if schema.num_inputs else None]
    if schema.cardinalities:
        arguments.append(torch.zeros(2, len(schema.cardinalities), dtype=torch.int64))
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            outputs = module(*arguments)
    except Exception as error:
        raise ArgumentError(f"module fails on two rows of zeros: {type(error).__name__}: {error}") from error
    finally:
        module.train(was_training)
    return int(outputs.shape[1])
