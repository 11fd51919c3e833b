"""Map and reduce over the chunks of data of any size, with parts merged as a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pyarrow as pa

from dtk.runtime import current_client, delayed_reduce
from dtk.runtime import map_reduce as reduce_pieces

if TYPE_CHECKING:
    import pandas as pd

    from dtk.sources import Source

__all__ = ["groups_wanted", "map_reduce"]

_GROUPS_PER_THREAD: Final = 4  # so that a slow group leaves the others something to do
_ROW_BITS: Final = 40  # rows of a chunk or partition, where row numbers are not known
_SLICE_ROWS: Final = 2**20

Part = TypeVar("Part")


def map_reduce(
    data: Any,
    map: Callable[[Iterator[Any]], Part],
    merge: Callable[[list[Part]], Part],
    finish: Callable[[Part], Any] | None = None,
    *,
    columns: Sequence[str] | None = None,
    numbered: bool = False,
    progress: bool = False,
    label: str = "map-reduce",
) -> Any:
    """Apply a function to all chunks of a table, and merge what it returns as a tree.

    This is what dtk's own statistics are computed by. Data in memory is read in this process. A source is read in
    place, in groups of chunks, on the current Dask client or on local threads. Any other Dask DataFrame is computed
    partition by partition.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str or Source
        What to read.
    map : callable
        ``map(tables) -> part``: called for each group of chunks with an iterator over their rows as `pyarrow.Table`, a
        chunk at a time. Called at least once: with an empty table where the data has no rows.
    merge : callable
        ``merge(parts) -> part`` for a list of at most 8 parts, in the order of the data. It leaves the parts as they
        are: Dask may merge them again after a worker is lost.
    finish : callable, optional
        ``finish(part) -> result``, called once, in this process.
    columns : sequence of str, optional
        The columns to read; all by default.
    numbered : bool
        Whether the iterator gives pairs of a table and the number of its first row in the data.
    progress : bool
        Whether to show a progress bar.
    label : str
        Name of the tasks on the dashboard and of the progress bar.

    Returns
    -------
    object
        What `finish` returns, or the merged part.

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
    >>> from collections import Counter
    >>> def count(tables):
    ...     return Counter(word for table in tables for text in table["line"].to_pylist() for word in text.split())
    >>> lines = {"line": ["to be or", "not to be"]}
    >>> map_reduce(lines, map=count, merge=lambda parts: sum(parts, Counter())).most_common(1)
    [('to', 2)]
    """
    # late: sources need pandas and Dask, the statistics themselves do not
    from dtk.sources import Source, TableSource, chunk_groups
    from dtk.sources.columns import checked_columns

    source = _readable(data, columns)
    call = map if numbered else partial(_unnumbered, map)
    if not isinstance(source, Source):
        part = _map_partitions(source, call, merge, label=label, progress=progress)
        return part if finish is None else finish(part)
    names = checked_columns(columns, source.schema.names)
    groups = chunk_groups(source, groups_wanted())
    if isinstance(source, TableSource):
        part = call(_slices(source.table.select(names)))
    elif not groups:
        schema = pa.schema([source.schema.field(name) for name in names])
        part = call(_slices(schema.empty_table()))
    else:
        shared = (source, call, names, _first_rows(source))
        part = reduce_pieces(_map_group, merge, groups, shared=shared, label=label, progress=progress)
    return part if finish is None else finish(part)


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


def _unnumbered(call: Callable[[Iterator[pa.Table]], Part], numbered: Iterator[tuple[pa.Table, int]]) -> Part:
    return call(table for table, _ in numbered)


def _readable(data: Any, columns: Sequence[str] | None) -> Any:
    """Return a source, or a Dask DataFrame that must be computed; of a frame only the columns that are needed."""
    import dask.dataframe as dd

    from dtk.sources import Source, as_source, readable
    from dtk.sources.columns import checked_columns

    if isinstance(data, dd.DataFrame):
        return readable(data if columns is None else data[checked_columns(columns, list(data.columns))])
    return as_source(data, columns=None if isinstance(data, Source) else columns)


def _slices(table: pa.Table) -> Iterator[tuple[pa.Table, int]]:
    for start in range(0, max(table.num_rows, 1), _SLICE_ROWS):
        yield table.slice(start, _SLICE_ROWS), start


def _map_partitions(
    frame: Any,
    call: Callable[[Iterator[tuple[pa.Table, int]]], Part],
    merge: Callable[[list[Part]], Part],
    *,
    label: str,
    progress: bool,
) -> Part:
    from dask.delayed import delayed

    # optimised first: fusing reads changes how many partitions there are, and so their numbers
    parts = frame.optimize().to_delayed()
    numbered = [delayed(_number, pure=False)(number, part) for number, part in enumerate(parts)]
    return delayed_reduce(partial(_map_frame, call), merge, numbered, label=label, progress=progress)


def _number(number: int, frame: pd.DataFrame) -> tuple[int, pd.DataFrame]:
    return number, frame


def _map_frame(call: Callable[[Iterator[tuple[pa.Table, int]]], Part], numbered: tuple[int, pd.DataFrame]) -> Part:
    from dtk.sources import TableSource, as_source

    number, frame = numbered
    source = as_source(frame)
    assert isinstance(source, TableSource)
    return call(iter([(source.table, number << _ROW_BITS)]))


def _map_group(shared: tuple[Source, Callable[..., Part], list[str], np.ndarray], group: tuple[int, int]) -> Part:
    source, call, names, first_rows = shared
    return call((source.read(chunk, names), int(first_rows[chunk])) for chunk in range(*group))


def _first_rows(source: Source) -> np.ndarray:
    if source.chunk_rows is None:
        return np.arange(source.num_chunks, dtype=np.int64) << _ROW_BITS
    return np.asarray(np.cumsum(source.chunk_rows) - source.chunk_rows, np.int64)
