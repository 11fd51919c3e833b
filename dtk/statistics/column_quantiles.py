"""Quantiles of the columns of a table: by a sample, by a sketch, or exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.statistics.exact import exact_quantiles
from dtk.statistics.quantiles import checked_shares
from dtk.statistics.scan import scan
from dtk.statistics.sketch import QuantileSketch
from dtk.statistics.table_sample import TableSample

__all__ = ["ColumnQuantiles", "QuantileMethod", "quantiles"]

QuantileMethod = Literal["sample", "sketch", "exact"]


@dataclass(frozen=True)
class ColumnQuantiles:
    """Quantiles, how exact they are, and what they took.

    Parameters
    ----------
    values : dict of str to numpy.ndarray
        By column: float64, of the shape that was asked for; NaN for a column without values.
    rank_error : dict of str to float
        By column: how far a quantile's rank can be off, with 99% confidence, as a share of the values; 0 where exact.
    num_passes : int
        How often the data was read.
    """

    values: dict[str, np.ndarray]
    rank_error: dict[str, float]
    num_passes: int


def quantiles(
    data: Any,
    columns: Sequence[str],
    q: float | Sequence[float] | np.ndarray,
    *,
    method: QuantileMethod = "sample",
    size: int = 1_000_000,
    seed: int = 0,
    progress: bool = False,
) -> ColumnQuantiles:
    """Return quantiles of some columns.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str or Source
        What to read.
    columns : sequence of str
        Columns of numbers, booleans, dates or times.
    q : float or sequence of float
        Shape [quantiles]: between 0 and 1.
    method : str
        ``"sample"``: of `size` rows, the same for any chunking, in one pass. ``"sketch"``: a KLL sketch of each column
        with its default size, in one pass; needs the extra ``sketch``. ``"exact"``: see `exact_quantiles`, in several.
    size : int
        Rows of the sample.
    seed : int
        Of the sample.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    ColumnQuantiles
        Missing values left out.

    Raises
    ------
    ArgumentError
        If a quantile is not between 0 and 1, or there is no such method.
    DataError
        If a column has no meaning as numbers.
    DependencyError
        If a sketch is asked for and datasketches is not installed.

    Examples
    --------
    >>> quantiles({"x": np.arange(101)}, ["x"], [0.25, 0.5]).values["x"].tolist()
    [25.0, 50.0]
    """
    shares = checked_shares(q)
    if method == "exact":
        exact = exact_quantiles(data, columns, q, progress=progress)
        return ColumnQuantiles(exact.values, dict.fromkeys(columns, 0.0), exact.num_passes)
    if method == "sketch":
        sketches = scan(data, partial(_Sketches, list(columns)), columns=columns, progress=progress).sketches
        values = {name: sketch.quantile(shares) for name, sketch in sketches.items()}
        return ColumnQuantiles(values, {name: sketch.rank_error for name, sketch in sketches.items()}, 1)
    if method != "sample":
        raise ArgumentError(f"method={method!r} must be 'sample', 'sketch' or 'exact'")
    from dtk.sources import readable  # late: sources need pandas and Dask

    source = readable(data)
    chunk_rows = getattr(source, "chunk_rows", None)
    total_rows = None if chunk_rows is None else int(np.sum(chunk_rows))
    make = partial(_Sampled, list(columns), size, seed, total_rows)
    sample = scan(source, make, columns=columns, progress=progress).sample
    return ColumnQuantiles(sample.quantile(shares), sample.rank_error, 1)


class _Sampled:
    """A scan's state: the sample of a table."""

    def __init__(self, columns: list[str], size: int, seed: int, total_rows: int | None) -> None:
        self.sample = TableSample(columns, size, seed=seed, total_rows=total_rows)

    def update(self, table: pa.Table, first_row: int) -> None:
        self.sample.update(table, np.arange(first_row, first_row + table.num_rows))

    def merge(self, other: Self) -> None:
        self.sample.merge(other.sample)


class _Sketches:
    """A scan's state: a sketch of each column."""

    def __init__(self, columns: list[str]) -> None:
        self.sketches = {name: QuantileSketch() for name in columns}

    def update(self, table: pa.Table, first_row: int) -> None:
        for name, sketch in self.sketches.items():
            sketch.update(table[name])

    def merge(self, other: Self) -> None:
        for name, sketch in self.sketches.items():
            sketch.merge(other.sketches[name])
