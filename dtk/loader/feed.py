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
from dtk.loader.plan import Plan
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
class _Reading:
    """What reads an epoch, and what it was begun for."""

    reader: Reader
    ring: Ring
    lap: int
    plan: Plan
    source: Any
    key: tuple[int, int, int, int]  # rank, ranks, epoch, first step

    def __del__(self) -> None:
        self.reader.close()  # else its threads would wait for ever


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
    next_epoch : int, optional
        The epoch whose reading begins before the end of the next iteration, or of the one that is under way.
    """

    read_threads: int | None = None
    copy: bool = False
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    prefetch: int = 1
    ring: Ring | None = field(default=None, init=False)
    next_epoch: int | None = field(default=None, init=False)
    _scratches: list[Scratch] = field(default_factory=list, init=False)
    _ahead: _Reading | None = field(default=None, init=False)

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
        return {**self.__dict__, "ring": None, "next_epoch": None, "_scratches": [], "_ahead": None}

    def give_up(self) -> None:
        """Give up what was read ahead of the next iteration."""
        self.next_epoch = None
        if self._ahead is not None:
            self._ahead.reader.close()
            self._ahead = self.ring = None

    def _from_disk(
        self, planned: Planned, position: Position, rank: int, ranks: int, epoch: int, start: int
    ) -> Generator[Batch, None, None]:
        plan, key = planned.made(ranks), (rank, ranks, epoch, start)
        reading, self._ahead = self._ahead, None
        if reading is not None and (
            reading.key != key or reading.plan is not plan or reading.source is not planned.joined()
        ):
            reading.reader.close()
            reading = self.ring = None  # what reads may still write, where it is another thread that waits for it
        if reading is None:
            reading = self._begin(planned, key, self._ring_of(plan, ranks))
        self.ring, ring, reader, counted_nbytes = None, reading.ring, reading.reader, 0
        following: _Reading | None = None
        paddings = Paddings(plan.order, epoch, rank, ranks)
        try:
            for step in range(start, plan.num_steps):
                began = time.perf_counter()
                reader.wait_for(step)
                position.wait_s += time.perf_counter() - began
                position.read_nbytes += reader.read_nbytes - counted_nbytes
                counted_nbytes = reader.read_nbytes
                batch = ring.batch(reading.lap + step, paddings.of(step))
                is_copied = self.copy and self.device.type == "cpu"  # on their way elsewhere they are anyway
                yield {name: tensor.clone() for name, tensor in batch.items()} if is_copied else batch
                over = min(step + 1 - plan.num_steps, -1)  # the last batch stays until the next iteration begins
                if following is not None:
                    following.reader.give_up(over)
                elif self.next_epoch is not None and reader.is_done:
                    following = self._begin(planned, (rank, ranks, self.next_epoch, 0), ring, reading, over)
        except BaseException:
            if following is not None:
                following.reader.close()
            raise
        finally:
            self.next_epoch = None
            reader.close()
        self.ring, self._ahead = ring, following

    def _ring_of(self, plan: Plan, ranks: int) -> Ring:
        """Take the ring of the iteration before, or make one: an iteration beside this one makes its own."""
        shape = plan.ring_steps(ranks), plan.order.batch_width(ranks)
        if self.ring is not None and (self.ring.num_steps, self.ring.width) == shape:
            return self.ring
        return Ring(plan.fields, *shape, pinned=self.device.type == "cuda")

    def _begin(
        self,
        planned: Planned,
        key: tuple[int, int, int, int],
        ring: Ring,
        before: _Reading | None = None,
        step: int | None = None,
    ) -> _Reading:
        """Begin to read, maybe behind the last steps of the epoch before, of which one is the consumer's."""
        rank, ranks, epoch, start = key
        plan, source = planned.made(ranks), planned.joined()
        schedule = make_schedule(
            plan.order,
            epoch,
            rank,
            ranks,
            ring_steps=ring.num_steps,
            lead_steps=plan.lead_steps(ranks),
            start=start,
        )
        lap = 0 if before is None else before.lap + plan.num_steps
        reader = Reader(
            source=source,
            encoder=planned.encoder,
            order=plan.order,
            schedule=schedule,
            ring=ring,
            epoch=epoch,
            rank=rank,
            ranks=ranks,
            start=start,
            lap=lap,
            step=step,
            num_threads=self.read_threads or _default_threads(),
            decode_nbytes=plan.decode_nbytes,
            chunk_nbytes=plan.chunk_nbytes,
            slice_rows=plan.slice_rows,
            fetch_nbytes=plan.fetch_nbytes,
            scratches=self._scratches,
            sampling=planned.sampling,
            numbers=planned.numbers,
        )
        return _Reading(reader, ring, lap, plan, source, key)

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
