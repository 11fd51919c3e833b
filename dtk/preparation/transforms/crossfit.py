"""Fit and transform the same rows, so that no row is shown what was learnt from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dtk.errors import ArgumentError
from dtk.preparation.transforms.given import given_frame, take, without_target
from dtk.preparation.transforms.mapping import frame_out
from dtk.sources import readable
from dtk.sources.row_numbers import ROW_BITS, rows_identity

if TYPE_CHECKING:
    from dtk.preparation.transforms.base import Transform

__all__ = ["fit_transform_in_folds", "is_cross_fitted_to", "note_rows"]


def fit_transform_in_folds(transform: Transform, X: Any, y: Any, **fit_params: Any) -> Any:
    """Fit to data, and encode each row with what was learnt from the rows of other folds.

    Parameters
    ----------
    transform : Transform
        That is cross-fitted.
    X : object
        As for `Transform.fit`.
    y : object
        The target, or its column.
    **fit_params : object
        As for `Transform.fit`.

    Returns
    -------
    object
        As `Transform.transform` returns.

    Raises
    ------
    ArgumentError
        If the rows of the data cannot be told from each other in two reads.
    """
    if hasattr(X, "to_delayed") and hasattr(X, "map_partitions"):
        return _fit_partitions(transform, X, y, **fit_params)
    inputs = without_target(X, y)
    given = take(transform.fit(X, y, **fit_params), inputs, transform._kind, reset=False)
    if given.lazy is not None:
        raise ArgumentError(
            f"X={type(X).__name__} cannot be fitted and transformed in folds; give a Dask DataFrame, or data in memory"
        )
    given.row = np.arange(len(given.columns[0]))
    return given.map(transform)


def _fit_partitions(transform: Transform, X: Any, y: Any, **fit_params: Any) -> Any:
    import dask.dataframe as dd
    from dask.delayed import delayed

    # optimised first: fusing reads changes how many partitions there are, and so the numbers of their rows
    frozen = X.optimize()
    parts, meta = frozen.to_delayed(), frozen._meta
    transform.fit(dd.from_delayed(parts, meta=meta, divisions=frozen.divisions, verify_meta=False), y, **fit_params)
    names = list(take(transform, X, transform._kind, reset=False).names)
    apply = _ApplyInFolds(transform, names)
    numbered = [delayed(apply, pure=False)(number, part) for number, part in enumerate(parts)]
    return dd.from_delayed(numbered, meta=apply(0, meta), divisions=frozen.divisions, verify_meta=False)


def note_rows(steps: Sequence[Transform], data: Any, columns: Sequence[str], *, is_all: bool) -> None:
    """Keep which rows steps were cross-fitted to, so that a loader of these knows them again.

    Parameters
    ----------
    steps : sequence of Transform
        Just fitted.
    data : object
        What was scanned.
    columns : sequence of str
        By whose values rows in memory are known: all inputs of the fit.
    is_all : bool
        Whether there were no other data before.
    """
    cross_fitted = [step for step in steps if step._is_cross_fitted]
    rows = rows_identity(readable(data), columns) if cross_fitted and is_all else None
    for step in cross_fitted:
        step._rows_of_fit = rows  # not saved, as the encodings of the folds are not


def is_cross_fitted_to(steps: Sequence[Transform], source: Any, columns: Sequence[str]) -> bool | None:
    """Tell whether rows are those that steps were cross-fitted to.

    Parameters
    ----------
    steps : sequence of Transform
        Fitted.
    source : Source
        The rows.
    columns : sequence of str
        As for `note_rows`.

    Returns
    -------
    bool or None
        None where nothing is cross-fitted. False also for steps that were fitted in parts, to partitions that had to be
        computed, or loaded from a file: they know no rows again.
    """
    known = {step.__dict__.get("_rows_of_fit") for step in steps if step._is_cross_fitted}
    return known == {rows_identity(source, columns)} and None not in known if known else None


class _ApplyInFolds:
    """A partition of the fit transformed, with its index."""

    def __init__(self, transform: Transform, names: Sequence[str]) -> None:
        self.transform, self.names = transform, names

    def __call__(self, number: int, frame: pd.DataFrame) -> pd.DataFrame:
        given = given_frame(frame, self.names)
        given.row = np.arange(len(frame)) + (number << ROW_BITS)
        names_out = [str(name) for name in self.transform.get_feature_names_out(None)]
        return frame_out(self.transform._apply(given), names_out, frame.index)
