"""One Arrow schema for all chunks of a table, told without reading it."""

from __future__ import annotations

from typing import Any, Final

import dask.dataframe as dd
import dask.dataframe.dask_expr._expr as operations
import pandas as pd
import pyarrow as pa
from dask.dataframe.dask_expr._concat import Concat
from dask.dataframe.dask_expr._merge import Merge
from dask.dataframe.dask_expr._repartition import Repartition
from dask.dataframe.dask_expr._shuffle import BaseSetIndexSortValues, ShuffleBase
from dask.dataframe.dask_expr.io import FromPandas
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from dask.dataframe.utils import has_known_categories

from dtk.errors import DataError, SourceError
from dtk.sources.source import Source, as_source, readable

__all__ = ["arrow_schema", "arrow_type", "row_nbytes", "schema_of", "stored_type", "table_of_frame"]

# Operations that choose, order or join rows, and leave the values of a column that keeps its name as they are.
ROW_MOVING: Final = (
    BaseSetIndexSortValues,
    Concat,
    Merge,
    Repartition,
    ShuffleBase,
    operations.Assign,
    operations.Drop,
    operations.DropnaFrame,
    operations.Filter,
    operations.Head,
    operations.Partitions,
    operations.Projection,
    operations.Query,
    operations.ResetIndex,
    operations.Sample,
    operations.Tail,
)
TEXT_NBYTES: Final = 32  # of a value of a column without a fixed width, as a guess
RENAMING: Final = (operations.AddPrefix, operations.AddSuffix, operations.ColumnsSetter, operations.RenameFrame)


def schema_of(data: Any) -> pa.Schema:
    """Tell the names and types of the columns of data, without reading it.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pa.Table, mapping of arrays, str, path or Source
        A Dask DataFrame may be any: it need not be one that ranks can read.

    Returns
    -------
    pa.Schema
        The source's where there is one. Give what `readable` returned, so that files are looked at once.

    Raises
    ------
    SourceError
        If this is no table.
    DataError
        If files are missing or damaged.

    Examples
    --------
    >>> schema_of({"x": [1, 2], "late": [True, None]})
    x: int64
    late: bool
    """
    source = readable(data)
    if isinstance(source, Source):
        return source.schema
    # What is no source and no Dask DataFrame is refused with the reason.
    return arrow_schema(data) if isinstance(data, dd.DataFrame) else as_source(data).schema


def arrow_schema(frame: pd.DataFrame | dd.DataFrame) -> pa.Schema:
    """Choose the Arrow types that hold a frame's columns, for every partition the same.

    Parameters
    ----------
    frame : pd.DataFrame or dask.dataframe.DataFrame
        Its own type tells all but what its objects are. Those of a pandas frame are looked at; those of a Dask
        DataFrame have the type of the files' column, where they are one, or else that of its source.

    Returns
    -------
    pa.Schema
        Objects of which nothing is known are taken for strings, categories have int32 codes.
    """
    if isinstance(frame, pd.DataFrame):
        return pa.schema([(str(name), arrow_type(frame[name], _type_of_values(frame[name]))) for name in frame.columns])
    meta = frame._meta
    stored = {name: stored_type(frame.expr, name) for name in meta.columns}
    unknown = [name for name in meta.columns if meta[name].dtype == object and stored[name] is None]
    if unknown:
        try:
            found = as_source(frame, columns=unknown).schema
        except SourceError:
            found = pa.schema([])
        stored |= {name: found.field(name).type for name in found.names}
    return pa.schema([(str(name), arrow_type(meta[name], stored[name])) for name in meta.columns])


def arrow_type(column: pd.Series[Any], stored: pa.DataType | None = None) -> pa.DataType:
    """Choose the Arrow type of a column.

    Parameters
    ----------
    column : pd.Series
        Only its type counts.
    stored : pa.DataType, optional
        What is known of the objects, or of the categories, that it holds.

    Returns
    -------
    pa.DataType
        The same for every chunk.

    Raises
    ------
    DataError
        If Arrow has none.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        if has_known_categories(column) and len(column.cat.categories):
            values = pa.array(column.cat.categories, from_pandas=True).type
        else:
            values = stored.value_type if stored is not None and pa.types.is_dictionary(stored) else pa.string()
        return pa.dictionary(pa.int32(), pa.string() if pa.types.is_large_string(values) else values)
    if column.dtype == object:
        found = stored if stored is not None and not pa.types.is_null(stored) else pa.string()
    else:
        try:
            found = pa.Schema.from_pandas(column.iloc[:0].to_frame(), preserve_index=False).field(0).type
        except pa.ArrowException as error:
            raise DataError(
                f"column {column.name!r} holds {column.dtype}, which Arrow and Parquet have no type for;"
                " give it another with astype, or leave it out"
            ) from error
    return pa.string() if pa.types.is_large_string(found) else found


def row_nbytes(schema: pa.Schema) -> float:
    """Estimate what a row takes in a pandas frame.

    Parameters
    ----------
    schema : pa.Schema
        Its columns.

    Returns
    -------
    float
        Bytes, with a guess for values without a fixed width.

    Examples
    --------
    >>> row_nbytes(pa.schema({"x": pa.float32(), "name": pa.string()}))
    36.0
    """
    return sum(TEXT_NBYTES if _is_variable(kind) else kind.bit_width / 8 for kind in schema.types) or 1.0


def _is_variable(kind: pa.DataType) -> bool:
    try:
        return not kind.bit_width
    except ValueError:
        return True


def stored_type(expr: Any, name: str) -> pa.DataType | None:
    """Follow a column of a Dask expression down to the file, or the frame in memory, that holds its values unchanged.

    Parameters
    ----------
    expr : Expr
        Of a DataFrame.
    name : str
        The column.

    Returns
    -------
    pa.DataType or None
        What is stored there; None where an operation may have changed the values.
    """
    frames = expr.dependencies()
    if isinstance(expr, ReadParquet):
        schema: pa.Schema = expr._dataset_info["schema"]
        return schema.field(name).type if name in schema.names else None
    if isinstance(expr, FromPandas):
        return _type_of_values(expr.frame.loc[:, name]) if name in expr.frame.columns else None
    if isinstance(expr, RENAMING):
        return stored_type(expr.frame, expr.frame.columns[list(expr.columns).index(name)])
    if not isinstance(expr, ROW_MOVING) or (isinstance(expr, operations.Assign) and name in expr.keys):
        return None
    suffixes = expr.suffixes if isinstance(expr, Merge) else ("",) * len(frames)
    found = set()
    for below, suffix in zip(frames, suffixes, strict=False):
        if below.ndim == 2:  # else it is a condition that chooses rows
            of_below = name if name in below.columns else name.removesuffix(suffix or "")
            found |= {stored_type(below, of_below)} if of_below in below.columns else set()
    return found.pop() if len(found) == 1 else None


def table_of_frame(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Turn a chunk's frame into a table of the types that all chunks have.

    Parameters
    ----------
    frame : pd.DataFrame
        Its index is left out.
    schema : pa.Schema
        Names and types.

    Returns
    -------
    pa.Table
        Without metadata.

    Raises
    ------
    pa.ArrowException, TypeError, KeyError
        If a column is not there, or its values are of another type: numbers and bytes are no strings.
    """
    for field in schema:
        if pa.types.is_string(field.type) and frame[field.name].dtype.name not in ("str", "string", "category"):
            found = pa.array(frame[field.name], from_pandas=True)
            texts = pa.types.is_string(found.type) or pa.types.is_large_string(found.type)
            if not texts and found.null_count < len(found):
                raise TypeError(f"column {field.name!r} is taken for strings but holds {found.type}")
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False, nthreads=1).replace_schema_metadata()


def _type_of_values(column: pd.Series[Any]) -> pa.DataType | None:
    """Look at objects; None for columns of other types, and for values of several types."""
    if column.dtype != object:
        return None
    try:
        return pa.array(column, from_pandas=True).type
    except (pa.ArrowException, TypeError):
        return None
