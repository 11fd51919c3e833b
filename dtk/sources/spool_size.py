"""What a table would take on disk, told without computing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import dask.dataframe.dask_expr._expr as operations
import numpy as np
import pandas as pd
import pyarrow as pa
from dask.dataframe.dask_expr._collection import new_collection
from dask.dataframe.dask_expr.io import FromPandas
from dask.dataframe.dask_expr.io.parquet import ReadParquet

from dtk.errors import SourceError
from dtk.memory import format_nbytes
from dtk.sources.dask_read import Read
from dtk.sources.expression import ExpressionSource, source_of_frame
from dtk.sources.rowwise import refusal
from dtk.sources.schema import arrow_type, row_nbytes

__all__ = ["decoded_nbytes", "encoded_nbytes", "spool_remedy"]

_SAMPLED_CHUNKS: Final = 3
_SAMPLED_ROWS: Final = 100_000


def spool_remedy(expr: Any) -> str:
    """Say how to make a table that ranks can read of one that they cannot.

    Parameters
    ----------
    expr : Expr
        Of a Dask DataFrame. Only footers of files are looked at.

    Returns
    -------
    str
        The end of an error's message, with the bytes that it takes where they can be told.
    """
    nbytes = decoded_nbytes(expr)
    size = f" (about {format_nbytes(nbytes)} before compression)" if nbytes else ""
    return f"write it once with dtk.spool(data, path){size} and use what that returns"


def decoded_nbytes(expr: Any) -> int | None:
    """Estimate the bytes in memory of a table from metadata.

    Parameters
    ----------
    expr : Expr
        Of a Dask DataFrame.

    Returns
    -------
    int or None
        As many rows as the biggest of its reads has; None where these are of unknown rows.
    """
    rows = [_rows_of(leaf) for leaf in expr.walk() if isinstance(leaf, (ReadParquet, FromPandas))]
    known = [number for number in rows if number is not None]
    return int(max(known) * row_nbytes(_schema(expr._meta))) if known else None


def encoded_nbytes(expr: Any, encode: Callable[[pa.Table], int]) -> int | None:
    """Estimate the bytes on disk of a table from a few chunks of what it is read from.

    Parameters
    ----------
    expr : Expr
        Of a Dask DataFrame.
    encode : callable
        ``encode(table) -> bytes``.

    Returns
    -------
    int or None
        None where nothing tells.
    """
    wanted = _schema(expr._meta)
    num_rows = 0.0
    widths: dict[str, float] = {}
    for rows, sample in _samples(expr, set()):
        num_rows = max(num_rows, rows)
        for name in set(sample.column_names) & set(wanted.names) - set(widths):
            widths[name] = encode(sample.select([name])) / max(1, sample.num_rows)
    if not widths:
        return decoded_nbytes(expr)
    others = [wanted.field(name) for name in wanted.names if name not in widths]
    of_row = sum(widths.values()) + (row_nbytes(pa.schema(others)) if others else 0)
    return int(num_rows * of_row)


def _samples(expr: Any, seen: set[str]) -> Iterator[tuple[float, pa.Table]]:
    """Yield, of each part of an expression that can be read chunk by chunk, the rows in all, and some of them."""
    if expr._name in seen:  # derived columns have the same frame below them many times
        return
    seen.add(expr._name)
    if isinstance(expr, FromPandas):
        rows = len(expr.frame)
        head = expr.frame.iloc[:_SAMPLED_ROWS]
        yield rows, _table(head)
        return
    if expr.ndim == 2 and refusal(expr) is None:
        try:
            yield _sample_of_source(source_of_frame(new_collection(expr)))
            return
        except SourceError:
            pass  # what it is made of may still be read
    below = [node for node in expr.dependencies() if not isinstance(node, operations._DelayedExpr)]
    for node in below:
        yield from _samples(node, seen)
    if not below and expr.ndim == 2 and not isinstance(expr, ReadParquet):
        part = new_collection(expr).partitions[0].compute()
        yield len(part) * expr.npartitions, _table(part.iloc[:_SAMPLED_ROWS])


def _sample_of_source(source: Any) -> tuple[float, pa.Table]:
    chunks = np.unique(np.linspace(0, source.num_chunks - 1, _SAMPLED_CHUNKS).astype(np.int64)).tolist()
    tables = [source.read(chunk) for chunk in chunks if source.num_chunks]
    sample = pa.concat_tables(tables) if tables else source.schema.empty_table()
    if source.chunk_rows is not None:
        return float(np.sum(source.chunk_rows)), sample
    assert isinstance(source, ExpressionSource)
    share = sample.num_rows / max(1, int(source.stored_rows[chunks].sum()))
    return float(source.stored_rows.sum()) * share, sample


def _rows_of(leaf: Any) -> int | None:
    if isinstance(leaf, FromPandas):
        return len(leaf.frame)
    try:
        return int(Read(leaf).source(list(leaf.columns))[0].chunk_rows.sum())
    except SourceError:
        return None


def _schema(meta: Any) -> pa.Schema:
    frame = meta.to_frame() if meta.ndim == 1 else meta
    return pa.schema([(str(name), arrow_type(column)) for name, column in frame.items()])


def _table(frame: pd.DataFrame) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError):  # values of several types; the work itself will say which
        return pa.table({})
