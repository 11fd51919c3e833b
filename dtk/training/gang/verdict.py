"""Why a gang failed: from what its ranks brought home to the one error that the user reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cloudpickle

from dtk.errors import ClusterError, RankError

__all__ = ["Nature", "RankFailure", "verdict"]

Nature = Literal["cause", "silence", "timeout", "effect"]
"""From what explains itself to what another rank's failure explains: a silent rank makes the others time out."""


@dataclass(frozen=True)
class RankFailure:
    """Why a rank did not finish; a result, not an exception, so that it crosses whatever its class.

    Parameters
    ----------
    rank : int
        Its number.
    what : str
        What it did, in one line.
    nature : {"cause", "silence", "timeout", "effect"}
        Whether that explains itself.
    traceback : str
        As it was in the rank.
    pickled : bytes or None
        The exception itself, by cloudpickle.
    awaited : tuple of (tuple of int, str)
        Ranks that did not come while it waited for them at the start, and the host and port where they should meet.
    step : int
        The last step it told of.
    log : str
        Where its worker keeps what it printed; empty if that is nothing.
    """

    rank: int
    what: str
    nature: Nature = "cause"
    traceback: str = ""
    pickled: bytes | None = None
    awaited: tuple[tuple[int, ...], str] = ((), "")
    step: int = -1
    log: str = ""


def verdict(
    failures: Sequence[RankFailure],
    workers: Sequence[str],
    stacks: Mapping[int, str],
    *,
    hang_timeout_s: float,
    join_timeout_s: float,
) -> ClusterError | RankError:
    """Find the failure that caused the others.

    Parameters
    ----------
    failures : sequence of RankFailure
        At least one.
    workers : sequence of str
        Their addresses, by rank.
    stacks : mapping of int to str
        Ranks that still run, each with where it is, or an empty text.
    hang_timeout_s, join_timeout_s : float
        The gang's.

    Returns
    -------
    ClusterError or RankError
        For the user.
    """
    first = min(failures, key=lambda failure: (get_args(Nature).index(failure.nature), failure.step, failure.rank))
    missing, meeting_place = first.awaited
    if missing:
        places = ", ".join(f"rank {rank} on worker {workers[rank]}" for rank in missing)
        return ClusterError(
            f"{places} did not start within {join_timeout_s:g} s: other tasks take the worker's threads, or "
            f"{meeting_place} on worker {workers[0]} cannot be reached from worker {workers[max(first.rank, *missing)]}"
        )
    if first.nature == "timeout" and stacks:
        return _absent(first, workers, stacks, hang_timeout_s)
    told = [first]
    if first.nature == "silence":  # in what a step is stuck, only the stacks together may tell
        told = sorted((failure for failure in failures if failure.nature == "silence"), key=lambda other: other.rank)
        told.remove(first)
        told.insert(0, first)
    text = first.traceback if len(told) == 1 else "\n\n".join(f"rank {one.rank}:\n{one.traceback}" for one in told)
    worker = workers[first.rank]
    if first.log:
        text = f"{text.rstrip()}\n\nwhat rank {first.rank} printed is in {first.log} on that worker's host"
    is_own = first.nature == "cause" and first.pickled is not None
    message = f"rank {first.rank} on worker {worker} {first.what}"
    error = RankError(message, first.rank, worker, text, is_recoverable=not is_own)
    if first.pickled is not None:
        try:
            error.__cause__ = cloudpickle.loads(first.pickled)
        except Exception as unreadable:  # its class is unknown here; the text says it all
            error.add_note(f"the rank's exception could not be brought over: {unreadable}")
    return error


def _absent(waiting: RankFailure, workers: Sequence[str], stacks: Mapping[int, str], timeout_s: float) -> RankError:
    """Blame those that never came to a collective, and not the one that waited there."""
    guilty = min(stacks)
    places = ", ".join(f"rank {rank} on worker {workers[rank]}" for rank in sorted(stacks))
    parts = [f"rank {rank} was here:\n{stack}" for rank, stack in sorted(stacks.items()) if stack]
    parts.append(f"rank {waiting.rank}, which saw it first, waited here:\n{waiting.traceback}")
    message = (
        f"{places} did not reach the collective within {timeout_s:g} s; raise hang_timeout_s if it may take that long"
    )
    return RankError(message, guilty, workers[guilty], "\n\n".join(parts), is_recoverable=True)
