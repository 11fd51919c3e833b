"""The slots of a gang: it has all of them, or waits and says for whom."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from dtk.errors import ClusterError, SlotsTakenError
from dtk.runtime import held_slots, live_workers, release_slots, take_slots, workers_wanted
from dtk.training.gang.planning import Gang, Ranks, least_and_most, plan_gang

if TYPE_CHECKING:
    from dtk.runtime import Client

__all__ = ["reserved"]

POLL_S: Final = 0.5
WORKERS_TIMEOUT_S: Final = 3600.0  # a batch system may let them wait


@contextlib.contextmanager
def reserved(
    client: Client,
    ranks: Ranks = None,
    threads: int | None = None,
    resources: Mapping[str, float] | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, Gang]]:
    """Hold the slots of a gang; where others have them, wait and say for whom.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    ranks, threads, resources : object
        See `plan_gang`.
    say : callable, optional
        Takes a line for the user; standard error if None.

    Yields
    ------
    name : str
        The gang's, new.
    gang : Gang
        Where its ranks will run; all of its slots are its own until the end.

    Raises
    ------
    ArgumentError, ClusterError
        See `plan_gang`.
    """
    name = f"dtk-gang-{uuid.uuid4().hex[:8]}"
    with workers_wanted(client, least_and_most(ranks)[1] or 0) as coming:
        gang = _take(
            client, name, lambda held: plan_gang(client, ranks, threads, held, resources or {}), coming, say or _say
        )
        try:
            yield name, gang
        finally:
            if client.status == "running":  # else the scheduler knows that it is gone
                release_slots(client, name)


def _take(
    client: Client,
    name: str,
    plan: Callable[[Mapping[str, Mapping[str, int]]], Gang],
    coming: int,
    say: Callable[[str], None],
) -> Gang:
    """Take the slots of a gang, once its workers have come and others let go of them."""
    told, end = "", time.monotonic() + WORKERS_TIMEOUT_S
    while True:
        have_come = len(live_workers(client)) >= coming
        try:
            gang = plan(held_slots(client))
            if take_slots(client, name, gang.wanted, gang.slots):
                return gang
        except ClusterError as error:
            text = str(error)
            if not isinstance(error, SlotsTakenError):
                if have_come or time.monotonic() >= end:
                    raise
                text = f"asked for {coming} worker(s), and wait for them"
            if text != told:
                say(told := text)
            time.sleep(POLL_S)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
