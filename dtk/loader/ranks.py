"""Which rank this process is."""

from __future__ import annotations

import os

from torch import distributed

from dtk.arguments import check_whole
from dtk.errors import ArgumentError

__all__ = ["check_rank", "current_rank", "is_in_group"]


def check_rank(rank: int | None, ranks: int | None) -> None:
    """Refuse a rank that there cannot be.

    Parameters
    ----------
    rank : int or None
        The rank.
    ranks : int or None
        The number of ranks.

    Raises
    ------
    ArgumentError
        If only one of them is given, they are no whole numbers, or there is no such rank.
    """
    if (rank is None) != (ranks is None):
        raise ArgumentError(f"rank={rank!r} and ranks={ranks!r} must be given together, or neither")
    if rank is None or ranks is None:
        return
    check_whole("rank", rank, 0)
    check_whole("ranks", ranks, 1)
    if rank >= ranks:
        raise ArgumentError(f"rank={rank!r} must be less than ranks={ranks!r}")


def current_rank() -> tuple[int, int]:
    """Find out this process's rank: from the process group, else from ``RANK`` and ``WORLD_SIZE``.

    Returns
    -------
    tuple of int
        The rank and the number of ranks; 0 and 1 where nothing tells.

    Raises
    ------
    ArgumentError
        If the environment tells how many ranks there are, but not which of them this is.
    """
    if is_in_group():
        return distributed.get_rank(), distributed.get_world_size()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and "RANK" not in os.environ:  # Lightning sets one of them: all processes would take rank 0's samples
        raise ArgumentError(
            f"WORLD_SIZE={ranks} is set but RANK is not; pass rank= and ranks=, or iterate once the process group is up"
        )
    return int(os.environ.get("RANK", "0")), ranks


def is_in_group() -> bool:
    """Tell whether this process has joined a process group.

    Returns
    -------
    bool
        False where torch has none.
    """
    return bool(distributed.is_available() and distributed.is_initialized())
