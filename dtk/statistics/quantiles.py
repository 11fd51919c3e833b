"""Quantiles by order statistics, interpolated as NumPy does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dtk.errors import ArgumentError

__all__ = ["checked_shares", "interpolate", "narrow", "neighbour_ranks", "select_quantiles"]

_PROBE = 8_192
_MAX_SELECTED = 8  # beyond that, partitioning once is faster than looking for each
_DEVIATIONS = 6.0


def checked_shares(q: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Check what quantiles are asked for.

    Parameters
    ----------
    q : float or sequence of float
        Between 0 and 1.

    Returns
    -------
    numpy.ndarray
        float64, of the same shape.

    Raises
    ------
    ArgumentError
        If one is not between 0 and 1.
    """
    wanted = np.asarray(q, np.float64)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ArgumentError(f"q={q!r} must lie between 0 and 1")
    return wanted


def neighbour_ranks(q: np.ndarray, num_values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say between which values in order quantiles lie.

    Parameters
    ----------
    q : numpy.ndarray
        float64 [quantiles].
    num_values : int
        Of how many values; at least 1.

    Returns
    -------
    tuple of numpy.ndarray
        int64 ranks from 0 of the values below and above, and how far the quantile is from the one to the other.
    """
    position = (num_values - 1) * q
    below = np.floor(position)
    ranks = below.astype(np.int64)
    return ranks, np.minimum(ranks + 1, num_values - 1), position - below


def interpolate(below: np.ndarray, above: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate linearly, from the nearer side as NumPy does: equal to `numpy.quantile` to the last bit.

    Parameters
    ----------
    below, above : numpy.ndarray
        float64 [quantiles].
    weight : numpy.ndarray
        float64 [quantiles]: of `above`, from 0 to 1.

    Returns
    -------
    numpy.ndarray
        float64 [quantiles].
    """
    with np.errstate(invalid="ignore", over="ignore"):  # between infinite or huge values
        step = above - below
        return np.asarray(np.where(weight >= 0.5, above - step * (1 - weight), below + step * weight))


def narrow(
    rank: int, total: int, sample: np.ndarray, bracket: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float]:
    """Say from a sample between which two values the one of a rank lies, almost surely: by six standard deviations.

    Parameters
    ----------
    rank : int
        From 0, among those that are sampled.
    total : int
        How many are sampled.
    sample : numpy.ndarray
        float64 [sampled values], sorted.
    bracket : tuple of float
        What is known already.

    Returns
    -------
    tuple of float
        Both included.

    Examples
    --------
    >>> narrow(5_000, 10_000, np.arange(0.0, 10_000, 10))
    (3870.0, 6130.0)
    """
    share = (rank + 0.5) / total
    place = share * len(sample)
    spread = _DEVIATIONS * math.sqrt(place * (1 - share)) + _DEVIATIONS**2 / 2
    low, high = math.floor(place - spread), math.ceil(place + spread)
    return (
        float(sample[low]) if low >= 0 else bracket[0],
        float(sample[high]) if high < len(sample) else bracket[1],
    )


def select_quantiles(numbers: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return quantiles of numbers in memory, missing ones left out.

    Parameters
    ----------
    numbers : numpy.ndarray
        float64 or float32 [values]; NaN where missing.
    q : numpy.ndarray
        float64: between 0 and 1.

    Returns
    -------
    numpy.ndarray
        float64, of the shape of `q`; equal to `numpy.quantile` of the present values; NaN without any.
    """
    missing = np.isnan(numbers)
    present = numbers[~missing] if missing.any() else numbers
    if not len(present):
        return np.full(q.shape, np.nan)
    below, above, weight = neighbour_ranks(q.ravel(), len(present))
    ranks = np.unique(np.concatenate([below, above]))
    values = _order_statistics(present, ranks)
    low, high = (values[np.searchsorted(ranks, side)].astype(np.float64) for side in (below, above))
    return interpolate(low, high, weight).reshape(q.shape)


def _order_statistics(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the values of some ranks: few of many by counting around a bracket (Floyd and Rivest 1975)."""
    if len(values) < 16 * _PROBE or len(ranks) > 2 * _MAX_SELECTED:
        return np.asarray(np.partition(values, ranks)[ranks])
    probe = np.sort(values[:: len(values) // _PROBE])
    found = np.empty(len(ranks), values.dtype)
    start = 0
    while start < len(ranks):
        low, high = narrow(int(ranks[start]), len(values), probe)
        num_below = np.count_nonzero(values < low)
        inside = values[(values >= low) & (values <= high)]
        stop = int(np.searchsorted(ranks, num_below + len(inside)))
        if ranks[start] < num_below or stop == start:  # the probe was not like the rest
            return np.asarray(np.partition(values, ranks)[ranks])
        places = ranks[start:stop] - num_below
        found[start:stop] = np.partition(inside, places)[places]
        start = stop
    return found
