"""Aggregate a table of any size by groups: one call, and a lazy DataFrame."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from typing import cast as cast_type

import numpy as np
import pyarrow as pa

from dtk.analytics.query.compile import Aggregation, compiled, keys_sql
from dtk.analytics.query.engine import opened, run_sql
from dtk.analytics.query.reading import ROW, bind_table
from dtk.analytics.query.run import Data, data_of, lazy_frame
from dtk.arguments import check_whole
from dtk.errors import ArgumentError
from dtk.sources import ExpressionSource, ParquetSource, TableSource

if TYPE_CHECKING:
    import dask.dataframe as dd

    from dtk.analytics.query.times import TimeWindow

__all__ = ["aggregate"]

GROUPS_PER_PARTITION: Final = 1_000_000
_SLICE_ROWS: Final = 65_536
_PARTITION_ROWS: Final = 500_000  # as a guess, where nobody knows how many rows a partition has


def aggregate(
    data: Any,
    by: str | Sequence[str],
    agg: Mapping[str, str | Sequence[str]],
    *,
    where: str | None = None,
    window: TimeWindow | None = None,
    fill: str | float | Mapping[str, Any] | None = None,
    cast: str | Mapping[str, str] | None = None,
    dropna: bool = True,
    approx: float | None = None,
    split_out: int | None = None,
    to: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> dd.DataFrame:
    """Aggregate the rows of each group.

    The data is read in place, in groups of chunks, and never as a whole; DuckDB computes in each task. Answers are
    exact unless `approx` is given. Missing values (null, NaN) are left out, as pandas does.

    Parameters
    ----------
    data : str, path, dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays or Source
        A table. A path may lead to whatever `dtk.open` opens as one.
    by : str or sequence of str
        Columns to group by; ``"date.month"`` for a part of a date (year, quarter, month, week, day, day_of_year,
        day_of_week from Monday as 0, hour, minute, second, date). ``[]`` makes one group of all rows.
    agg : mapping of str to str or sequence of str
        For each column what is asked of it: ``count`` (of values that are there), ``sum``, ``mean``, ``min``, ``max``,
        ``var``, ``std``, ``skew``, ``median``, ``quantile(0.95)``, ``distinct``, ``first``, ``last``, ``mode`` (the
        least of the most frequent), ``top(3)``, ``weighted_mean(other)``, ``corr(other)``, ``histogram(0, 10, 20)``
        (counts between these edges, the last one included). ``{"*": "count"}`` counts rows.
    where : str, optional
        Which rows count: a condition in SQL, for example ``"arr_delay > 15 AND carrier <> 'UA'"``.
    window : TimeWindow, optional
        Windows in time as one more key.
    fill : str, float or mapping, optional
        What goes in place of missing values, of all aggregated columns or by column: ``"mean"`` of the rows that count,
        or a value.
    cast : str or mapping, optional
        The type to aggregate in, after filling, of all aggregated columns or by column: float32, float64, int8 to
        int64, bool or str.
    dropna : bool
        Whether to leave out rows with a missing key; else these are groups, too.
    approx : float, optional
        The error that ``median`` and ``quantile`` may have in rank, as a share of the group, in 99 of 100 cases; and
        the standard error of ``distinct``, as a share of the number. They then take one pass and less memory.
    split_out : int, optional
        Partitions of the result. By default one for every million groups, estimated from a few rows; one where the
        data must be computed first.
    to : str or path, optional
        Compute now, and write: to a CSV file if it ends in ``.csv``, else to a directory of Parquet files.
    overwrite : bool
        Whether to replace what is there.

    Returns
    -------
    dask.dataframe.DataFrame
        A column for each key, in order, and one for each measure, such as ``arr_delay_mean``; rows sorted by the keys
        in each partition. Lazy: nothing is computed but with `to`, and then it is what was written.

    Raises
    ------
    ArgumentError
        If a column is not there, or an argument cannot work.
    SourceError
        If `data` is no table.
    DataError
        If files are missing or damaged; while computing, if values do not fit.
    MemoryLimitError
        While computing, if a group is too large for a worker's memory and disk.

    Notes
    -----
    Variances merge by differences of means (Chan, Golub and LeVeque, 1979). Exact quantiles of a few groups take two
    passes or a few, which narrow down where their ranks lie (Floyd and Rivest, 1975); of many groups, rows are dealt
    out by key.

    Examples
    --------
    >>> sales = {"product": ["tea", "tea", "rye"], "price": [2.0, 4.0, 1.0]}
    >>> aggregate(sales, by="product", agg={"price": ["mean", "max"]}).compute()
      product  price_mean  price_max
    0     rye         1.0        1.0
    1     tea         3.0        4.0
    """
    if split_out is not None:
        check_whole("split_out", split_out, 1)
    path = None if to is None else os.path.abspath(os.path.expanduser(to))
    if path is not None and os.path.lexists(path) and not overwrite:
        raise ArgumentError(f"to={to!r} exists; give another path, or overwrite=True")
    found = data_of(data)
    asked = Aggregation.checked(
        found.schema, by, agg, where=where, window=window, fill=fill, cast=cast, dropna=dropna, approx=approx
    )
    if found.frame is not None:
        found = data_of(found.frame, asked.columns or found.schema.names[:1])
    partitions = split_out or _partitions(found, asked)
    query = compiled(asked, _num_rows(found), is_dealt=partitions > 1)
    never_missing = asked.never_missing(_without_gaps(found))
    frame = lazy_frame(
        found, query, partitions=partitions, never_missing=never_missing, types=asked.types, label="aggregate"
    )
    return frame if path is None else _written(frame, path, overwrite=overwrite)


def _num_rows(data: Data) -> float:
    """Tell how many rows there are, or about how many."""
    if data.source is None:
        return float(_PARTITION_ROWS * data.frame.npartitions)
    if data.source.chunk_rows is not None:
        return float(np.sum(data.source.chunk_rows))
    stored = data.source.stored_rows if isinstance(data.source, ExpressionSource) else np.zeros(1)
    return float(np.sum(stored))


def _without_gaps(data: Data) -> set[str]:
    """List the columns that have a value in every row, as far as that is known without reading."""
    if isinstance(data.source, ParquetSource):
        return set(data.schema.names) - data.source.nullable
    if isinstance(data.source, TableSource):
        return {name for name in data.schema.names if not data.source.table[name].null_count}
    return set()


def _partitions(data: Data, asked: Aggregation) -> int:
    """Choose how many partitions the result has, by an estimate of the number of groups."""
    num_rows = _num_rows(data)
    if data.source is None or not asked.by or num_rows <= GROUPS_PER_PARTITION:
        return 1
    chunks = sorted({0, data.source.num_chunks // 2})
    slices = [_slice(data, chunk, asked.columns) for chunk in chunks]
    first, both = (_count(asked, tables) for tables in (slices[:1], slices))
    groups = _extrapolated(slices[0].num_rows, first, sum(map(len, slices)), both, num_rows)
    return max(1, math.ceil(groups / GROUPS_PER_PARTITION))


def _slice(data: Data, chunk: int, columns: list[str]) -> pa.Table:
    """Read the first rows of a chunk."""
    source = data.source
    if isinstance(source, ParquetSource):
        table = next(source.read_slices(chunk, _SLICE_ROWS, columns), None)
        return source.schema.empty_table().select(columns) if table is None else table
    if isinstance(source, ExpressionSource):
        frame = source.evaluate(chunk, source.program, num_rows=_SLICE_ROWS)
        return pa.Table.from_pandas(frame[columns], preserve_index=False)
    assert source is not None
    return source.read(chunk, columns)


def _count(asked: Aggregation, tables: list[pa.Table]) -> int:
    """Count the groups of some rows."""
    table = pa.concat_tables(tables, promote_options="permissive")
    with opened() as connection:
        bind_table(connection, table.append_column(ROW, pa.array(np.arange(table.num_rows))))
        keys = keys_sql(asked)
        return int(run_sql(connection, f"SELECT count(*) AS n FROM (SELECT DISTINCT * FROM ({keys}))")["n"][0].as_py())


def _extrapolated(rows: int, groups: int, rows_of_both: int, groups_of_both: int, num_rows: float) -> float:
    """Estimate the groups of all rows from those of some, and from how many more there are in as many other rows."""
    if not rows or not groups:
        return 0.0
    estimate = _drawn_from(groups, rows, num_rows)
    expected = estimate * -math.expm1(-rows_of_both / estimate)
    if groups_of_both > 1.1 * expected:  # each part of the data has groups of its own
        return min(num_rows, groups_of_both / rows_of_both * num_rows)
    return _drawn_from(groups_of_both, rows_of_both, num_rows)


def _drawn_from(distinct: int, drawn: int, most: float) -> float:
    """Estimate how many equally likely things there are, of which some draws show so many distinct ones."""
    low, high = float(distinct), max(most, float(distinct))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if -middle * math.expm1(-drawn / middle) < distinct else (low, middle)
    return high


def _written(frame: dd.DataFrame, path: str, *, overwrite: bool) -> dd.DataFrame:
    """Write the result, and open what was written."""
    from dtk.sources import open as open_data
    from dtk.sources import write_parquet

    if not path.lower().endswith(".csv"):
        path = write_parquet(frame, path, overwrite=overwrite)
        return cast_type("dd.DataFrame", open_data(path))
    from dtk.sources.publishing import written_whole

    with written_whole(path) as temporary:
        frame.to_csv(temporary, single_file=True, index=False)
    return cast_type("dd.DataFrame", open_data(path))
