"""Run a recipe: in this process, or as a gang on the cluster; with progress either way."""

from __future__ import annotations

import dataclasses
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dtk.errors import ArgumentError, ClusterError, MemoryLimitError
from dtk.loader import Loader, Plan
from dtk.memory import format_nbytes
from dtk.progress import Progress
from dtk.runtime import current_client, pack
from dtk.training.checkpoints.shared import check_shared
from dtk.training.gang.planning import Gang, Ranks, least_and_most
from dtk.training.gang.rank import RankContext, current_rank
from dtk.training.loop.recipe import Method, RankReport, Recipe
from dtk.training.loop.training import train_rank
from dtk.training.recovery import NO_RECOVERY, RECOVERY, Recovery, run_through
from dtk.training.showing import ShowBeat

__all__ = ["TrainingReport", "can_read_less", "is_alone", "plan_rank_memory", "run_recipe"]

RANK_BASE_NBYTES: Final = 600 * 2**20
"""What a rank holds beside its loaders and its module, as measured: 470 MiB of libraries, the rest for its work."""

MODULE_COPIES: Final = 5
"""The weights, their gradients (which DDP sends from where they are), Adam's two moments, and the best state so far."""

CHECKPOINT_COPIES: Final = 4
"""The weights, Adam's two moments and the best state so far, as they are written while the training goes on."""

STEP_COPIES: Final = 2
"""Of one parameter at a time, while Adam takes its step."""


def is_alone(ranks: Ranks, loader: Loader) -> bool:
    """Tell whether one rank is enough, in this process: without a cluster, or for data that is here already.

    Parameters
    ----------
    ranks : int, tuple of two int, or None
        What the user asked for.
    loader : Loader
        Of the training data.

    Returns
    -------
    bool
        False where a gang is needed.

    Raises
    ------
    ArgumentError
        If `ranks` is less than 1.
    ClusterError
        If there is no client for several ranks.
    """
    least, most = least_and_most(ranks)
    if current_client() is None:
        if least is not None and least > 1:
            raise ClusterError(f"ranks={ranks} need a Dask cluster; call dtk.connect() first, or ask ranks=1")
        return True
    return most in (None, 1) and loader.is_in_memory


@dataclass(frozen=True)
class TrainingReport:
    """How a training went.

    Parameters
    ----------
    num_ranks : int
        How many ranks ran.
    history : tuple of dict
        One entry an epoch: loss, seconds, samples, samples_per_s, wait_share, and what validation gave; and the seconds
        that rank 0 waited for data (wait_s) and other ranks (sync_s), and those left (compute_s).
    best_epoch : int
        The place in `history` of the epoch whose weights were kept.
    samples_per_s : float
        Over all ranks and epochs, validation left out.
    wait_share : float
        Share of the training time that rank 0 waited for data.
    planned_peak_nbytes : int
        Memory of a rank, as planned before the start.
    peak_nbytes : int
        The most memory that a rank held.
    """

    num_ranks: int
    history: tuple[dict[str, Any], ...]
    best_epoch: int
    samples_per_s: float
    wait_share: float
    planned_peak_nbytes: int
    peak_nbytes: int


def run_recipe(
    recipe: Recipe,
    loader: Loader,
    validation: Loader | None,
    *,
    ranks: Ranks,
    recovery: Recovery = RECOVERY,
    hang_timeout_s: float,
    progress: bool | None,
) -> tuple[dict[str, Tensor], TrainingReport]:
    """Train to the end.

    Parameters
    ----------
    recipe : Recipe
        What to train, and how.
    loader, validation : Loader
        Training and validation data; the latter may be None.
    ranks : int, tuple of two int, or None
        How many, or at least and at most. None takes one a GPU or worker of the current cluster; this process where
        there is none, or for data in memory.
    recovery : Recovery
        What becomes of a gang that breaks; without checkpoints, an error.
    hang_timeout_s : float
        Silence after which a rank is ended.
    progress : bool or None
        None shows it for work on a cluster.

    Returns
    -------
    state : dict of str to Tensor
        The trained module's.
    report : TrainingReport
        How it went.

    Raises
    ------
    MemoryLimitError
        If the plan needs more memory than a rank's share.

    Warns
    -----
    UserWarning
        If rows of a cross-fit may be shown their own target.
    """
    if loader.in_folds is False:
        warnings.warn(
            "loader: its preparation was cross-fitted to other data, or was loaded, and encodes these rows by what was "
            "learnt from the whole fit; if they were part of it, they are shown their own target: fit the preparation "
            "to the data of the loader",
            UserWarning,
            stacklevel=3,
        )
    if validation is not None and validation.in_folds:
        validation = validation.for_evaluation()
    checkpoint = recipe.checkpoint
    if checkpoint is not None:  # its launches know each other by that
        checkpoint = dataclasses.replace(checkpoint, training=uuid.uuid4().hex)
        recipe = dataclasses.replace(recipe, checkpoint=checkpoint)
    client = None if is_alone(ranks, loader) else current_client()
    plans = {"loader": loader.plan} | ({} if validation is None else {"validation": validation.plan})
    payload = b"" if client is None else pack((_train_in_gang, (recipe, loader, validation), {}))
    steps = recipe.epochs * -(-len(loader) // recipe.method.accumulate)
    with Progress("training", steps, enabled=client is not None if progress is None else progress) as bar:
        beat = ShowBeat(bar)
        if client is None:
            planned = plan_rank_memory(
                recipe.task,
                plans,
                1,
                payload_nbytes=0,
                method=recipe.method,
                checkpoints=checkpoint is not None,
            )
            with torch.random.fork_rng(devices=[]):
                here = validation.on_rank(0, 1) if validation is not None else None
                reports = [train_rank(recipe, loader.on_rank(0, 1), here, RankContext(0, 1, "cpu", beat))]
        else:

            def check(gang: Gang) -> None:
                nonlocal planned
                planned = plan_rank_memory(
                    recipe.task,
                    plans,
                    gang.num_ranks,
                    payload_nbytes=len(payload),
                    method=recipe.method,
                    checkpoints=checkpoint is not None,
                )
                _refuse_gpu_modules(recipe.task, gang)
                _refuse_too_little_memory(planned, gang)
                if checkpoint is not None:
                    check_shared(client, checkpoint, gang)
                _say_warnings(bar, recipe.task, plans, gang.num_ranks)

            planned = {}
            reports = run_through(
                client,
                payload,
                ranks=ranks,
                recovery=recovery if recipe.checkpoint is not None else NO_RECOVERY,
                hang_timeout_s=hang_timeout_s,
                check=check,
                say=bar.say,
                on_beat=beat,
            )
    first = reports[0]
    return first.state, TrainingReport(
        num_ranks=len(reports),
        history=tuple(first.history),
        best_epoch=first.best_epoch,
        samples_per_s=first.samples_per_s,
        wait_share=first.wait_share,
        planned_peak_nbytes=sum(planned.values()),
        peak_nbytes=max(report.peak_nbytes for report in reports),
    )


def plan_rank_memory(
    module: nn.Module,
    plans: Mapping[str, Plan],
    num_ranks: int,
    *,
    payload_nbytes: int | None = None,
    method: Method | None = None,
    checkpoints: bool = False,
) -> dict[str, int]:
    """Add up what a rank will hold at most.

    Parameters
    ----------
    module : torch.nn.Module
        What is trained; with Adam, or an optimizer that holds no more.
    plans : mapping of str to Plan
        Of the data that it reads, by what it is for.
    num_ranks : int
        How many ranks there are.
    payload_nbytes : int, optional
        Bytes of what is sent to each rank: the module, and data that is in memory. By default those of the module;
        0 where nothing is sent.
    method : Method, optional
        How it is trained; plainly if None.
    checkpoints : bool
        Whether it takes any.

    Returns
    -------
    dict of str to int
        Bytes: of ``"libraries"``, of the ``"model"`` with all that its training needs, of the ``"payload"``, as it came
        and with the data that came in it, of the ``"checkpoint"`` that is being written, and of each plan.

    Raises
    ------
    ArgumentError
        If a plan does not go with the number of ranks.
    """
    for plan in plans.values():
        plan.check(num_ranks)
    module_nbytes = sum(_nbytes(value) for value in module.state_dict().values())
    largest_nbytes = max((_nbytes(value) for value in module.parameters()), default=0)
    if payload_nbytes is None:
        payload_nbytes = module_nbytes
    copies_nbytes = MODULE_COPIES * module_nbytes
    if method is not None and method.ema is not None:
        copies_nbytes += 2 * module_nbytes  # the average, and the weights while it is in their place
    if method is not None and method.strategy == "fsdp":
        copies_nbytes = -(-copies_nbytes // num_ranks) + module_nbytes  # it is whole before it is parted
    copied = CHECKPOINT_COPIES + (method is not None and method.ema is not None)
    return {
        "libraries": RANK_BASE_NBYTES,
        "model": copies_nbytes + STEP_COPIES * largest_nbytes,
        "payload": payload_nbytes + max(0, payload_nbytes - module_nbytes),
        **({"checkpoint": _checkpoint_nbytes(copied * module_nbytes, num_ranks)} if checkpoints else {}),
        **{name: plan.memory_nbytes(num_ranks) for name, plan in plans.items()},
    }


def _checkpoint_nbytes(copied_nbytes: int, num_ranks: int) -> int:
    """A copy of all, and of what this rank writes of it another one, as a file; a rank that is alone needs none."""
    return copied_nbytes + (copied_nbytes // num_ranks if num_ranks > 1 else 0)


def _nbytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _say_warnings(bar: Progress, module: nn.Module, plans: Mapping[str, Plan], num_ranks: int) -> None:
    """Tell what makes several ranks slower than they could be, or their model another than that of one."""
    if num_ranks == 1:
        return
    has_batch_norm = any(isinstance(part, _BatchNorm) for part in module.modules())
    texts = [
        text
        for name, plan in plans.items()
        for text in plan.warnings(num_ranks, batch_norm=has_batch_norm and name == "loader")
    ]
    if has_batch_norm:
        texts.append(
            "batch normalisation takes the mean of each rank's share of a batch, so the model depends on the number of "
            "ranks; nn.LayerNorm does not"
        )
    for text in dict.fromkeys(texts):
        bar.say(f"warning: {text}")


def _refuse_gpu_modules(module: nn.Module, gang: Gang) -> None:
    """Refuse what the backend of the CPU lacks."""
    if gang.gpus[0] is None and any(isinstance(part, nn.SyncBatchNorm) for part in module.modules()):
        raise ArgumentError(
            "model has SyncBatchNorm, which needs GPUs, and these ranks run on CPUs; take nn.LayerNorm or nn.GroupNorm"
        )


def _refuse_too_little_memory(planned: Mapping[str, int], gang: Gang) -> None:
    needed = sum(planned.values())
    for rank, share in enumerate(gang.memory_nbytes):
        if 0 < share < needed:
            shown = ", ".join(f"{name} {format_nbytes(nbytes)}" for name, nbytes in planned.items())
            raise MemoryLimitError(
                f"a rank would hold {format_nbytes(needed)} ({shown}), but rank {rank} may hold {format_nbytes(share)} "
                f"on worker {gang.workers[rank].address}; "
                f"{'pass less memory= to the loader or the estimator, or ' if can_read_less(planned, share) else ''}"
                "give ranks more: rank_memory= or memory= of dtk.connect, or workers with more memory"
            )


def can_read_less(planned: Mapping[str, int], share_nbytes: int) -> bool:
    """Tell whether a rank could do with its share if its loaders took less memory.

    Parameters
    ----------
    planned : mapping of str to int
        From `plan_rank_memory`.
    share_nbytes : int
        What the rank may hold.

    Returns
    -------
    bool
        False where all else is too much already.
    """
    return sum(planned.get(name, 0) for name in ("libraries", "model", "payload", "checkpoint")) < share_nbytes


def _train_in_gang(recipe: Recipe, loader: Loader, validation: Loader | None) -> RankReport:
    context = current_rank()
    assert context is not None
    held = None if validation is None else validation.on_rank(context.rank, context.ranks)
    return train_rank(recipe, loader.on_rank(context.rank, context.ranks), held, context)
