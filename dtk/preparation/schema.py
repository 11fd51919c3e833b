"""Arrays as tables, whose columns have only a position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError, DataError

__all__ = ["positional_names", "table_of_array"]


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
    DataError
        If objects in a column are of several types.

    Examples
    --------
    >>> table_of_array(np.zeros((3, 2))).column_names
    ['x0', 'x1']
    """
    if array.ndim != 2:
        raise ArgumentError(
            f"data has {array.ndim} dimensions; give an array of rows and columns, e.g. x.reshape(-1, 1)"
        )
    names = positional_names(array.shape[1])
    columns = {}
    for position, name in enumerate(names):
        try:
            columns[name] = pa.array(np.ascontiguousarray(array[:, position]))
        except (pa.ArrowException, TypeError) as error:
            raise DataError(f"column {name!r} of the array cannot become one of a table: {error}") from error
    return pa.table(columns)


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
