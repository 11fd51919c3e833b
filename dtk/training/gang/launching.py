"""A gang: one training process a rank, on the workers of a Dask cluster.

Drawn::

    client            worker A (rank 0)                 worker B (rank 1)
    launch ─ bind ──► socket on a free port, kept
           ─ tasks ─► supervise ── exec ──► rank 0      supervise ── exec ──► rank 1
                          ▲   └ inherits the socket ◄─────── TCPStore ─────────┘
           ◄─ beats ──────┘  (rank 0's, twice a second)
           ◄─ outcomes, in the order of ranks; the first failure ends them all
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import cloudpickle

from dtk.errors import ArgumentError, ClusterError, DtkError, RankError, WorkerLostError
from dtk.runtime import (
    ask_workers,
    current_client,
    is_error,
    live_workers,
    pack,
    run_on,
    submit_pinned,
    subscribed,
)
from dtk.training.gang.planning import Gang
from dtk.training.gang.reserving import reserved
from dtk.training.gang.supervisor import RankOutcome, let_leave, open_rendezvous, stacks_of, supervise, until_gone
from dtk.training.gang.verdict import RankFailure, verdict

if TYPE_CHECKING:
    from dtk.runtime import Client, Future

__all__ = ["launch", "run_gang"]

POLL_S = 0.05
LIVENESS_POLL_S = 1.0
GROWTH_POLL_S = 5.0
FIRST_FAILURE_WAIT_S = 1.5  # the cause and its effects come within this
GONE_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 5.0  # on top, for the way
RESULT_TIMEOUT_S = 60.0


def launch(
    fn: Callable[..., Any],
    *args: Any,
    ranks: int | tuple[int, int] | None = None,
    resources: Mapping[str, float] | None = None,
    threads: int | None = None,
    env: Mapping[str, str] | None = None,
    hang_timeout_s: float = 300.0,
    **kwargs: Any,
) -> list[Any]:
    """Run any ``torch.distributed`` code, one process a rank, on the workers of the current Dask cluster.

    In each process the default process group is joined (gloo, or NCCL with one GPU a rank), and the usual variables
    are set: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``.

    Parameters
    ----------
    fn : callable
        Called as ``fn(*args, **kwargs)`` on every rank. A module of the user's own travels with it.
    *args : object
        Picklable arguments.
    ranks : int or tuple of two int, optional
        Processes: how many, or at least and at most, of which as many are started as there is room for then. None takes
        one a GPU where there are any, else one a worker; with `resources` as many as the workers that offer them carry.
    resources : mapping of str to float, optional
        What each rank takes of its Dask worker, such as ``{"GPU": 1}``: only workers that offer it carry ranks, no more
        than it is enough for, nor than they have GPUs or threads for. Other tasks that need it wait meanwhile.
    threads : int, optional
        Of each rank's operators; by default the worker's threads, shared by its ranks.
    env : mapping of str to str, optional
        Set in each rank's environment.
    hang_timeout_s : float
        Seconds after which a collective that does not end, ends the gang with an error. Ranks that wait for others to
        start do so for 10 minutes.
    **kwargs : object
        Picklable keyword arguments.

    Returns
    -------
    list
        What `fn` returned, by rank.

    Raises
    ------
    ArgumentError
        If an argument cannot work.
    ClusterError
        If there is no client, too few slots, or a worker is lost or has no thread free for its rank.
    RankError
        If a rank raises, dies or hangs; with that rank's own traceback, and its exception as the cause.

    Examples
    --------
    >>> def hello():  # doctest: +SKIP
    ...     return torch.distributed.get_rank()
    >>> launch(hello, ranks=2)  # doctest: +SKIP
    [0, 1]
    """
    client = current_client()
    if client is None:
        raise ClusterError("there is no Dask client to launch ranks on; call dtk.connect() first")
    env = {} if env is None else env
    _refuse_bad_options(hang_timeout_s, env)
    payload = _pack_call(fn, args, kwargs)
    with reserved(client, ranks, threads, resources) as (name, gang):
        outcomes = run_gang(client, gang, name, payload, hang_timeout_s=hang_timeout_s, env=env)
    return [cloudpickle.loads(outcome.result) for outcome in outcomes]


def _refuse_bad_options(hang_timeout_s: float, env: Mapping[str, str]) -> None:
    if not 0 < hang_timeout_s < math.inf:
        raise ArgumentError(f"hang_timeout_s={hang_timeout_s} must be more than 0 seconds, and finite; 1e6 is 12 days")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
            raise ArgumentError(f"env={{{name!r}: {value!r}}} must map names to text, for example {{'A': '1'}}")


def _pack_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle a call; name the part of it that cannot be."""
    try:
        return pack((fn, args, kwargs))
    except Exception as error:
        for name, value in ({"fn": fn} | {f"args[{place}]": arg for place, arg in enumerate(args)} | kwargs).items():
            try:
                pack(value)
            except Exception as reason:
                remedy = "make what it holds inside of fn, in the rank"
                raise ArgumentError(f"{name}={value!r} cannot be pickled: {reason}; {remedy}") from error
        raise


def run_gang(
    client: Client,
    gang: Gang,
    name: str,
    payload: bytes,
    *,
    hang_timeout_s: float,
    env: Mapping[str, str],
    on_beat: Callable[[dict[str, Any]], None] | None = None,
    grace_s: float = 0.0,
    wants_more: Callable[[], bool] | None = None,
) -> list[RankOutcome]:
    """Run a gang to its end, and leave no process of it behind.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    gang : Gang
        Where the ranks run.
    name : str
        Its name, unique in the cluster.
    payload : bytes
        What they run.
    hang_timeout_s : float
        Silence after which a rank is ended.
    env : mapping
        For the ranks' environment.
    on_beat : callable, optional
        Called, on another thread, with rank 0's reports. Where it is given the ranks must report, so that their silence
        counts from the start; ranks that need not may be silent for as long as they like.
    grace_s : float
        Seconds that ranks have for a last checkpoint where a worker is lost or closes; 0 if they take none.
    wants_more : callable, optional
        Asked every few seconds whether the gang shall leave with a checkpoint, because more workers are there.

    Returns
    -------
    list of RankOutcome
        By rank.

    Raises
    ------
    WorkerLostError
        If a worker is lost.
    RankError
        If a rank raises, dies or hangs.
    """
    _refuse_bad_options(hang_timeout_s, env)
    first, addresses = gang.workers[0], [worker.address for worker in gang.workers]
    workers, futures = set(addresses), list[Any]()
    try:
        with subscribed(client, name, on_beat):
            port = run_on(client, open_rendezvous, first.address, name, first.host)
            shipped = client.scatter(payload, workers=list(workers), broadcast=True, hash=False)
            places = gang.places(
                name, port, hang_timeout_s=hang_timeout_s, tells_of_start=on_beat is not None, env=env, grace_s=grace_s
            )
            calls = [(address, (place, shipped)) for address, place in zip(addresses, places, strict=True)]
            keys = [f"{name}-rank-{place.rank}" for place in places]
            futures += submit_pinned(client, supervise, calls, keys=keys, resources=gang.resources)
            outcomes = _await(client, gang, name, futures, hang_timeout_s, wants_more)
    except BaseException as error:
        if isinstance(error, WorkerLostError):
            _let_leave(client, gang, futures, grace_s)
        note = _disband(client, name, futures, workers)
        if note:
            error.add_note(note)
        if client.status == "running" and not isinstance(error, RankError | WorkerLostError | KeyboardInterrupt):
            _refuse_lost(client, workers, error)  # one that went while the gang was formed does not answer, for example
        raise
    _disband(client, name, futures, workers)
    return outcomes


def _await(
    client: Client,
    gang: Gang,
    name: str,
    futures: list[Future[Any]],
    hang_timeout_s: float,
    wants_more: Callable[[], bool] | None,
) -> list[RankOutcome]:
    workers = [worker.address for worker in gang.workers]
    outcomes: dict[int, RankOutcome | RankFailure] = {}
    looked_at = counted_at = time.monotonic()
    while True:
        _collect(futures, outcomes)
        if any(isinstance(outcome, RankFailure) for outcome in outcomes.values()):
            raise _why(client, gang, name, futures, outcomes, hang_timeout_s)
        if len(outcomes) == len(futures):
            return [outcome for _, outcome in sorted(outcomes.items()) if isinstance(outcome, RankOutcome)]
        if client.status in ("closing", "closed"):
            raise ClusterError("the client was closed while its ranks ran, which ended them; close it later")
        if client.status != "running":
            raise ClusterError(
                "the scheduler is gone, or cannot be reached, and its workers close with their ranks; start a cluster, "
                "and run it again"
            )
        for future in futures:
            if is_error(future):
                _refuse_lost(client, set(workers))
                reason = future.exception() if future.status == "error" else "nobody computes it any more"
                raise ClusterError(f"task {future.key} of the gang is {future.status}: {reason}")
        if time.monotonic() - looked_at >= LIVENESS_POLL_S:
            looked_at = time.monotonic()
            _refuse_lost(client, {worker for rank, worker in enumerate(workers) if rank not in outcomes})
        if wants_more is not None and time.monotonic() - counted_at >= GROWTH_POLL_S:
            counted_at = time.monotonic()
            if wants_more():
                wants_more = None
                ask_workers(client, let_leave, workers[:1], name, "more workers are there", timeout_s=ANSWER_TIMEOUT_S)
        time.sleep(POLL_S)


def _let_leave(client: Client, gang: Gang, futures: list[Future[Any]], grace_s: float) -> None:
    """Wait until the ranks have taken the last checkpoint that those whose worker is gone ask them for."""
    end = time.monotonic() + grace_s
    while time.monotonic() < end:
        alive = live_workers(client)
        waiting = [future for future, worker in zip(futures, gang.workers, strict=True) if worker.address in alive]
        if all(future.done() for future in waiting):
            return
        time.sleep(POLL_S)


def _collect(futures: list[Future[Any]], outcomes: dict[int, RankOutcome | RankFailure]) -> None:
    """Fetch what ranks brought home since the last look, each once: a result may be large."""
    for rank, future in enumerate(futures):
        if rank not in outcomes and future.status == "finished":
            with contextlib.suppress(TimeoutError):  # its worker may be gone, and the result with it
                outcomes[rank] = future.result(timeout=RESULT_TIMEOUT_S)


def _why(
    client: Client,
    gang: Gang,
    name: str,
    futures: list[Future[Any]],
    outcomes: dict[int, RankOutcome | RankFailure],
    hang_timeout_s: float,
) -> DtkError:
    """Wait for the failures that belong together, and find the one that caused the others."""
    workers = [worker.address for worker in gang.workers]
    end = time.monotonic() + FIRST_FAILURE_WAIT_S
    while time.monotonic() < end and not all(future.done() for future in futures):
        time.sleep(POLL_S)
    _collect(futures, outcomes)
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, RankFailure)]
    stacks: dict[int, str] = {}
    if all(failure.nature in ("timeout", "effect") for failure in failures):  # then one that still runs is the cause
        running = {rank: worker for rank, worker in enumerate(workers) if rank not in outcomes}
        _refuse_lost(client, set(running.values()))
        told = ask_workers(client, stacks_of, set(running.values()), name, timeout_s=ANSWER_TIMEOUT_S)
        stacks = {rank: told.get(worker, {}).get(rank, "") for rank, worker in running.items()}
    return verdict(failures, workers, stacks, hang_timeout_s=hang_timeout_s, join_timeout_s=gang.join_timeout_s)


def _disband(client: Client, name: str, futures: list[Future[Any]], workers: set[str]) -> str:
    """End what runs of a gang; say what kept it from being sure of that, or nothing."""
    if client.status != "running":
        return ""  # the scheduler has forgotten the tasks, and supervisors look for that
    try:
        client.cancel(futures, force=True)
        asked = workers & live_workers(client)
        timeout_s = GONE_TIMEOUT_S + ANSWER_TIMEOUT_S
        answers = ask_workers(client, until_gone, asked, name, GONE_TIMEOUT_S, timeout_s=timeout_s)
    except Exception as broken:  # the caller may be on the way out with an error that explains more
        return f"the ranks could not be ended from here: {type(broken).__name__}: {broken}"
    doubtful = sorted(address for address in asked if not answers.get(address))
    return f"worker {', '.join(doubtful)} did not say that its ranks are gone; it hangs: end it" if doubtful else ""


def _refuse_lost(client: Client, workers: set[str], cause: BaseException | None = None) -> None:
    lost = workers - live_workers(client)
    if lost:
        text = f"worker {', '.join(sorted(lost))} was lost, and with it its ranks; run it again"
        raise WorkerLostError(text) from cause
