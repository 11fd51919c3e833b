"""One pass over data of any size: a state filled chunk by chunk on the cluster, and merged as a tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa

from dtk.runtime import current_client, delayed_reduce, map_reduce

if TYPE_CHECKING:
    import pandas as pd

    from dtk.sources import Source

__all__ = ["ScanState", "groups_wanted", "scan"]

_GROUPS_PER_THREAD = 4  # so that a slow group leaves the others something to do
_SLICE_ROWS = 2**20


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
    Row numbers run from 0 where metadata tells the number of rows in each chunk. After row filters, and for partitions
    that have to be computed, they are ``chunk << 40`` plus the row in the chunk: unique, but different for another
    chunking.

    Examples
    --------
    >>> class Rows:
    ...     count = 0
    ...     def update(self, table, first_row):
    ...         self.count += table.num_rows
    ...     def merge(self, other):
    ...         self.count += other.count
    >>> scan({"x": np.arange(5)}, Rows).count
    5
    """
    # late: sources need pandas and Dask, the statistics themselves do not
    from dtk.sources import Source, TableSource, chunk_groups
    from dtk.sources.columns import checked_columns
    from dtk.sources.row_numbers import first_rows

    source = _readable(data, columns)
    if not isinstance(source, Source):
        return _scan_partitions(source, make, label=label, progress=progress)
    names = checked_columns(columns, source.schema.names)
    if isinstance(source, TableSource):
        return _scan_table(source.table.select(names), make)
    groups = chunk_groups(source, groups_wanted())
    if not groups:
        schema = pa.schema([source.schema.field(name) for name in names])
        return _scan_table(schema.empty_table(), make)
    shared = (source, make, names, first_rows(source))
    state: State = map_reduce(_scan_group, partial(_merge, make), groups, shared=shared, label=label, progress=progress)
    return state


def _readable(data: Any, columns: Sequence[str] | None) -> Any:
    """Return a source, or a Dask DataFrame that must be computed; of a frame only the columns that are needed."""
    import dask.dataframe as dd

    from dtk.sources import Source, as_source, readable
    from dtk.sources.columns import checked_columns

    if isinstance(data, dd.DataFrame):
        return readable(data if columns is None else data[checked_columns(columns, list(data.columns))])
    return as_source(data, columns=None if isinstance(data, Source) else columns)


def _scan_table(table: pa.Table, make: Callable[[], State]) -> State:
    state = make()
    for start in range(0, max(table.num_rows, 1), _SLICE_ROWS):
        state.update(table.slice(start, _SLICE_ROWS), start)
    return state


def _scan_partitions(frame: Any, make: Callable[[], State], *, label: str, progress: bool) -> State:
    from dask.delayed import delayed

    # optimised first: fusing reads changes how many partitions there are, and so their numbers
    parts = frame.optimize().to_delayed()
    numbered = [delayed(_number, pure=False)(number, part) for number, part in enumerate(parts)]
    merge = partial(_merge, make)
    state: State = delayed_reduce(partial(_scan_frame, make), merge, numbered, label=label, progress=progress)
    return state


def _number(number: int, frame: pd.DataFrame) -> tuple[int, pd.DataFrame]:
    return number, frame


def _scan_frame(make: Callable[[], State], numbered: tuple[int, pd.DataFrame]) -> State:
    from dtk.sources import TableSource, as_source
    from dtk.sources.row_numbers import ROW_BITS

    number, frame = numbered
    source = as_source(frame)
    assert isinstance(source, TableSource)
    state = make()
    state.update(source.table, number << ROW_BITS)
    return state


def _scan_group(shared: tuple[Source, Callable[[], State], list[str], np.ndarray], group: tuple[int, int]) -> State:
    source, make, names, first_rows = shared
    state = make()
    for chunk in range(*group):
        state.update(source.read(chunk, names), int(first_rows[chunk]))
    pa.default_memory_pool().release_unused()  # what chunks leave free between what is held grows with their number
    return state


def _merge(make: Callable[[], State], states: list[State]) -> State:
    """Merge into a fresh state: the parts belong to Dask, which may merge them again after a worker is lost."""
    merged = make()
    for state in states:
        merged.merge(state)
    return merged


def groups_wanted() -> int:
    """Return how many groups of chunks keep the cluster, or this machine, busy.

    Returns
    -------
    int
        A few for each thread.
    """
    from dask.system import CPU_COUNT

    client = current_client()
    return _GROUPS_PER_THREAD * (max(1, sum(client.nthreads().values())) if client is not None else CPU_COUNT)
