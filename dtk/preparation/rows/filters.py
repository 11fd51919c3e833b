"""Leaving out rows: duplicates, and what an expression does not hold for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from dtk.errors import ArgumentError
from dtk.preparation.expressions import evaluate
from dtk.preparation.frames import FrameTransform, check_columns, is_lazy

__all__ = ["DropDuplicates", "FilterRows"]


class DropDuplicates(FrameTransform):
    """Keep one row of those that are equal.

    Parameters
    ----------
    columns : sequence of str, optional
        The columns that make rows equal; all by default.
    keep : str
        Which row stays: ``"first"`` or ``"last"``.

    Notes
    -----
    On Dask this is `dask.dataframe.DataFrame.drop_duplicates`: duplicates are dropped in each partition, rows are
    shuffled by the hash of the columns, and dropped again, so that no more than a partition lies in memory. Rows come
    in another order, and a loader cannot read them in place any more: spool them.

    Examples
    --------
    >>> import pandas as pd
    >>> data = pd.DataFrame({"key": [1, 1, 2], "value": [3, 4, 5]})
    >>> DropDuplicates(["key"]).fit_transform(data)["value"].tolist()
    [3, 5]
    """

    def __init__(self, columns: Sequence[str] | None = None, *, keep: Literal["first", "last"] = "first") -> None:
        self.columns = columns
        self.keep = keep

    def _fit(self, data: Any) -> None:
        if self.keep not in ("first", "last"):
            raise ArgumentError(f"keep={self.keep!r} must be 'first' or 'last'")
        if self.columns is not None and not check_columns("columns", self.columns, data):
            raise ArgumentError("columns=[] makes all rows equal; name some, or leave it out")

    def _apply(self, data: Any) -> Any:
        subset = None if self.columns is None else check_columns("columns", self.columns, data)
        return data.drop_duplicates(subset=subset, keep=self.keep)


class FilterRows(FrameTransform):
    """Keep the rows that an expression holds for.

    Parameters
    ----------
    where : str
        In the syntax of a job's ``where:``, as ``pandas.DataFrame.query`` takes it: ``"delay > 15 and carrier in ['UA',
        'AA']"``; see `dtk.preparation.expressions.evaluate`. A row for which it is missing is left out.

    Notes
    -----
    On Dask each row is looked at by itself, so that `dtk.Loader` still reads the files in place.

    Examples
    --------
    >>> import pandas as pd
    >>> FilterRows("delay > 15").fit_transform(pd.DataFrame({"delay": [3, 20]}))["delay"].tolist()
    [20]
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def _fit(self, data: Any) -> None:
        head = data if is_lazy(data) else data.iloc[:0]
        found = self._evaluated(head)
        if found.dtype not in ("bool", "boolean", "bool[pyarrow]"):
            raise ArgumentError(
                f"where={self.where!r} gives {found.dtype} and not true or false; compare it with something"
            )

    def _apply(self, data: Any) -> Any:
        mask = self._evaluated(data)
        return data[mask if is_lazy(data) else mask.compute(scheduler="synchronous").to_numpy(bool, na_value=False)]

    def _evaluated(self, data: Any) -> Any:
        """Return a lazy Series, of one partition for pandas."""
        import dask.dataframe as dd

        try:
            return evaluate(self.where, data if is_lazy(data) else dd.from_pandas(data, npartitions=1, sort=False))
        except ArgumentError as error:
            raise ArgumentError(f"where={self.where!r}: {error}") from None
