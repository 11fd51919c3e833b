"""How the blocks on disk are dealt to the shards of an order, and where the stream of blocks is cut into shards."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from dtk.loader.segments import Integers

__all__ = ["GOLDEN", "Tail", "dealt", "even_bounds", "shard_bounds"]

Tail = Literal["trim", "pad"]

GOLDEN: Final = 0.6180339887498949
"""Its multiples modulo 1 are spread as evenly as those of any number can be."""

_FILLS_PER_DEAL: Final = 4  # of a shard, before it is dealt other strata


def dealt(random: np.random.Generator, num_blocks: int, turns: int, num_shards: int) -> Integers:
    """Put the blocks of all shards in the order of an epoch, shard after shard.

    The list on disk, rolled by a random offset so that the borders move, is cut into as many strata as the pool holds
    blocks, and each is put into random order. Of each run of consecutive strata every shard is dealt one, and it takes
    blocks of all its strata in turn. So the fills that are open, however they are staggered, together hold one block of
    every stratum, but for the shorter ones at the ends of an epoch: an even sample of the whole disk. Now and then the
    strata are dealt anew, all shards at a time, so that each comes to the whole disk in the end.

    Parameters
    ----------
    random : numpy.random.Generator
        What decides.
    num_blocks : int
        Blocks, at least one a stratum.
    turns : int
        Strata that a shard is dealt: the blocks of a fill.
    num_shards : int
        Shards.

    Returns
    -------
    numpy.ndarray
        An int64 ``[blocks]``: numbers of blocks, in the order on disk.
    """
    roll = int(random.integers(num_blocks))
    bounds = even_bounds(turns * num_shards, num_blocks)
    sizes = np.diff(bounds)
    stratum = np.repeat(np.arange(len(sizes), dtype=np.min_scalar_type(len(sizes))), sizes)  # few bits sort faster
    place = random.permutation(num_blocks)
    place = place[np.argsort(stratum[place], kind="stable")]
    since = np.arange(num_blocks) - bounds[stratum]
    deals = max(1, num_blocks // (turns * num_shards * _FILLS_PER_DEAL))
    deal = np.argsort(random.random((deals, turns, num_shards)), axis=2).astype(np.int32)
    shard = deal.reshape(deals, -1)[since * deals // sizes[stratum], stratum]
    # Number i of a stratum's n blocks comes after i / n of the shard's blocks, later in some turns than in others.
    late = (np.arange(turns)[:, None] * GOLDEN + random.random(num_shards)) % 1
    time = (since + late[stratum // num_shards, shard]) / sizes[stratum]
    del since, deal, stratum  # with a million chunks they are most of what planning takes
    time = np.where(shard % 2, 1 - time, time)  # odd shards run backwards, see `Order`
    time += shard
    return (place[np.argsort(time, kind="stable")] + roll) % num_blocks


def shard_bounds(ends: Integers, slots: Integers, num_steps: int, tail: Tail) -> Integers:
    """Cut the stream's rows into shards, at a block's edge where the slack allows one: a cut block costs a decode.

    Trimming, shard k of g slots a step needs at least ``num_steps * g`` rows; padding, at most that and at least the
    rows of all steps but the last.

    Parameters
    ----------
    ends : numpy.ndarray
        An int64 ``[blocks]``: the running total of the rows of the stream's blocks.
    slots : numpy.ndarray
        An int64 ``[shards + 1]``: bounds of the shards' slots in the global batch.
    num_steps : int
        Steps of an epoch.
    tail : {"trim", "pad"}
        What becomes of the rows that fill no global batch.

    Returns
    -------
    numpy.ndarray
        An int64 ``[shards + 1]``: rows of the stream.
    """
    total, batch = int(ends[-1]) if len(ends) else 0, int(slots[-1])
    slack = abs(total - num_steps * batch)
    bounds = [0]
    for start, done in zip(slots[:-2].tolist(), slots[1:-1].tolist(), strict=True):
        need, left = done - start, batch - done
        if tail == "trim":
            low, high = bounds[-1] + num_steps * need, num_steps * done + slack
        else:
            low = max(bounds[-1] + (num_steps - 1) * need, num_steps * done - slack)
            high = min(bounds[-1] + num_steps * need, total - (num_steps - 1) * left)
        want = min(max(round(total * done / batch), low), high)
        edges = ends[np.searchsorted(ends, low) : np.searchsorted(ends, high, side="right")]
        bounds.append(int(edges[np.argmin(np.abs(edges - want))]) if len(edges) else want)
    return np.array([*bounds, total], np.int64)


def even_bounds(parts: int, size: int) -> Integers:
    """Cut a size into nearly equal parts.

    Parameters
    ----------
    parts : int
        How many.
    size : int
        Of all of them.

    Returns
    -------
    numpy.ndarray
        An int64 ``[parts + 1]``.

    Examples
    --------
    >>> even_bounds(3, 10).tolist()
    [0, 4, 7, 10]
    """
    return -(-np.arange(parts + 1) * size // parts)
