"""Run a recipe: in this process, or as a gang on the cluster; with progress either way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch
from torch import Tensor

from dtk.errors import ArgumentError, ClusterError, MemoryLimitError
from dtk.loader import Loader
from dtk.memory import format_nbytes
from dtk.progress import Progress
from dtk.runtime import current_client
from dtk.training.gang import Gang, plan_gang, run_gang
from dtk.training.loop import RankReport, Recipe, train_rank
from dtk.training.rank import RankContext, current_rank
from dtk.training.shipping import pack

__all__ = ["TrainingReport", "is_alone", "run_recipe"]

RANK_BASE_NBYTES = 600 * 2**20
"""What a rank holds beside its loaders and its module, as measured: 470 MiB of libraries, the rest for its work."""


def is_alone(ranks: int | None, loader: Loader) -> bool:
    """Tell whether one rank is enough, in this process: without a cluster, or for data that is here already.

    Parameters
    ----------
    ranks : int or None
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
    if ranks is not None and ranks < 1:
        raise ArgumentError(f"ranks={ranks} must be at least 1")
    if current_client() is None:
        if ranks is not None and ranks > 1:
            raise ClusterError(f"ranks={ranks} need a Dask cluster; call dtk.connect() first, or ask ranks=1")
        return True
    return ranks in (None, 1) and loader.is_in_memory


@dataclass(frozen=True)
class TrainingReport:
    """How a training went.

    Parameters
    ----------
    num_ranks : int
        How many ranks ran.
    history : tuple of dict
        One entry an epoch: loss, seconds, samples, samples_per_s, wait_share, and what validation gave.
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
    samples_per_s: float
    wait_share: float
    planned_peak_nbytes: int
    peak_nbytes: int


def run_recipe(
    recipe: Recipe,
    loader: Loader,
    validation: Loader | None,
    *,
    ranks: int | None,
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
    ranks : int or None
        None takes one a GPU or worker of the current cluster, or this process where there is none.
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
    """
    client = None if is_alone(ranks, loader) else current_client()
    num_ranks = 1
    if client is not None:
        gang = plan_gang(client, ranks)
        num_ranks = gang.num_ranks
    planned = _planned_nbytes(recipe, [loader] if validation is None else [loader, validation], num_ranks)
    steps = recipe.epochs * len(loader)
    with Progress("training", steps, enabled=client is not None if progress is None else progress) as bar:
        beat = _ShowBeat(bar)
        if client is None:
            with torch.random.fork_rng(devices=[]):
                here = validation.on_rank(0, 1) if validation is not None else None
                reports = [train_rank(recipe, loader.on_rank(0, 1), here, RankContext(0, 1, "cpu", beat))]
        else:
            _refuse_too_little_memory(planned, gang)
            payload = pack(_train_in_gang, (recipe, loader, validation), {})
            outcomes = run_gang(client, gang, payload, hang_timeout_s=hang_timeout_s, env={}, on_beat=beat)
            reports = [cloudpickle.loads(outcome.result) for outcome in outcomes]
    first = reports[0]
    return first.state, TrainingReport(
        num_ranks=num_ranks,
        history=tuple(first.history),
        samples_per_s=first.samples_per_s,
        wait_share=first.wait_share,
        planned_peak_nbytes=planned,
        peak_nbytes=max(report.peak_nbytes for report in reports),
    )


def _planned_nbytes(recipe: Recipe, loaders: list[Loader], num_ranks: int) -> int:
    """Add up what a rank will hold: the libraries, the loaders, and six copies of the module.

    Those are its weights and gradients, Adam's two moments, what DDP sends, and the best state so far.
    """
    module = sum(value.numel() * value.element_size() for value in recipe.module.state_dict().values())
    plans = [loader.plan for loader in loaders]
    for plan in plans:
        plan.check(num_ranks)
    return RANK_BASE_NBYTES + sum(plan.memory_nbytes(num_ranks) for plan in plans) + 6 * int(module)


def _refuse_too_little_memory(planned_nbytes: int, gang: Gang) -> None:
    for rank, share in enumerate(gang.memory_nbytes):
        if 0 < share < planned_nbytes:
            raise MemoryLimitError(
                f"a rank would hold {format_nbytes(planned_nbytes)}, of which {format_nbytes(RANK_BASE_NBYTES)} are "
                f"libraries, but rank {rank} may hold {format_nbytes(share)} on worker {gang.workers[rank].address}; "
                "pass less memory= to the loader or the estimator, or more to dtk.connect"
            )


def _train_in_gang(recipe: Recipe, loader: Loader, validation: Loader | None) -> RankReport:
    context = current_rank()
    assert context is not None
    return train_rank(recipe, loader, validation, context)


class _ShowBeat:
    """Turns rank 0's messages into a progress bar, and a line an epoch."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._before: tuple[float, int, float] = (time.monotonic(), 0, 0.0)

    def __call__(self, message: dict[str, Any]) -> None:
        if message["phase"] == "validation":
            return
        if message["phase"] == "epoch":
            self._bar.say(_epoch_line(message))
        now, samples, wait_s = time.monotonic(), message["samples"], message["wait_s"]
        then, samples_then, wait_then = self._before
        elapsed_s = max(now - then, 1e-9)
        self._before = (now, samples, wait_s)
        figures = [
            f"epoch {message['epoch']}/{message['epochs']}",
            f"loss {message['loss']:.4f}",
            f"{(samples - samples_then) / elapsed_s:,.0f} samples/s",
            f"{min(1.0, (wait_s - wait_then) / elapsed_s):.0%} waiting for data",
        ]
        if message.get("memory_nbytes"):
            figures.append(format_nbytes(message["memory_nbytes"]))
        self._bar.update(message["step"], ", ".join(figures))


def _epoch_line(message: dict[str, Any]) -> str:
    entry = message["entry"]
    figures = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in entry.items()
        if name == "loss" or name.startswith("validation_")
    )
    return (
        f"epoch {entry['epoch']}/{message['epochs']}: {figures}, {entry['samples_per_s']:,.0f} samples/s, "
        f"{entry['wait_share']:.0%} waiting for data"
    )
