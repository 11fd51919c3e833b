"""Which workers carry a gang's ranks, and what each rank gets of its worker."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from dtk.errors import ArgumentError, ClusterError, SlotsTakenError
from dtk.runtime import WorkerInfo, held_slots, rank_shares, workers_of
from dtk.training.gang.place import RankPlace

if TYPE_CHECKING:
    from dtk.runtime import Client

__all__ = ["Gang", "Ranks", "count_free_slots", "least_and_most", "plan_gang"]

Ranks = int | tuple[int, int] | None
"""How many ranks: as many, at least and at most, or one a GPU or worker."""

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
    slots : mapping of str to int
        How many ranks a worker may carry.
    join_timeout_s : float
        Seconds that ranks which were started wait for the others to start.
    resources : mapping of str to float
        What each rank takes of what its worker offers.
    """

    workers: tuple[WorkerInfo, ...]
    gpus: tuple[str | None, ...]
    threads: tuple[int, ...]
    memory_nbytes: tuple[int, ...]
    slots: Mapping[str, int] = field(default_factory=dict)
    join_timeout_s: float = JOIN_TIMEOUT_S
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_ranks(self) -> int:
        """How many ranks there are."""
        return len(self.workers)

    @property
    def wanted(self) -> dict[str, int]:
        """How many ranks each worker shall carry."""
        return dict(Counter(worker.address for worker in self.workers))

    def places(
        self,
        name: str,
        port: int,
        *,
        hang_timeout_s: float,
        tells_of_start: bool,
        env: Mapping[str, str],
        grace_s: float = 0.0,
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
        grace_s : float
            Seconds that ranks have for a last checkpoint; 0 if they take none.

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
                grace_s=grace_s,
                worker_ranks=self.wanted[self.workers[rank].address],
            )
            for rank, host in enumerate(hosts)
        ]


def least_and_most(ranks: Ranks) -> tuple[int | None, int | None]:
    """Read how many ranks there may be.

    Parameters
    ----------
    ranks : int, tuple of two int, or None
        What the user asked for.

    Returns
    -------
    tuple of int or None
        At least, and at most; both None for one a GPU or worker.

    Raises
    ------
    ArgumentError
        If it is no number from 1 up, nor two in order.
    """
    if ranks is None:
        return None, None
    bounds = ranks if isinstance(ranks, tuple) else (ranks, ranks)
    if len(bounds) != 2 or not all(type(bound) is int and bound >= 1 for bound in bounds) or bounds[0] > bounds[1]:
        raise ArgumentError(f"ranks={ranks!r} must be at least 1, or two such numbers: at least and at most")
    return bounds


def plan_gang(
    client: Client,
    ranks: Ranks = None,
    threads: int | None = None,
    held: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    resources: Mapping[str, float] = MappingProxyType({}),
) -> Gang:
    """Choose workers for the ranks.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    ranks : int or tuple of two int, optional
        How many, or at least and at most. None takes one a GPU where there are any, else one a worker.
    threads : int, optional
        For each rank's operators; by default the worker's threads, shared by its ranks.
    held : mapping of str to mapping of str to int
        By gang and worker, the slots that others have.
    resources : mapping of str to float
        What each rank takes of what its worker offers; workers that do not offer it carry none.

    Returns
    -------
    Gang
        Workers in a stable order, with several ranks on a worker only where it has threads (or GPUs) for them.

    Raises
    ------
    ArgumentError
        If `ranks` or `threads` is less than 1, or `resources` is no mapping of names to numbers.
    ClusterError
        If the cluster has no workers, or too few slots.
    SlotsTakenError
        If it has enough, but other gangs have them now.
    """
    least, most = least_and_most(ranks)
    if threads is not None and threads < 1:
        raise ArgumentError(f"threads={threads} must be at least 1")
    slots = _slots(client, resources)
    room = sum(slots.counts)
    if least is None or most is None:
        least = most = room if slots.on_gpus or resources else len(slots.workers)
    if least > room:
        unit = "GPU" if slots.on_gpus else "thread"
        unit += f", and {dict(resources)} for each" if resources else ""
        raise ClusterError(
            f"ranks={ranks} exceed the cluster's {room} slots ({len(slots.workers)} worker(s), one slot a {unit}); "
            f"add workers or threads, or ask ranks={room}"
        )
    free = slots.free(held)
    if least > sum(free):
        addresses = {worker.address for worker in slots.workers}
        others = sorted(gang for gang, where in held.items() if addresses & where.keys())
        raise SlotsTakenError(f"ranks={least} wait for {', '.join(others)}, which hold(s) the cluster's slots")
    taken = _share(min(most, sum(free)), free)
    placed = [(number, slot) for number, count in enumerate(taken) for slot in range(count)]
    workers, gpus, memory_nbytes = slots.workers, slots.gpus, slots.memory_nbytes
    return Gang(
        workers=tuple(workers[number] for number, _ in placed),
        gpus=tuple(gpus[number][slot] if slots.on_gpus else None for number, slot in placed),
        slots={worker.address: count for worker, count in zip(workers, slots.counts, strict=True)},
        threads=tuple(threads or max(1, workers[number].num_threads // taken[number]) for number, _ in placed),
        memory_nbytes=tuple(memory_nbytes[number] // taken[number] for number, _ in placed),
        resources=resources,
    )


def count_free_slots(client: Client) -> int:
    """Count how many more ranks the cluster could carry now.

    Parameters
    ----------
    client : distributed.Client
        Connected.

    Returns
    -------
    int
        GPUs where there are any, else threads, that no gang holds; 0 without workers.
    """
    return sum(_slots(client).free(held_slots(client))) if workers_of(client) else 0


@dataclass(frozen=True)
class _Slots:
    """What the workers offer, each in the order of ranks."""

    workers: list[WorkerInfo]
    gpus: list[tuple[str, ...]]
    memory_nbytes: list[int]
    resources: Mapping[str, float]

    @property
    def on_gpus(self) -> bool:
        return any(self.gpus)

    @property
    def counts(self) -> list[int]:
        found = [len(devices) for devices in self.gpus] if self.on_gpus else [one.num_threads for one in self.workers]
        for name, needed in self.resources.items():
            found = [
                min(count, int(one.resources[name] // needed)) for count, one in zip(found, self.workers, strict=True)
            ]
        return found

    def free(self, held: Mapping[str, Mapping[str, int]]) -> list[int]:
        """Count what is not held."""
        taken = [sum(where.get(worker.address, 0) for where in held.values()) for worker in self.workers]
        return [max(0, count - less) for count, less in zip(self.counts, taken, strict=True)]


def _slots(client: Client, resources: Mapping[str, float] = MappingProxyType({})) -> _Slots:
    """Ask the workers what they have."""
    workers = workers_of(client)
    if not workers:
        raise ClusterError("the cluster has no workers; start some, for example with client.cluster.scale(2)")
    workers = _that_offer(resources, workers)
    shares = rank_shares(client)
    silent = [worker.address for worker in workers if worker.address not in shares]
    if silent:
        warnings.warn(f"worker {', '.join(silent)} did not answer and gets no rank; restart it", stacklevel=3)
    workers = [worker for worker in workers if worker.address in shares]
    idle = [worker.address for worker in workers if shares[worker.address].idle_gpus]
    if idle:
        text = f"worker {', '.join(idle)} sees GPUs, but its torch is built without CUDA: ranks run on its CPU"
        warnings.warn(f"{text}; install a CUDA build of torch there, or set CUDA_VISIBLE_DEVICES=''", stacklevel=3)
    found = [shares[worker.address] for worker in workers]
    return _Slots(workers, [one.gpus for one in found], [one.memory_nbytes for one in found], resources)


def _that_offer(resources: Mapping[str, float], workers: list[WorkerInfo]) -> list[WorkerInfo]:
    """Choose the workers that have enough for one rank at least."""
    for name, needed in resources.items():
        if not isinstance(name, str) or not isinstance(needed, int | float) or not 0 < needed < math.inf:
            raise ArgumentError(
                f"resources={dict(resources)!r} must map names to numbers above 0, such as {{'GPU': 1}}"
            )
    offering = [
        one for one in workers if all(one.resources.get(name, 0) >= needed for name, needed in resources.items())
    ]
    if not offering:
        offered = sorted({name for one in workers for name in one.resources})
        raise ClusterError(
            f"resources={dict(resources)!r} are offered by none of the {len(workers)} worker(s), which offer "
            f"{', '.join(offered) or 'none at all'}; start workers with them: dask worker --resources 'GPU=1'"
        )
    return offering


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
