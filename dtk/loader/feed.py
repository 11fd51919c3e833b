"""From what is planned to the batches of one rank, in this process: read ahead in a ring, then moved to a device."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

from dtk.loader.paddings import Paddings
from dtk.loader.planned import Planned
from dtk.loader.position import Position
from dtk.loader.reader import Reader
from dtk.loader.ring import Ring
from dtk.loader.schedule import make_schedule
from dtk.loader.transfer import check_device, on_device
from dtk.sources.zarr_read import Scratch

__all__ = ["Batch", "Feed"]

_MOST_THREADS: Final = 4

Batch = dict[str, torch.Tensor]


@dataclass
class Feed:
    """Makes the batches of a loader.

    Parameters
    ----------
    read_threads : int, optional
        Threads that read; a share of the processor's cores if None.
    copy : bool
        Whether a batch stays valid when the next one is asked for.
    device : torch.device
        Where batches are moved to.
    prefetch : int
        Batches that are moved ahead of the one that is handed out.

    Attributes
    ----------
    ring : Ring, optional
        Where the next iteration puts its batches; None before the first one, and while one is under way.
    """

    read_threads: int | None = None
    copy: bool = False
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    prefetch: int = 1
    ring: Ring | None = field(default=None, init=False)
    _scratches: list[Scratch] = field(default_factory=list, init=False)

    def batches(
        self, planned: Planned, position: Position, rank: int, ranks: int, epoch: int, start: int
    ) -> Generator[Batch, None, None]:
        """Make the batches of an epoch.

        Parameters
        ----------
        planned : Planned
            What is read, and by which plan.
        position : Position
            Keeps what it takes.
        rank : int
            The rank.
        ranks : int
            The number of ranks.
        epoch : int
            The epoch.
        start : int
            The first step.

        Yields
        ------
        dict of str to torch.Tensor
            The batch of a step.

        Raises
        ------
        ArgumentError
            If the device is not there.
        """
        check_device(self.device)
        static = {name: tensor.to(self.device) for name, tensor in planned.static().items()}
        make = self._from_memory if planned.is_small(ranks) else self._from_disk
        with (
            closing(make(planned, position, rank, ranks, epoch, start)) as running,
            closing(on_device(running, self.device, self.prefetch)) as moved,
        ):
            for batch in moved:
                yield batch | ({name: tensor.clone() for name, tensor in static.items()} if self.copy else static)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ring": None, "_scratches": []}

    def _from_disk(
        self, planned: Planned, position: Position, rank: int, ranks: int, epoch: int, start: int
    ) -> Generator[Batch, None, None]:
        plan = planned.made(ranks)
        order, ring_steps, width = plan.order, plan.ring_steps(ranks), plan.order.batch_width(ranks)
        ring, self.ring = self.ring, None  # an iteration beside this one makes its own
        if ring is None or (ring.num_steps, ring.width) != (ring_steps, width):
            ring = Ring(plan.fields, ring_steps, width, pinned=self.device.type == "cuda")
        schedule = make_schedule(
            order, epoch, rank, ranks, ring_steps=ring_steps, lead_steps=plan.lead_steps(ranks), start=start
        )
        reader = Reader(
            source=planned.joined(),
            encoder=planned.encoder,
            order=order,
            schedule=schedule,
            ring=ring,
            epoch=epoch,
            rank=rank,
            ranks=ranks,
            start=start,
            num_threads=self.read_threads or _default_threads(),
            decode_nbytes=plan.decode_nbytes,
            chunk_nbytes=plan.chunk_nbytes,
            slice_rows=plan.slice_rows,
            fetch_nbytes=plan.fetch_nbytes,
            scratches=self._scratches,
            sampling=planned.sampling,
        )
        counted_nbytes = 0
        paddings = Paddings(order, epoch, rank, ranks)
        try:
            for step in range(start, plan.num_steps):
                began = time.perf_counter()
                reader.wait_for(step)
                position.wait_s += time.perf_counter() - began
                position.read_nbytes += reader.read_nbytes - counted_nbytes
                counted_nbytes = reader.read_nbytes
                batch = ring.batch(step, paddings.of(step))
                is_copied = self.copy and self.device.type == "cpu"  # on their way elsewhere they are anyway
                yield {name: tensor.clone() for name, tensor in batch.items()} if is_copied else batch
        finally:
            reader.close()
        self.ring = ring

    def _from_memory(
        self, planned: Planned, position: Position, rank: int, ranks: int, epoch: int, start: int
    ) -> Generator[Batch, None, None]:
        began = time.perf_counter()
        batches = planned.kept().batches(planned.made(ranks).order, planned.sampling, epoch, rank, ranks, start)
        position.wait_s += time.perf_counter() - began
        yield from batches


def _default_threads() -> int:
    """Return the cores of this process's share, at most a few: more would wait for each other."""
    asked = os.environ.get("DTK_READ_THREADS")
    if asked is not None:
        return max(1, int(asked))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))
