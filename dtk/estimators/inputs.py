"""Data of any kind as one table that holds its target and weight, under names that do not clash."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError
from dtk.loader import Loader
from dtk.sources import TableSource, as_source
from dtk.sources import open as open_data

__all__ = [
    "TARGET",
    "WEIGHT",
    "Labelled",
    "arrow_table",
    "checked_name",
    "column_names",
    "is_in_memory",
    "is_table",
    "new_name",
    "opened",
    "refuse_loader",
    "take_labels",
    "with_column",
]

TARGET: Final = "y"
WEIGHT: Final = "sample_weight"


@dataclass(frozen=True)
class Labelled:
    """A table with the names of its columns for target and weight.

    Parameters
    ----------
    data : dask.dataframe.DataFrame or pyarrow.Table
        The rows.
    target : str
        A column of it.
    weight : str, optional
        Another column of it.
    """

    data: Any
    target: str
    weight: str | None = None


def is_table(X: Any) -> bool:
    """Tell what has named columns of its own, and is not for scikit-learn's checks to look into.

    Parameters
    ----------
    X : object
        What an estimator was given.

    Returns
    -------
    bool
        True for paths, Dask collections, xarray, Arrow tables and mappings; False for arrays and pandas.
    """
    if hasattr(X, "tocsr"):  # scikit-learn's to refuse; some sparse matrices are mappings, too
        return False
    return isinstance(X, str | os.PathLike | pa.Table | Mapping) or hasattr(X, "dask") or hasattr(X, "data_vars")


def is_in_memory(X: Any) -> bool:
    """Tell whether predictions for it come at once, as an array.

    Parameters
    ----------
    X : object
        What an estimator was given.

    Returns
    -------
    bool
        False for paths and Dask collections.
    """
    return not is_table(X) or isinstance(X, pa.Table | Mapping)


def opened(X: Any) -> Any:
    """Open a table, so that its columns are known.

    Parameters
    ----------
    X : object
        For which `is_table` holds.

    Returns
    -------
    dask.dataframe.DataFrame or pyarrow.Table
        The latter for what is in memory.

    Raises
    ------
    DataError
        If this is no table, or a column mixes types.
    """
    frame = open_data(X) if isinstance(X, str | os.PathLike) else X
    if hasattr(frame, "data_vars") or (hasattr(frame, "dask") and not hasattr(frame, "columns")):
        name = f"X={X!r}" if frame is not X else "X"
        raise DataError(
            f"{name} is a {type(frame).__name__}, and this estimator takes tables; write it as one with "
            "dtk.write_parquet, for example of dask.dataframe.from_dask_array(X), and open that"
        )
    if not isinstance(frame, Mapping):
        return frame
    try:
        source = as_source(frame)
    except pa.ArrowException:
        arrow_table(frame)  # names the column
        raise
    assert isinstance(source, TableSource)
    return source.table


def column_names(frame: Any) -> list[str]:
    """List the columns of a table.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table or object
        Anything else has no names.

    Returns
    -------
    list of str
        In their order.
    """
    return list(frame.column_names if isinstance(frame, pa.Table) else getattr(frame, "columns", ()))


def checked_name(argument: str, name: str, frame: Any) -> str:
    """Refuse the name of a column that is not there.

    Parameters
    ----------
    argument : str
        Which an error names.
    name : str
        Of the column.
    frame : object
        The table, or an array.

    Returns
    -------
    str
        The name.

    Raises
    ------
    ArgumentError
        If there is no such column.
    """
    names = column_names(frame)
    if name in names:
        return name
    if not names:
        raise ArgumentError(
            f"{argument}={name!r} names a column, and X is a {type(frame).__name__}, which has none; give the values"
        )
    raise ArgumentError(f"{argument}={name!r} is no column of the data{did_you_mean(name, names)}")


def new_name(values: Any, names: list[str], default: str) -> str:
    """Name a column for values that come apart: as they are called themselves, if that is free.

    Parameters
    ----------
    values : object
        An array, or a Series with a name.
    names : list of str
        Of the columns that are there.
    default : str
        For values without a name, if that is free.

    Returns
    -------
    str
        The name.
    """
    for name in (getattr(values, "name", None), default):
        if isinstance(name, str) and name not in names:
            return name
    return f"_dtk_{default}"


def with_column(frame: Any, name: str, values: Any, *, argument: str) -> Any:
    """Return a table with a column added, or replaced.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame or pyarrow.Table
        The table.
    name : str
        Of the new column.
    values : str, array or dask.dataframe.Series
        Another column's name, or values [rows]; a Series for a Dask DataFrame.
    argument : str
        Which an error names.

    Returns
    -------
    dask.dataframe.DataFrame or pyarrow.Table
        Of the same kind.

    Raises
    ------
    ArgumentError
        If the values do not go with the table.
    """
    if isinstance(values, str):
        if checked_name(argument, values, frame) == name:
            return frame
        values = frame[values]
    if not isinstance(frame, pa.Table):
        if not hasattr(values, "dask"):
            raise ArgumentError(
                f"{argument} is a {type(values).__name__} beside a lazy table; give the name of a column, or a Dask "
                "Series of the table"
            )
        return frame.assign(**{name: values})
    if hasattr(values, "dask"):
        raise ArgumentError(f"{argument} is lazy beside a table in memory; give {argument}.compute()")
    column = _arrow_column(name, values)
    if len(column) != frame.num_rows:
        raise ArgumentError(f"{argument} has {len(column)} values for {frame.num_rows} rows of X; give one for each")
    index = frame.schema.get_field_index(name)
    return frame.append_column(name, column) if index < 0 else frame.set_column(index, name, column)


def take_labels(X: Any, y: Any, sample_weight: Any, *, argument: str = "y") -> tuple[Any, Any, Any, list[str]]:
    """Take target and weight out of a table in memory, where they are given by name.

    Parameters
    ----------
    X : array, pandas.DataFrame or pyarrow.Table
        The inputs, perhaps with target and weight.
    y, sample_weight : str or array
        Names or values; None stays None.
    argument : str
        Where `y` comes from, for an error.

    Returns
    -------
    X, y, sample_weight : object
        Inputs without, and the values; a table in Arrow stays whole.
    taken : list of str
        The columns that were named.

    Raises
    ------
    ArgumentError
        If X is lazy or an array, and has no such column.
    """
    values, taken = [], []
    for name, given in ((argument, y), ("sample_weight", sample_weight)):
        if isinstance(given, str):
            taken.append(checked_name(name, given, X))
            given = X[given].to_pandas() if isinstance(X, pa.Table) else X[given]
        values.append(given)
    inputs = X.drop(columns=taken) if taken and isinstance(X, pd.DataFrame) else X
    return inputs, values[0], values[1], taken


def arrow_table(columns: Mapping[Any, Any] | pd.DataFrame) -> pa.Table:
    """Turn columns in memory into a table.

    Parameters
    ----------
    columns : mapping of arrays or pandas.DataFrame
        Equally long.

    Returns
    -------
    pyarrow.Table
        With the same names, as strings.

    Raises
    ------
    DataError
        If a column mixes types.
    """
    return pa.table({str(name): _arrow_column(name, values) for name, values in columns.items()})


def _arrow_column(name: Any, values: Any) -> pa.Array | pa.ChunkedArray:
    try:
        return pa.array(values if hasattr(values, "__len__") else np.asarray(values), from_pandas=True)
    except pa.ArrowException as error:
        raise DataError(
            f"column {name!r} makes no column of one type: {error}; cast it first, for example with astype(str)"
        ) from error


def refuse_loader(X: Any, argument: str = "X") -> None:
    """Refuse a loader, which `dtk.train` takes.

    Parameters
    ----------
    X : object
        What an estimator was given.
    argument : str
        As what.

    Raises
    ------
    ArgumentError
        If it is one.
    """
    if isinstance(X, Loader):
        raise ArgumentError(f"{argument} is a Loader; train on it with dtk.train(module, loader), or give its data")
