"""SQL over tables of any size: in parts on the cluster where that can be, else whole on one worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dtk.analytics.sql.binding import Bound, bind
from dtk.analytics.sql.catalog import Catalog
from dtk.analytics.sql.planning import BROADCAST_NBYTES, QueryPlan, plan_query
from dtk.analytics.sql.running import lazy_frame
from dtk.analytics.sql.sandbox import Limits
from dtk.analytics.sql.statement import read_statement
from dtk.errors import ArgumentError
from dtk.memory import format_nbytes, parse_nbytes

if TYPE_CHECKING:
    import dask.dataframe as dd

__all__ = ["explain", "sql"]


def sql(
    query: str,
    /,
    *,
    catalog: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    broadcast: int | str = BROADCAST_NBYTES,
    memory: int | str | None = None,
    spill: str | os.PathLike[str] | None = None,
    **tables: Any,
) -> dd.DataFrame:
    """Ask tables of any size a question in SQL.

    Queries of one table, and joins of it with tables small enough to be sent to every task, run in parts: DuckDB reads
    each group of chunks in a task, filters and aggregates it, and the parts are merged as a tree. Any other query runs
    whole in DuckDB within one task, which spills to its worker's disk. ``EXPLAIN`` before the query says which and why.
    Nothing is read before the answer is computed, and nothing but the answer comes to the client.

    Parameters
    ----------
    query : str
        One SELECT in DuckDB's dialect, or EXPLAIN and one SELECT.
    catalog : str, path or mapping, optional
        A YAML file of external tables, or more tables by name: any text can be a name there.
    broadcast : int or str
        The bytes that tables may take together to be sent to every task, such as ``"128 MiB"``.
    memory : int or str, optional
        What DuckDB may hold in a task; a fraction of the worker's memory by default. What is more is spilled.
    spill : str or path, optional
        The directory on the worker to spill to; the worker's own by default.
    **tables : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, mapping of arrays, Source, str or path
        The tables by the names that the query uses. A path leads to Parquet, with ``key=value`` directories or
        without, or to CSV. They go before those of the catalog.

    Returns
    -------
    dask.dataframe.DataFrame
        Lazy, of known types. One partition, in the order that the query asks for; where it only selects rows, one for
        each group of chunks, in the table's order. For EXPLAIN, the steps and what they do.

    Raises
    ------
    ArgumentError
        If the query is wrong or is no SELECT, or a table, column or function is not there; the error shows the place.
    DataError
        If files are missing or damaged.
    SourceError
        If something given is no table.

    Notes
    -----
    Whole numbers and booleans have pandas' types that hold missing values, dates and decimals Arrow's. Sums of whole
    numbers are 64 bits wide, and refused beyond that.

    Examples
    --------
    >>> import pandas as pd
    >>> flights = pd.DataFrame({"carrier": ["UA", "UA", "DL"], "delay": [5.0, 7.0, 1.0]})
    >>> sql("SELECT carrier, avg(delay) AS mean FROM flights GROUP BY carrier ORDER BY 1", flights=flights).compute()
      carrier  mean
    0      DL   1.0
    1      UA   6.0
    """
    if not isinstance(query, str):
        raise ArgumentError(f"query={type(query).__name__} is no text; give a SELECT")
    limits = Limits(
        None if memory is None else parse_nbytes(memory),
        None if spill is None else os.path.abspath(os.path.expanduser(spill)),
    )
    statement = read_statement(query)
    plan = plan_query(
        bind(statement, Catalog(catalog, tables)), broadcast_nbytes=parse_nbytes(broadcast, name="broadcast")
    )
    return _explained(plan) if statement.is_explain else lazy_frame(plan, limits)


def explain(plan: QueryPlan) -> list[tuple[str, str]]:
    """Tell what a plan does.

    Parameters
    ----------
    plan : QueryPlan
        The plan.

    Returns
    -------
    list of (str, str)
        Steps, and what they do.
    """
    steps = [("way", plan.way), ("why", plan.why)]
    steps += [(f"table {name}", _table(plan.bound, name)) for name in plan.bound.tables]
    if plan.way == "whole":
        steps.append(("run", "the query as it is, in one task, which reads the tables"))
    for stage in plan.stages:
        what = "each partition is an answer's" if stage.merge is None else "each group of chunks"
        steps.append((f"scan {stage.table}", f"{what}: {stage.scan}"))
        if stage.merge is not None:
            steps.append(("merge", f"8 parts to one, as a tree: {stage.merge}"))
    if plan.finish is not None:
        steps.append(("finish", plan.finish))
    return steps


def _table(bound: Bound, name: str) -> str:
    nbytes = bound.nbytes(name)
    size = "of unknown size" if nbytes is None else f"about {format_nbytes(nbytes)} in memory"
    columns = bound.columns[name]
    shown = ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")
    return f"{bound.tables[name].describe()}; reads {shown}, {size}"


def _explained(plan: QueryPlan) -> dd.DataFrame:
    import dask.dataframe as dd
    import pandas as pd

    frame = pd.DataFrame(explain(plan), columns=["step", "what"])
    found: dd.DataFrame = dd.from_pandas(frame, npartitions=1)
    return found
