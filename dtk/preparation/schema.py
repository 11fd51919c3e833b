"""The columns of data of any kind, without reading it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError, SourceError
from dtk.sources import as_source

__all__ = ["positional_names", "schema_of", "table_of_array"]


def schema_of(data: Any) -> pa.Schema:
    """Return the names and types of the columns of data.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str or Source
        Only metadata is read.

    Returns
    -------
    pyarrow.Schema
        For a Dask DataFrame that is no plain read, as its meta tells it.

    Raises
    ------
    SourceError
        If this is no table.
    """
    try:
        return as_source(data).schema
    except SourceError:
        if not hasattr(data, "_meta_nonempty"):
            raise
        return pa.Schema.from_pandas(data._meta_nonempty, preserve_index=False)


def table_of_array(array: np.ndarray[Any, Any]) -> pa.Table:
    """Turn an array into a table whose columns are named by their position.

    Parameters
    ----------
    array : numpy.ndarray
        Shape [rows, columns].

    Returns
    -------
    pyarrow.Table
        With columns ``x0``, ``x1``, ...; NaN stays NaN.

    Raises
    ------
    ArgumentError
        If the array has not two dimensions.

    Examples
    --------
    >>> table_of_array(np.zeros((3, 2))).column_names
    ['x0', 'x1']
    """
    if array.ndim != 2:
        raise ArgumentError(
            f"data has {array.ndim} dimensions; give an array of rows and columns, e.g. x.reshape(-1, 1)"
        )
    columns = [pa.array(np.ascontiguousarray(array[:, position])) for position in range(array.shape[1])]
    return pa.table(columns, names=positional_names(array.shape[1]))


def positional_names(num_columns: int) -> Sequence[str]:
    """Name columns that have only a position.

    Parameters
    ----------
    num_columns : int
        How many.

    Returns
    -------
    list of str
        ``x0``, ``x1``, ...
    """
    return [f"x{position}" for position in range(num_columns)]
