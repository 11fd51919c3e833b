"""One pass over data of any size: a state filled chunk by chunk on the cluster, and merged as a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import pyarrow as pa

from dtk.statistics.map_reduce import groups_wanted, map_reduce

__all__ = ["ScanState", "groups_wanted", "scan"]


class ScanState(Protocol):
    """What a scan fills: picklable, and empty when made."""

    def update(self, table: pa.Table, first_row: int) -> None:
        """Take in one chunk.

        Parameters
        ----------
        table : pyarrow.Table
            Some rows of the data; there may be none.
        first_row : int
            The number of its first row in the whole data.
        """

    def merge(self, other: Self) -> None:
        """Take in what another state has seen, and leave the other as it is.

        Parameters
        ----------
        other : ScanState
            Of other rows.
        """


State = TypeVar("State", bound=ScanState)


def scan(
    data: Any,
    make: Callable[[], State],
    *,
    columns: Sequence[str] | None = None,
    progress: bool = False,
    label: str = "scan",
) -> State:
    """Read data once, and summarise it.

    Data in memory is read in this process. A source is read in place, in groups of chunks, on the current Dask client
    or on local threads. Any other Dask DataFrame is computed partition by partition.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str or Source
        What to read.
    make : callable
        ``make() -> ScanState``, picklable, for example ``functools.partial(State, option)``.
    columns : sequence of str, optional
        The columns to read; all by default.
    progress : bool
        Whether to show a progress bar.
    label : str
        Name of the tasks on the dashboard and of the progress bar.

    Returns
    -------
    ScanState
        Updated at least once: with an empty table where the data has no rows.

    Raises
    ------
    ArgumentError
        If a column is asked for that the data has not.
    SourceError
        If `data` is no table.
    DataError
        If a column mixes types, or files are missing or damaged.

    Notes
    -----
    Row numbers run from 0 where the number of rows in each chunk is known. After row filters, and for partitions that
    have to be computed, they are ``chunk << 40`` plus the row in the chunk: unique, but different for another chunking.

    Examples
    --------
    >>> class Rows:
    ...     count = 0
    ...     def update(self, table, first_row):
    ...         self.count += table.num_rows
    ...     def merge(self, other):
    ...         self.count += other.count
    >>> scan({"x": list(range(5))}, Rows).count
    5
    """
    call, merge = partial(_fill, make), partial(_merge, make)
    state: State = map_reduce(data, call, merge, columns=columns, numbered=True, progress=progress, label=label)
    return state


def _fill(make: Callable[[], State], chunks: Iterator[tuple[pa.Table, int]]) -> State:
    state = make()
    for table, first_row in chunks:
        state.update(table, first_row)
    return state


def _merge(make: Callable[[], State], states: list[State]) -> State:
    """Merge into a fresh state: the parts belong to Dask, which may merge them again after a worker is lost."""
    merged = make()
    for state in states:
        merged.merge(state)
    return merged
