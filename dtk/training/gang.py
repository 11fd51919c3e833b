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

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle

from dtk.errors import ArgumentError, ClusterError, RankError
from dtk.runtime import (
    WorkerInfo,
    current_client,
    is_error,
    live_workers,
    rank_shares,
    run_on,
    submit_pinned,
    subscribed,
    workers_of,
)
from dtk.training.shipping import pack
from dtk.training.supervisor import RankFailure, RankOutcome, RankPlace, open_rendezvous, supervise, until_gone

if TYPE_CHECKING:
    from dtk.runtime import Client, Future

__all__ = ["Gang", "launch", "plan_gang"]

POLL_S = 0.05
LIVENESS_POLL_S = 1.0
FIRST_FAILURE_WAIT_S = 1.5  # the cause and its effects come within this
GONE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Gang:
    """Where the ranks will run.

    Parameters
    ----------
    workers : tuple of WorkerInfo
        One a rank; a worker may stand several times, side by side.
    gpus : tuple of str or None
        One a rank.
    threads : tuple of int
        One a rank.
    memory_nbytes : tuple of int
        One a rank: the most it may hold; 0 where there is no limit.
    """

    workers: tuple[WorkerInfo, ...]
    gpus: tuple[str | None, ...]
    threads: tuple[int, ...]
    memory_nbytes: tuple[int, ...]

    @property
    def num_ranks(self) -> int:
        """How many ranks there are."""
        return len(self.workers)

    def places(self, name: str, port: int, hang_timeout_s: float, env: Mapping[str, str]) -> list[RankPlace]:
        """Say for each rank where and how it runs.

        Parameters
        ----------
        name : str
            The gang's.
        port : int
            Of rank 0's store.
        hang_timeout_s : float
            Silence after which a rank is ended.
        env : mapping
            For the ranks' environment.

        Returns
        -------
        list of RankPlace
            In the order of ranks.
        """
        hosts = [worker.host for worker in self.workers]
        return [
            RankPlace(
                gang=name,
                rank=rank,
                ranks=self.num_ranks,
                local_rank=hosts[:rank].count(host),
                local_ranks=hosts.count(host),
                threads=self.threads[rank],
                memory_nbytes=self.memory_nbytes[rank],
                gpu=self.gpus[rank],
                host=self.workers[0].host,
                port=port,
                hang_timeout_s=hang_timeout_s,
                env=env,
            )
            for rank, host in enumerate(hosts)
        ]


def plan_gang(client: Client, ranks: int | None = None, threads: int | None = None) -> Gang:
    """Choose workers for the ranks.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    ranks : int, optional
        None takes one a GPU where there are any, else one a worker.
    threads : int, optional
        For each rank's operators; by default the worker's threads, shared by its ranks.

    Returns
    -------
    Gang
        Workers in a stable order, with several ranks on a worker only where it has threads (or GPUs) for them.

    Raises
    ------
    ArgumentError
        If `ranks` or `threads` is less than 1.
    ClusterError
        If the cluster has no workers, or too few slots.
    """
    for name, count in (("ranks", ranks), ("threads", threads)):
        if count is not None and count < 1:
            raise ArgumentError(f"{name}={count} must be at least 1")
    workers = workers_of(client)
    if not workers:
        raise ClusterError("the cluster has no workers; start some, for example with client.cluster.scale(2)")
    shares = rank_shares(client)
    workers = [worker for worker in workers if worker.address in shares]  # one may have left in between
    gpus = [shares[worker.address].gpus for worker in workers]
    on_gpus = any(gpus)
    slots = [len(devices) for devices in gpus] if on_gpus else [worker.num_threads for worker in workers]
    if ranks is None:
        ranks = sum(slots) if on_gpus else len(workers)
    if ranks > sum(slots):
        unit = "GPU" if on_gpus else "thread"
        raise ClusterError(
            f"ranks={ranks} exceed the cluster's {sum(slots)} slots ({len(workers)} worker(s), one slot a {unit}); "
            f"add workers or threads, or ask ranks={sum(slots)}"
        )
    taken = _share(ranks, slots)
    placed = [(number, slot) for number, count in enumerate(taken) for slot in range(count)]
    return Gang(
        workers=tuple(workers[number] for number, _ in placed),
        gpus=tuple(gpus[number][slot] if on_gpus else None for number, slot in placed),
        threads=tuple(threads or max(1, workers[number].num_threads // taken[number]) for number, _ in placed),
        memory_nbytes=tuple(shares[workers[number].address].memory_nbytes // taken[number] for number, _ in placed),
    )


def _share(ranks: int, slots: Sequence[int]) -> list[int]:
    """Deal ranks to workers as evenly as their slots allow.

    >>> _share(3, [1, 4])
    [1, 2]
    """
    taken = [0] * len(slots)
    while ranks:
        for number, room in enumerate(slots):
            if ranks and taken[number] < room:
                taken[number] += 1
                ranks -= 1
    return taken


def launch(
    fn: Callable[..., Any],
    *args: Any,
    ranks: int | None = None,
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
    ranks : int, optional
        Processes. None takes one a GPU where there are any, else one a worker.
    threads : int, optional
        Of each rank's operators; by default the worker's threads, shared by its ranks.
    env : mapping of str to str, optional
        Set in each rank's environment.
    hang_timeout_s : float
        Seconds after which a collective that does not end, ends the gang with an error.
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
        If there is no client, too few slots, or a worker is lost.
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
    gang = plan_gang(client, ranks, threads)
    outcomes = run_gang(client, gang, pack(fn, args, kwargs), hang_timeout_s=hang_timeout_s, env=env or {})
    return [cloudpickle.loads(outcome.result) for outcome in outcomes]


def run_gang(
    client: Client,
    gang: Gang,
    payload: bytes,
    *,
    hang_timeout_s: float,
    env: Mapping[str, str],
    on_beat: Callable[[dict[str, Any]], None] | None = None,
) -> list[RankOutcome]:
    """Run a gang to its end, and leave no process of it behind.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    gang : Gang
        Where the ranks run.
    payload : bytes
        What they run.
    hang_timeout_s : float
        Silence after which a rank is ended.
    env : mapping
        For the ranks' environment.
    on_beat : callable, optional
        Called, on another thread, with rank 0's reports.

    Returns
    -------
    list of RankOutcome
        By rank.

    Raises
    ------
    ClusterError
        If a worker is lost.
    RankError
        If a rank raises, dies or hangs.
    """
    if hang_timeout_s <= 0:
        raise ArgumentError(f"hang_timeout_s={hang_timeout_s} must be more than 0 seconds")
    name = f"dtk-gang-{uuid.uuid4().hex[:8]}"
    first, addresses = gang.workers[0], [worker.address for worker in gang.workers]
    try:
        port = run_on(client, open_rendezvous, first.address, name, first.host)
        shipped = client.scatter(payload, workers=list(set(addresses)), broadcast=True, hash=False)
    except Exception as error:
        _refuse_lost(client, set(addresses), error)
        raise
    places = gang.places(name, port, hang_timeout_s, env)
    with subscribed(client, name, on_beat):
        futures = submit_pinned(
            client,
            supervise,
            [(address, (place, shipped)) for address, place in zip(addresses, places, strict=True)],
            keys=[f"{name}-rank-{place.rank}" for place in places],
        )
        try:
            return _await(client, futures, set(addresses))
        finally:
            client.cancel(futures, force=True)
            for address in set(addresses) & live_workers(client):
                run_on(client, until_gone, address, name, GONE_TIMEOUT_S)


def _await(client: Client, futures: list[Future[Any]], workers: set[str]) -> list[RankOutcome]:
    looked_at = time.monotonic()
    while True:
        finished = [future.result() for future in futures if future.status == "finished"]
        if any(isinstance(outcome, RankFailure) for outcome in finished):
            raise _first_cause(futures)
        for future in futures:
            if is_error(future):
                raise ClusterError(f"task {future.key} of the gang is {future.status}: {future.exception()}")
        if len(finished) == len(futures):
            return finished
        if time.monotonic() - looked_at >= LIVENESS_POLL_S:
            looked_at = time.monotonic()
            _refuse_lost(client, workers)
        time.sleep(POLL_S)


def _refuse_lost(client: Client, workers: set[str], cause: Exception | None = None) -> None:
    lost = workers - live_workers(client)
    if lost:
        raise ClusterError(f"worker {', '.join(sorted(lost))} was lost, and with it its ranks; run it again") from cause


def _first_cause(futures: list[Future[Any]]) -> RankError:
    """Wait for the failures that belong together, and pick the one that caused the others."""
    end = time.monotonic() + FIRST_FAILURE_WAIT_S
    while time.monotonic() < end and not all(future.done() for future in futures):
        time.sleep(POLL_S)
    outcomes = [future.result() for future in futures if future.status == "finished"]
    failures = [outcome for outcome in outcomes if isinstance(outcome, RankFailure)]
    failure = min(failures, key=lambda failure: (failure.is_effect, failure.step, failure.rank))
    error = RankError(failure.message, failure.rank, failure.worker, failure.traceback)
    if failure.pickled is not None:
        try:
            error.__cause__ = cloudpickle.loads(failure.pickled)
        except Exception as unreadable:  # its class is unknown here; the text says it all
            error.add_note(f"the rank's exception could not be brought over: {unreadable}")
    return error
