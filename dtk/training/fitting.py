"""`dtk.train`: a module, a loader, a loss; the way to a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from dtk.bundle import Bundle
from dtk.errors import ArgumentError
from dtk.evaluation import make_metrics
from dtk.loader import Loader
from dtk.models import ModelSchema, ModelSpec, PreparedModel, check_model, count_outputs
from dtk.preparation import ClassTarget, SampleEncoder, TablePreparation, Target
from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.loop.callbacks import Callback
from dtk.training.loop.checks import check_loss, check_recipe, plain_target
from dtk.training.loop.losses import ClassLoss, Loss, SampleLoss, goal_of, resolve_loss
from dtk.training.loop.optimizers import Optimizer, resolve_optimizer
from dtk.training.loop.recipe import Method, Precision, Recipe
from dtk.training.loop.schedules import MakeScheduler, Schedule
from dtk.training.loop.task import Task
from dtk.training.loop.tasks import NetworkTask, PreparedTask
from dtk.training.loop.trial import batch_schema
from dtk.training.recovery import Recovery
from dtk.training.run import TrainingReport, run_recipe

__all__ = ["fit_network", "train"]

Run = Callable[[Recipe, Loader, Loader | None], tuple[dict[str, torch.Tensor], TrainingReport]]


def train(
    module: nn.Module,
    loader: Loader,
    *,
    validation: Loader | None = None,
    loss: str | nn.Module | Loss | None = None,
    optimizer: str | Optimizer | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    schedule: str | Mapping[str, Any] | MakeScheduler | None = None,
    epochs: int = 1,
    patience: int | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    precision: Precision = "fp32",
    strategy: Literal["ddp", "fsdp"] = "ddp",
    ema: float | None = None,
    compile: bool = False,
    callbacks: Sequence[Callback] = (),
    ranks: int | tuple[int, int] | None = None,
    checkpoint: str | Checkpoint | None = None,
    max_restarts: int = 3,
    hang_timeout_s: float = 300.0,
    progress: bool | None = None,
) -> Bundle:
    """Train a module on what a loader gives, on the workers of the current Dask cluster.

    Each step's loss is the weighted mean over the global batch. So the result does not depend on the number of ranks
    but for rounding, unless the module itself sees what a rank has alone: batch normalisation takes the mean and
    deviation of a rank's share of the batch (and keeps rank 0's for predictions), and each rank draws its own dropout.

    Parameters
    ----------
    module : torch.nn.Module or Task
        A network, called as ``module(inputs)``, or ``module(inputs, codes)`` where the loader's preparation makes
        codes; it returns [B, classes] or [B, 1]. Or a `Task`, which says itself what a step is. It is trained in place,
        too.
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
        and ``ignore_index`` of a loss of torch mean what they mean there. A task has its own.
    optimizer : str or callable, optional
        ``"adam"``, which it is by default, ``"adamw"``, ``"sgd"``, or ``f(parameters) -> torch.optim.Optimizer``. A
        task has its own.
    learning_rate : float, optional
        For an optimizer given by name; 0.001 by default.
    weight_decay : float, optional
        For an optimizer given by name; of weights with two dimensions or more, so of no bias and no normalisation.
    schedule : str, mapping or callable, optional
        Of the learning rate, step by step: ``"cosine"``, ``"linear"``, ``"constant"`` or ``"plateau"``, with options as
        in ``{"name": "cosine", "warmup": 0.05, "min_factor": 0.01}``, see `dtk.training.Schedule`; or ``f(optimizer,
        steps)`` that makes one of torch's schedulers.
    epochs : int
        At most.
    patience : int, optional
        Epochs without a better validation loss after which training stops.
    accumulate : int
        Global batches of a step: their gradient is that of one batch so many times as big, and ranks sum it once.
    clip_norm : float, optional
        To which the norm of a step's gradient is cut, over all weights of an optimizer.
    precision : {"fp32", "bf16", "fp16"}
        Of the operators that bear less than 32 bits, by torch's autocast; ``"fp16"`` scales losses.
    strategy : {"ddp", "fsdp"}
        Whether each rank holds the whole module, or a part of every weight, gradient and moment (FSDP2).
    ema : float, optional
        The decay, below 1, of a moving average of the weights, which validations and the bundle then take.
    compile : bool
        Whether `torch.compile` compiles the step; it needs a C++ compiler on the workers.
    callbacks : sequence of Callback
        Called at the turns of the training, on each rank; see `dtk.training.Callback`.
    ranks : int or tuple of two int, optional
        Training processes: how many, or at least and at most, so that it goes on with fewer where workers are lost, and
        with more where they come back. None takes one a GPU or worker of the current cluster; where there is no
        cluster, or the data is in memory, it trains in this process. 1 does the latter, too, and else starts one on the
        cluster.
    checkpoint : str or Checkpoint, optional
        A directory that all workers share, or that with how often and how many. A training that finds checkpoints of
        its own there goes on from the last one: the same call again resumes. With it, a training also survives workers
        that are lost, and ranks that die or hang.
    max_restarts : int
        How often it goes on from its last checkpoint after such a failure, before that is an error.
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
    task = module if isinstance(module, Task) else None
    if task is not None:
        for name, given in (
            ("loss", loss),
            ("optimizer", optimizer),
            ("learning_rate", learning_rate),
            ("weight_decay", weight_decay),
        ):
            if given is not None:
                raise ArgumentError(f"{name}={given!r}: {type(task).__name__} is a task and has its own; leave it out")
    seed = int(loader.plan.order.seed)
    recipe = partial(
        Recipe,
        epochs=epochs,
        patience=patience,
        seed=seed,
        method=Method(
            schedule=Schedule.of(schedule),
            accumulate=accumulate,
            clip_norm=clip_norm,
            precision=precision,
            strategy=strategy,
            ema=ema,
            compile=compile,
        ),
        checkpoint=Checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint,
        callbacks=tuple(callbacks),
    )
    run = partial(
        run_recipe,
        ranks=ranks,
        recovery=Recovery(max_restarts=max_restarts),
        hang_timeout_s=hang_timeout_s,
        progress=progress,
    )
    learning_rate = 1e-3 if learning_rate is None else learning_rate
    make_optimizer = resolve_optimizer(optimizer or "adam", learning_rate, weight_decay)
    is_of_rows = not loader.is_of_grids and loader.window is None
    preparation = _preparation_of(loader) if is_of_rows else TablePreparation.raw([])
    if task is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if not task.is_built:  # else it goes on with the weights it has, as a network does
                task.build(batch_schema(loader.plan.fields, preparation.as_module() if is_of_rows else None))
            task.is_built = True
    elif "target" not in loader.plan.fields:
        raise ArgumentError("loader has no target; give Loader(..., target=...)")
    is_whole = "target" in loader.plan.fields and loader.plan.fields["target"].dtype.kind == "i"
    if loss is None:
        loss = "cross_entropy" if is_whole else "mse"
    if not is_of_rows:
        task = NetworkTask(module, SampleLoss(resolve_loss(loss)), make_optimizer) if task is None else task
        return _fit_on_arrays(module, recipe(task), run, loader, validation)
    target = loader.preparation.target if isinstance(loader.preparation, SampleEncoder) else None
    if target is None:
        num_outputs = count_outputs(module, ModelSchema(len(preparation.feature_names), preparation.cardinalities))
        target = plain_target(loss if task is None else None, str(loader.target), num_outputs, is_whole=is_whole)
    bundle, _ = fit_network(
        module,
        module,
        preparation,
        target,
        loader,
        validation,
        loss=loss,
        optimizer=make_optimizer,
        recipe=recipe,
        run=run,
    )
    return bundle


def _preparation_of(loader: Loader) -> TablePreparation:
    """Return what prepares a loader's rows; one that does nothing where none was given."""
    from dtk.preparation.transforms import ColumnTransformer

    samples = loader.preparation if isinstance(loader.preparation, SampleEncoder) else None
    preparation = samples.preparation if samples is not None else loader.preparation
    if preparation is None:
        names = [name for name in loader.encoder.columns if name not in (loader.target, loader.weight)]
        preparation = TablePreparation.raw(names)
    if isinstance(preparation, ColumnTransformer):
        return TablePreparation.of(preparation)
    if not isinstance(preparation, TablePreparation):
        raise ArgumentError(
            f"loader.preparation={preparation!r} must be a TablePreparation or a ColumnTransformer of dtk, for a "
            "bundle to carry it"
        )
    return preparation


def _fit_on_arrays(module: nn.Module, recipe: Recipe, run: Run, loader: Loader, validation: Loader | None) -> Bundle:
    """Train on grids or windows, which nothing prepares."""
    check_recipe(recipe, loader, validation)
    state, report = run(recipe, loader, validation)
    recipe.task.load_state_dict(state)
    return Bundle.from_network(
        module,
        preparation=TablePreparation.raw([]),
        target=None,
        model=module,
        schema=ModelSchema(0),
        metrics=_metrics(report),
        history=report.history,
        plan_digest=loader.plan.digest,
    )


def _metrics(report: TrainingReport) -> dict[str, float]:
    best = report.history[report.best_epoch]
    return {name.removeprefix("validation_"): best[name] for name in best if name.startswith("validation_")}


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
    recipe: Callable[[Task], Recipe],
    run: Run,
) -> tuple[Bundle, TrainingReport]:
    """Train a network behind its preparation, and bundle the two.

    Parameters
    ----------
    network : torch.nn.Module or Task
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
        See `train`; a task has its own.
    optimizer : callable
        ``f(parameters) -> torch.optim.Optimizer``; a task has its own.
    recipe : callable
        Makes the recipe of a task.
    run : callable
        `run_recipe`, of a recipe and the two loaders.

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
    is_one_odds = goal_of(loss) == "two classes" and isinstance(target, ClassTarget) and len(target.classes) == 2
    num_outputs = 1 if is_one_odds else target.num_outputs
    schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities, num_outputs)
    check_model(network, schema)
    task: Task
    if isinstance(network, Task):
        task = PreparedTask(preparation.as_module(), network)
    else:
        resolved = resolve_loss(loss)
        check_loss(SampleLoss(resolved), target, num_outputs)
        sample_loss = SampleLoss(resolved)
        if isinstance(target, ClassTarget):
            sample_loss = ClassLoss(resolved, target.name, len(target.classes))
        prepared = PreparedModel(preparation.as_module(), network)
        task = NetworkTask(prepared, sample_loss, optimizer, partial(make_metrics, target))
    made = recipe(task)
    check_recipe(made, loader, validation)
    state, report = run(made, loader, validation)
    task.load_state_dict(state)
    bundle = Bundle.from_network(
        network,
        preparation=preparation,
        target=target,
        model=model,
        schema=schema,
        metrics=_metrics(report),
        history=report.history,
        plan_digest=loader.plan.digest,
    )
    return bundle, report
