"""A training that survives: a gang that broke is formed anew, from its last checkpoint, with the workers there are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cloudpickle

from dtk.errors import ClusterError, RankError, WorkerLostError
from dtk.training.gang.launching import run_gang
from dtk.training.gang.planning import Gang, Ranks, count_free_slots, least_and_most
from dtk.training.gang.reserving import reserved

if TYPE_CHECKING:
    from dtk.runtime import Client
    from dtk.training.loop.recipe import RankReport

__all__ = ["NO_RECOVERY", "RECOVERY", "Recovery", "run_through"]

POLL_S: Final = 0.5
MOST_BACK_OFF_S: Final = 30.0


@dataclass(frozen=True)
class Recovery:
    """How much a training bears.

    Parameters
    ----------
    max_restarts : int
        How often it is formed anew after a failure.
    wait_s : float
        Seconds that it then waits for workers to come back, where there are fewer than it needs.
    grace_s : float
        Seconds that ranks have for a last checkpoint when they must leave.
    """

    max_restarts: int = 3
    wait_s: float = 300.0
    grace_s: float = 30.0


RECOVERY: Final = Recovery()
NO_RECOVERY: Final = Recovery(max_restarts=0, wait_s=0.0, grace_s=0.0)


def run_through(
    client: Client,
    payload: bytes,
    *,
    ranks: Ranks,
    recovery: Recovery,
    hang_timeout_s: float,
    check: Callable[[Gang], None],
    say: Callable[[str], None],
    on_beat: Callable[[dict[str, Any]], None],
) -> list[RankReport]:
    """Run a training to its end, through the failures that it can bear.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    payload : bytes
        What the ranks run; it returns a `RankReport`, and goes on from its last checkpoint.
    ranks : int, tuple of two int, or None
        How many.
    recovery : Recovery
        What it bears.
    hang_timeout_s : float
        Silence after which a rank is ended.
    check : callable
        Refuses a gang that cannot work, before it starts.
    say : callable
        Takes a line for the user.
    on_beat : callable
        Takes rank 0's reports.

    Returns
    -------
    list of RankReport
        By rank.

    Raises
    ------
    ClusterError
        If there are too few workers, or they are lost too often.
    RankError
        If a rank raises, or dies or hangs too often.
    """
    restarts, wait_s = 0, 0.0
    while True:
        with _formed(client, ranks, wait_s, say) as (name, gang):
            ranks = gang.num_ranks if ranks is None else ranks  # a lost worker is to be replaced, and not done without
            check(gang)
            try:
                outcomes = run_gang(
                    client,
                    gang,
                    name,
                    payload,
                    hang_timeout_s=hang_timeout_s,
                    env={},
                    on_beat=on_beat,
                    grace_s=recovery.grace_s,
                    wants_more=_growth(client, gang, ranks) if recovery.grace_s else None,
                )
            except (RankError, WorkerLostError) as error:
                can_recover = isinstance(error, WorkerLostError) or error.is_recoverable
                if not can_recover or restarts >= recovery.max_restarts:
                    raise
                restarts, wait_s = restarts + 1, recovery.wait_s
                say(f"{str(error).splitlines()[0]}: restart {restarts} of {recovery.max_restarts}")
                outcomes = []
        if not outcomes:
            time.sleep(min(MOST_BACK_OFF_S, 2.0 ** (restarts - 2)))
            continue
        reports: list[RankReport] = [cloudpickle.loads(outcome.result) for outcome in outcomes]
        left = next((report.left for report in reports if report.left), "")
        if not left:
            return reports
        if "signal" in left:
            raise ClusterError(
                f"the ranks left before the end ({left}), with a checkpoint; run it again with the same checkpoint= to "
                "go on"
            )
        say(f"the ranks left with a checkpoint ({left}) and start again")
        wait_s = recovery.wait_s  # workers that close are replaced a little later


@contextlib.contextmanager
def _formed(client: Client, ranks: Ranks, wait_s: float, say: Callable[[str], None]) -> Iterator[tuple[str, Gang]]:
    """Hold the slots of a gang; wait for workers, where too few are left."""
    end, has_said = time.monotonic() + wait_s, False
    with contextlib.ExitStack() as held:
        while True:
            try:
                formed = held.enter_context(reserved(client, ranks, say=say))
                break
            except ClusterError as error:
                if time.monotonic() >= end:
                    raise
                if not has_said:
                    say(f"{error}: waiting up to {wait_s:g} s for workers")
                    has_said = True
            time.sleep(POLL_S)
        yield formed


def _growth(client: Client, gang: Gang, ranks: Ranks) -> Callable[[], bool] | None:
    """Say how to notice that there is room for more ranks, where that is wanted."""
    _, most = least_and_most(ranks)
    if most is None or gang.num_ranks >= most:
        return None
    return lambda: count_free_slots(client) > 0
