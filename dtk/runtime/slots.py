"""Which gang holds which workers: one registry on the scheduler, so that a gang takes all that it needs or waits.

What a gang holds goes with the gang, with its client, and with the worker: the scheduler knows all three ends. Workers
that carry ranks look idle to an adaptive cluster, and are not retired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

if TYPE_CHECKING:
    from distributed import Client, Scheduler
    from distributed.scheduler import WorkerState

__all__ = ["held_slots", "release_slots", "take_slots"]

NAME = "dtk-slots"


class SlotRegistry(SchedulerPlugin):
    """Counts slots by worker and gang."""

    name = NAME
    idempotent = True

    def __init__(self) -> None:
        self.held: dict[str, dict[str, int]] = {}
        """Gang to worker to slots."""
        self.clients: dict[str, str] = {}
        """Gang to client."""

    def take(self, gang: str, client: str, wanted: Mapping[str, int], room: Mapping[str, int], live: set[str]) -> bool:
        """Take all slots that a gang wants, or none.

        Parameters
        ----------
        gang, client : str
            Who wants them.
        wanted, room : mapping of str to int
            Slots by worker: those wanted, and those there are.
        live : set of str
            The cluster's workers.

        Returns
        -------
        bool
            Whether it has them.
        """
        taken = self.taken()
        if any(worker not in live or taken.get(worker, 0) + count > room[worker] for worker, count in wanted.items()):
            return False
        self.held[gang], self.clients[gang] = dict(wanted), client
        return True

    def release(self, gang: str) -> None:
        """Give back what a gang holds.

        Parameters
        ----------
        gang : str
            Its name; one that holds nothing is no error.
        """
        self.held.pop(gang, None)
        self.clients.pop(gang, None)

    def taken(self) -> dict[str, int]:
        """Count the slots that are taken.

        Returns
        -------
        dict of str to int
            By worker.
        """
        counts: dict[str, int] = {}
        for slots in self.held.values():
            for worker, count in slots.items():
                counts[worker] = counts.get(worker, 0) + count
        return counts

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Release what its gangs hold.

        Parameters
        ----------
        scheduler : distributed.Scheduler
            That calls it.
        client : str
            That is gone.
        """
        for gang in [gang for gang, owner in self.clients.items() if owner == client]:
            self.release(gang)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Forget the slots of a worker.

        Parameters
        ----------
        scheduler : distributed.Scheduler
            That calls it.
        worker : str
            That is gone.
        **kwargs : object
            Not used.
        """
        for slots in self.held.values():
            slots.pop(worker, None)

    def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[WorkerState]) -> list[WorkerState]:
        """Keep the workers that carry ranks.

        Parameters
        ----------
        scheduler : distributed.Scheduler
            That calls it.
        workers : list of distributed.scheduler.WorkerState
            That it might stop.

        Returns
        -------
        list of distributed.scheduler.WorkerState
            Without those that carry ranks.
        """
        busy = self.taken()
        return [worker for worker in workers if worker.address not in busy]


def held_slots(client: Client) -> dict[str, dict[str, int]]:
    """Ask what gangs hold.

    Parameters
    ----------
    client : distributed.Client
        Connected.

    Returns
    -------
    dict of str to dict of str to int
        By gang and worker.
    """
    client.register_plugin(SlotRegistry())
    return client.run_on_scheduler(_held)  # type: ignore[no-any-return]


def take_slots(client: Client, gang: str, wanted: Mapping[str, int], room: Mapping[str, int]) -> bool:
    """Take all slots that a gang wants, or none.

    Parameters
    ----------
    client : distributed.Client
        Connected; what is taken goes with it.
    gang : str
        The gang's name.
    wanted, room : mapping of str to int
        Slots by worker: those wanted, and those there are.

    Returns
    -------
    bool
        Whether the gang has them; else another one was faster, or a worker is gone.
    """
    client.register_plugin(SlotRegistry())
    return client.run_on_scheduler(_take, gang, client.id, dict(wanted), dict(room))  # type: ignore[no-any-return]


def release_slots(client: Client, gang: str) -> None:
    """Give back what a gang holds.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    gang : str
        The gang's name.
    """
    client.run_on_scheduler(_release, gang)


def _registry(scheduler: Scheduler) -> SlotRegistry:
    registry = scheduler.plugins[NAME]
    assert isinstance(registry, SlotRegistry)
    return registry


def _held(dask_scheduler: Scheduler) -> dict[str, dict[str, int]]:
    return _registry(dask_scheduler).held


def _take(gang: str, client: str, wanted: dict[str, int], room: dict[str, int], dask_scheduler: Scheduler) -> bool:
    if client not in dask_scheduler.clients:
        return False
    return _registry(dask_scheduler).take(gang, client, wanted, room, set(dask_scheduler.workers))


def _release(gang: str, dask_scheduler: Scheduler) -> None:
    _registry(dask_scheduler).release(gang)
