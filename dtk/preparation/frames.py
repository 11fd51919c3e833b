"""What transforms of whole DataFrames share: those that change rows, or look at several of them."""

from __future__ import annotations

from typing import Any, Self

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError, SourceError
from dtk.preparation.stored import StoredTransform

__all__ = ["FrameTransform", "check_columns", "is_lazy", "number_columns"]


class FrameTransform(StoredTransform):
    """A step of preparation of whole DataFrames, of pandas or Dask.

    It follows scikit-learn's conventions (`fit` returns the object, fitted attributes end with an underscore,
    `get_params`, `clone`), but it is none of its transformers of columns: these give a row for each row, and look at
    one at a time.
    """

    def _fit(self, data: Any) -> None:
        """Check the parameters, and set the fitted attributes."""
        raise NotImplementedError

    def _apply(self, data: Any) -> Any:
        """Apply to a DataFrame."""
        raise NotImplementedError

    def fit(self, data: Any, y: None = None) -> Self:
        """Learn from data, in one pass over it where there is something to learn.

        Parameters
        ----------
        data : pandas.DataFrame or dask.dataframe.DataFrame
            The rows.
        y : None
            Not used.

        Returns
        -------
        FrameTransform
            This object, fitted.

        Raises
        ------
        ArgumentError
            If a parameter is out of its range, or names an unknown column.
        DataError
            If a column cannot be read, or its name is no text.
        SourceError
            If `data` is no DataFrame.
        """
        is_lazy(data)
        others = [name for name in data.columns if not isinstance(name, str)]
        if others:
            raise DataError(
                f"column {others[0]!r} has a name that is no text; rename all with data.columns.astype(str)"
            )
        self._fit(data)
        self.feature_names_in_ = list(data.columns)
        return self

    def transform(self, data: Any) -> Any:
        """Apply to data.

        Parameters
        ----------
        data : pandas.DataFrame or dask.dataframe.DataFrame
            With the columns of the fit.

        Returns
        -------
        pandas.DataFrame or dask.dataframe.DataFrame
            Lazy where `data` is.

        Raises
        ------
        NotFittedError
            If there was no fit.
        DataError
            If a column is missing.
        SourceError
            If `data` is no DataFrame.
        """
        check_is_fitted(self)
        is_lazy(data)
        missing = [name for name in self.feature_names_in_ if name not in data.columns]
        if missing:
            raise DataError(
                f"column {missing[0]!r} of the fit is missing{did_you_mean(missing[0], list(data.columns))}"
            )
        return self._apply(data)

    def fit_transform(self, data: Any, y: None = None) -> Any:
        """Fit, and apply to the same data.

        Parameters
        ----------
        data : pandas.DataFrame or dask.dataframe.DataFrame
            The rows.
        y : None
            Not used.

        Returns
        -------
        pandas.DataFrame or dask.dataframe.DataFrame
            As `transform` returns.
        """
        return self.fit(data).transform(data)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "feature_names_in_")


def is_lazy(data: Any) -> bool:
    """Say whether a DataFrame is Dask's.

    Parameters
    ----------
    data : object
        What a user gives.

    Returns
    -------
    bool
        False for pandas'.

    Raises
    ------
    SourceError
        If it is neither.
    """
    import dask.dataframe as dd

    if isinstance(data, dd.DataFrame):
        return True
    if not isinstance(data, pd.DataFrame):
        kind = f"{type(data).__module__}.{type(data).__qualname__}"
        raise SourceError(f"data of type {kind} is no DataFrame; give one of pandas or Dask, such as dtk.open returns")
    return False


def check_columns(argument: str, columns: Any, data: Any) -> list[str]:
    """Refuse columns that are not there.

    Parameters
    ----------
    argument : str
        That names them.
    columns : str or sequence of str
        Their names.
    data : DataFrame
        Of pandas or Dask.

    Returns
    -------
    list of str
        The names.

    Raises
    ------
    ArgumentError
        If there is no such column.
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in data.columns:
            raise ArgumentError(
                f"{argument}={columns!r}: {name!r} is no column{did_you_mean(name, list(data.columns))}"
            )
    return names


def number_columns(columns: Any, data: Any, leave_out: Any = ()) -> list[str]:
    """Return columns of numbers.

    Parameters
    ----------
    columns : sequence of str or None
        What the user says; all columns of numbers if None.
    data : DataFrame
        Of pandas or Dask.
    leave_out : sequence of str
        Columns that are not among all.

    Returns
    -------
    list of str
        Their names.

    Raises
    ------
    ArgumentError
        If there is no such column.
    DataError
        If a column that was asked for holds no numbers.
    """
    numbers = [
        name
        for name, dtype in data.dtypes.items()
        if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
    ]
    if columns is None:
        return [name for name in numbers if name not in leave_out]
    for name in check_columns("columns", columns, data):
        if name not in numbers:
            raise DataError(f"column {name!r} holds {data.dtypes[name]}, no numbers; leave it out, or repair its type")
    return [columns] if isinstance(columns, str) else list(columns)
