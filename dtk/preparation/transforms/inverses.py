"""What transforms with an inverse have in common: numbers back to what they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from dtk.errors import ArgumentError
from dtk.preparation.transforms.base import Elementwise, Transform

__all__ = ["Invertible", "checked_features", "columns_as_array", "positions_of"]


class Invertible(Elementwise):
    """An elementwise transform with an inverse."""

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Undo `transform`.

        Parameters
        ----------
        X : array
            Shape [rows, columns], in memory.

        Returns
        -------
        numpy.ndarray
            Float [rows, columns].

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If it has another number of columns than the fit, or is not in memory.
        """
        check_is_fitted(self)
        X = checked_features(X, int(self.n_features_in_))
        with np.errstate(all="ignore"):
            return np.asarray(self._inverse(X.astype(np.float64)), X.dtype if X.dtype.kind == "f" else np.float64)

    def _inverse(self, y: NDArray[Any]) -> NDArray[Any]:
        """Undo `_forward`."""
        raise NotImplementedError


def checked_features(X: Any, width: int) -> NDArray[Any]:
    """Refuse what no transform has returned.

    Parameters
    ----------
    X : array
        What is to be inverted.
    width : int
        How many features the transform has.

    Returns
    -------
    numpy.ndarray
        Shape [rows, features].

    Raises
    ------
    ArgumentError
        If it has another shape, or is not in memory.
    """
    if hasattr(X, "dask"):
        raise ArgumentError(
            "X is lazy, and inverse_transform takes what is in memory; call X.compute() first, or X.map_blocks("
            "transform.inverse_transform, dtype=..., chunks=...) of a Dask array that is in one block along its columns"
        )
    values = np.asarray(X)
    if values.ndim != 2 or values.shape[1] != width:
        raise ArgumentError(f"X has the shape {values.shape}, and what comes out of transform has {width} columns")
    return values


def columns_as_array(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Put columns beside each other, in the type that scikit-learn takes for them.

    Parameters
    ----------
    columns : sequence of numpy.ndarray
        Shape [rows] each.

    Returns
    -------
    numpy.ndarray
        Shape [rows, columns]; of objects where any of them is.
    """
    return np.stack(columns, axis=1, dtype=np.result_type(*(column.dtype for column in columns)), casting="unsafe")


def positions_of(
    transform: Transform, column: int, codes: NDArray[Any], count: int, *, first: int = 0
) -> NDArray[np.int64]:
    """Turn the codes of a column into positions, as scikit-learn does: what is behind the point is cut off.

    Parameters
    ----------
    transform : Transform
        Fitted.
    column : int
        Of its input, for the error.
    codes : numpy.ndarray
        Shape [rows].
    count : int
        How many codes there are.
    first : int
        The smallest of them.

    Returns
    -------
    numpy.ndarray
        int64 [rows]: 0 for the first.

    Raises
    ------
    ArgumentError
        If there is no such code.
    """
    whole = np.trunc(codes)
    unknown = ~((whole >= first) & (whole < first + count))
    if unknown.any():
        name = getattr(transform, "feature_names_in_", [f"x{column}"] * (column + 1))[column]
        value = codes[unknown.argmax()]
        raise ArgumentError(f"X holds {value}, and the codes of column {name!r} are {first} to {first + count - 1}")
    positions: NDArray[np.int64] = whole.astype(np.int64) - first
    return positions
