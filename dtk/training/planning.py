"""Which workers carry a gang's ranks, and what each rank gets of its worker."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dtk.errors import ArgumentError, ClusterError
from dtk.runtime import WorkerInfo, rank_shares, workers_of
from dtk.training.place import RankPlace

if TYPE_CHECKING:
    from dtk.runtime import Client

__all__ = ["Gang", "plan_gang"]

JOIN_TIMEOUT_S = 600.0


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
    join_timeout_s : float
        Seconds that ranks which were started wait for the others to start.
    """

    workers: tuple[WorkerInfo, ...]
    gpus: tuple[str | None, ...]
    threads: tuple[int, ...]
    memory_nbytes: tuple[int, ...]
    join_timeout_s: float = JOIN_TIMEOUT_S

    @property
    def num_ranks(self) -> int:
        """How many ranks there are."""
        return len(self.workers)

    def places(
        self, name: str, port: int, *, hang_timeout_s: float, tells_of_start: bool, env: Mapping[str, str]
    ) -> list[RankPlace]:
        """Say for each rank where and how it runs.

        Parameters
        ----------
        name : str
            The gang's.
        port : int
            Of rank 0's store.
        hang_timeout_s : float
            Silence after which a rank is ended.
        tells_of_start : bool
            Whether silence counts from the start.
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
                join_timeout_s=self.join_timeout_s,
                tells_of_start=tells_of_start,
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
    silent = [worker.address for worker in workers if worker.address not in shares]
    if silent:
        warnings.warn(f"worker {', '.join(silent)} did not answer and gets no rank; restart it", stacklevel=2)
    workers = [worker for worker in workers if worker.address in shares]
    idle = [worker.address for worker in workers if shares[worker.address].idle_gpus]
    if idle:
        text = f"worker {', '.join(idle)} sees GPUs, but its torch is built without CUDA: ranks run on its CPU"
        warnings.warn(f"{text}; install a CUDA build of torch there, or set CUDA_VISIBLE_DEVICES=''", stacklevel=2)
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
