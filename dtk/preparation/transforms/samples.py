"""Samples without infinite values, which no fit counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dtk.statistics import RowSample, to_floats

__all__ = ["finite_samples", "finite_values"]


def finite_values(sample: RowSample) -> NDArray[np.float64]:
    """Return the values of a sample that are neither missing nor infinite.

    Parameters
    ----------
    sample : RowSample
        Of one column.

    Returns
    -------
    numpy.ndarray
        float64 [values].
    """
    values: NDArray[np.float64] = to_floats(sample.values)
    return values[np.isfinite(values)]


def finite_samples(samples: Sequence[RowSample]) -> list[RowSample]:
    """Take infinite values for missing ones.

    Parameters
    ----------
    samples : sequence of RowSample
        One a column.

    Returns
    -------
    list of RowSample
        Of the same rows.
    """
    return [each.mapped(_without_infinite) for each in samples]


def _without_infinite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isinf(values), np.nan, values)
