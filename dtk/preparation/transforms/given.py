"""What a transform is given: columns of pandas, NumPy, Arrow, Dask or xarray, checked against those of the fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names, _check_n_features, validate_data

from dtk.errors import ArgumentError, DataError
from dtk.preparation.schema import positional_names, table_of_array
from dtk.sources import TableSource, as_source, schema_of
from dtk.sources.columns import close_to

if TYPE_CHECKING:
    from dtk.preparation.transforms.base import Transform

__all__ = ["TARGET", "Given", "column_of", "given_frame", "take", "without_target"]

TARGET: Final = "__target__"
"""The column of a target that was given as an array."""


@dataclass
class Given:
    """Columns, in memory or not.

    Parameters
    ----------
    names : sequence of str
        Of the columns.
    types : sequence of pyarrow.DataType
        Of their values.
    original : object
        What the user gave.
    array : numpy.ndarray, optional
        Float [rows, columns], of data in memory that was checked to be numbers.
    columns : list of pyarrow.ChunkedArray
        Of data in memory that may be anything.
    lazy : object, optional
        A Dask DataFrame, a Dask array, an xarray object with either, or a source.
    target : pyarrow.ChunkedArray or str, optional
        The target of data in memory, or the name of its column.
    row : numpy.ndarray, optional
        int64 [rows]: their numbers at fit, where the data are those of the fit and are to be encoded in folds.
    positions : list of int
        Where the columns of the fit lie among those of the original; set when a fitted transform is applied.
    """

    names: Sequence[str]
    types: Sequence[pa.DataType]
    original: Any
    array: NDArray[Any] | None = None
    columns: list[pa.ChunkedArray] = field(default_factory=list)
    lazy: Any = None
    target: Any = None
    row: NDArray[np.int64] | None = None
    positions: list[int] = field(default_factory=list)

    @property
    def scannable(self) -> tuple[Any, str | None]:
        """What `dtk.statistics.scan` reads, and the name of the target's column in it."""
        if self.lazy is not None:
            return self.lazy, self.target
        table = pa.table(self.columns, names=list(self.names)) if self.array is None else _table(self.array, self.names)
        if self.target is None:
            return table, None
        return table.append_column(TARGET, self.target), TARGET

    def map(self, transform: Transform) -> Any:
        """Apply a fitted transform, lazily to what is lazy.

        Parameters
        ----------
        transform : Transform
            Fitted.

        Returns
        -------
        object
            Of the type of what the user gave, where `Transform.transform` says so.

        Raises
        ------
        SourceError
            If it is a path or a source.
        """
        from dtk.preparation.transforms.mapping import map_given

        return map_given(self, transform)


def take(transform: Transform, X: Any, kind: str, *, y: Any = None, reset: bool) -> Given:
    """Check data by scikit-learn's rules if it is in memory, and by its types if it is not.

    Parameters
    ----------
    transform : Transform
        Whose ``n_features_in_`` and ``feature_names_in_`` are set, or compared.
    X : object
        What a user gave.
    kind : str
        The kind of its columns.
    y : object, optional
        The target.
    reset : bool
        Whether this is a fit.

    Returns
    -------
    Given
        Its columns.

    Raises
    ------
    ArgumentError
        If columns are others than at fit.
    SourceError
        If the data is no table.
    """
    package, name = type(X).__module__.partition(".")[0], type(X).__name__
    if isinstance(X, pa.RecordBatch):
        X = pa.table(X)
    if isinstance(X, pa.Table):
        given = _given_table(X, y)
    elif package == "dask" and name == "Array":
        given = _given_dask_array(X, X)
    elif package == "xarray":
        given = _given_xarray(X)
    elif package == "dask" or isinstance(X, str | os.PathLike) or (hasattr(X, "schema") and hasattr(X, "read")):
        given = _given_lazy(X, y)
    else:
        return _given_in_memory(transform, X, kind, y, reset=reset)
    if isinstance(given.target, str):
        _leave_out(given, given.target)
    if not reset and hasattr(X, "dtype"):
        _check_width(transform, given)
    _note(transform, given, reset=reset)
    return given


def _check_width(transform: Transform, given: Given) -> None:
    """Refuse arrays whose columns have no names, where they are more or fewer than at fit."""
    width, wanted = len(given.names), transform.n_features_in_
    if list(given.names) == list(positional_names(width)) and width != wanted:
        raise ArgumentError(f"X has {width} columns without names, and the fit saw {wanted}; give those of the fit")


def without_target(X: Any, y: Any) -> Any:
    """Leave the target out of a frame in memory; what is lazy, or Arrow, may have more columns than the fit.

    Parameters
    ----------
    X : object
        What a user gave to fit.
    y : object
        The target, or the name of its column.

    Returns
    -------
    object
        What can be transformed.
    """
    return X.drop(columns=y) if isinstance(X, pd.DataFrame) and isinstance(y, str) else X


def _note(transform: Transform, given: Given, *, reset: bool) -> None:
    """Keep the names of a fit, or take the columns of the fit out of what has more."""
    if reset:
        transform.n_features_in_ = len(given.names)
        transform.feature_names_in_ = np.array(given.names, dtype=object)
        return
    wanted = list(getattr(transform, "feature_names_in_", positional_names(transform.n_features_in_)))
    positions = {name: number for number, name in enumerate(given.names)}
    for name in wanted:
        if name not in positions:
            raise ArgumentError(f"X has no column {name!r}, which was there at fit; {close_to(name, given.names)}")
    given.positions = [positions[name] for name in wanted]
    given.names, given.types = wanted, [given.types[number] for number in given.positions]
    if given.columns:
        given.columns = [given.columns[number] for number in given.positions]


def _leave_out(given: Given, name: str) -> None:
    if name not in given.names:
        raise ArgumentError(f"y={name!r} is no column of X; {close_to(name, given.names)}")
    kept = [number for number, known in enumerate(given.names) if known != name]
    given.names, given.types = [given.names[number] for number in kept], [given.types[number] for number in kept]
    if given.columns:
        given.columns = [given.columns[number] for number in kept]


def _given_table(table: pa.Table, y: Any) -> Given:
    given = Given(table.column_names, table.schema.types, table, columns=table.columns)
    if isinstance(y, str):
        target = table[y] if y in table.column_names else None
        _leave_out(given, y)
        given.target = target
    elif y is not None:
        given.target = _target(y, table.num_rows)
    return given


def _given_lazy(X: Any, y: Any) -> Given:
    data = X
    if y is not None and not isinstance(y, str):
        if not hasattr(X, "assign"):
            raise ArgumentError("y of a path or source must be the name of a column in it")
        data, y = X.assign(**{TARGET: y}), TARGET
    elif not hasattr(X, "map_partitions"):
        data = as_source(X)
    schema = schema_of(data)
    return Given(schema.names, schema.types, X, lazy=data, target=y)


def _given_dask_array(array: Any, original: Any) -> Given:
    import dask.dataframe as dd

    if array.ndim != 2:
        raise ArgumentError(f"X has {array.ndim} dimensions; give rows and columns, e.g. X.reshape(-1, 1)")
    _arrow_type(array.dtype)
    names = list(positional_names(array.shape[1]))
    frame = dd.from_dask_array(array.rechunk({1: -1}), columns=names)
    return Given(names, [_arrow_type(array.dtype)] * len(names), original, lazy=frame)


def _given_xarray(data: Any) -> Given:
    import dask.dataframe as dd
    import xarray as xr

    if isinstance(data, xr.DataArray):
        if data.ndim != 2:
            raise ArgumentError(f"X has the dimensions {data.dims}; give rows and columns, two of them")
        if hasattr(data.data, "map_blocks"):
            given = _given_dask_array(data.data, data)
        else:
            columns = [column_of(data.values[:, number]) for number in range(data.shape[1])]
            given = Given(positional_names(len(columns)), [each.type for each in columns], data, columns=columns)
        labels = data.coords.get(data.dims[1])
        if labels is not None and labels.dtype.kind in "UO":
            given.names = [str(label) for label in labels.values]
            if given.lazy is not None:
                given.lazy = given.lazy.rename(columns=dict(zip(given.lazy.columns, given.names, strict=True)))
        return given
    names = list(data.data_vars)
    shapes = {data[name].dims for name in names}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ArgumentError(
            f"X has variables of the dimensions {sorted(map(str, shapes))}; give variables of one dimension, the rows"
        )
    if any(hasattr(data[name].data, "map_blocks") for name in names):
        arrays = [dd.from_dask_array(data[name].chunk().data, columns=name) for name in names]
        frame = dd.concat(arrays, axis=1)
        return Given(names, [_arrow_type(data[name].dtype) for name in names], data, lazy=frame)
    columns = [column_of(data[name].values) for name in names]
    return Given(names, [column.type for column in columns], data, columns=columns)


def _arrow_type(dtype: np.dtype[Any]) -> pa.DataType:
    if dtype.kind == "O":
        raise DataError(
            "X is a lazy array of objects, and nobody knows of what type before it is read; give X.astype(str) or "
            "X.astype('float64'), or a DataFrame"
        )
    return pa.from_numpy_dtype(dtype)


def _given_in_memory(transform: Transform, X: Any, kind: str, y: Any, *, reset: bool) -> Given:
    if isinstance(y, str) and isinstance(X, pd.DataFrame):
        if y not in X.columns:
            raise ArgumentError(f"y={y!r} is no column of X; {close_to(y, list(map(str, X.columns)))}")
        y, X = X[y], X.drop(columns=y)
    if kind == "any":
        kind = "number" if _holds_numbers(X) else "category"
    if kind == "number":
        checked = {"dtype": [np.float64, np.float32], "ensure_all_finite": False}
        array = validate_data(transform, X, reset=reset, **checked)
        names = list(getattr(transform, "feature_names_in_", positional_names(array.shape[1])))
        target = None if y is None else _target(y, len(array))
        return Given(names, [pa.from_numpy_dtype(array.dtype)] * len(names), X, array=array, target=target)
    if isinstance(X, pd.DataFrame):
        if kind == "mixed" and not reset and hasattr(transform, "feature_names_in_"):
            X = _known_columns(X, transform.feature_names_in_)
        _check_feature_names(transform, X, reset=reset)
        _check_n_features(transform, X, reset=reset)
        names = list(getattr(transform, "feature_names_in_", positional_names(X.shape[1])))
        given = given_frame(X, None)
        given.names, given.target = names, None if y is None else _target(y, len(X))
        return given
    array = validate_data(transform, X, reset=reset, dtype=None, ensure_all_finite=False)
    names = list(getattr(transform, "feature_names_in_", positional_names(array.shape[1])))
    columns = [column_of(array[:, number]) for number in range(array.shape[1])]
    target = None if y is None else _target(y, len(array))
    return Given(names, [column.type for column in columns], X, columns=columns, target=target)


def _known_columns(X: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Take the columns of the fit: a composition may be given more."""
    for name in names:
        if name not in X.columns:
            raise ArgumentError(
                f"X has no column {name!r}, which was there at fit; {close_to(name, list(map(str, X.columns)))}"
            )
    return X[list(names)]


def _holds_numbers(X: Any) -> bool:
    """Whether all columns of data in memory are numbers; objects count as what they hold."""
    dtypes = X.dtypes if isinstance(X, pd.DataFrame) else [getattr(X, "dtype", np.asarray(X).dtype)]
    if any(dtype.kind == "O" for dtype in dtypes) and np.ndim(X) == 2:
        frame = pd.DataFrame(X).infer_objects()
        dtypes = frame.dtypes
    return all(map(pd.api.types.is_numeric_dtype, dtypes))


def given_frame(frame: pd.DataFrame, names: Sequence[str] | None) -> Given:
    """Take the columns of a frame in memory, unchecked.

    Parameters
    ----------
    frame : pandas.DataFrame
        With these columns.
    names : sequence of str, optional
        Those that are wanted; all by default.

    Returns
    -------
    Given
        Their values in Arrow.
    """
    chosen = list(frame.columns) if names is None else list(names)
    columns = [column_of(frame[name]) for name in chosen]
    return Given([str(name) for name in chosen], [column.type for column in columns], frame, columns=columns)


def column_of(values: Any) -> pa.ChunkedArray:
    """Turn values of one column into Arrow, as `dtk.sources` does.

    Parameters
    ----------
    values : Series, array, pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows].

    Returns
    -------
    pyarrow.ChunkedArray
        Of the same rows.
    """
    if isinstance(values, pa.ChunkedArray | pa.Array):
        return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    is_column = isinstance(values, pd.Series | pd.Index | pd.api.extensions.ExtensionArray)
    source = as_source(pd.DataFrame({"x": values if is_column else np.asarray(values)}))
    assert isinstance(source, TableSource)
    return source.table["x"]


def _target(values: Any, num_rows: int) -> pa.ChunkedArray:
    """Turn a target into Arrow; a pandas one by position, whatever its index."""
    values = np.squeeze(values, axis=1) if getattr(values, "ndim", 1) == 2 else values
    column = column_of(values)
    if len(column) != num_rows:
        raise ArgumentError(f"y has {len(column)} values for the {num_rows} rows of X; give one a row")
    return column


def _table(array: NDArray[Any], names: Sequence[str]) -> pa.Table:
    return table_of_array(array).rename_columns(list(names))
