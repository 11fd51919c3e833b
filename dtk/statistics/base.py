"""What every statistic offers."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa

__all__ = ["Statistic"]


class Statistic(Protocol):
    """A summary of a column that is filled chunk by chunk, on many workers, and merged.

    Notes
    -----
    `merge` changes neither `other` nor anything that `other` holds: a Dask worker may merge the same part twice.
    """

    def update(self, values: pa.Array | pa.ChunkedArray, row: np.ndarray | None = None) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [rows].
        row : numpy.ndarray, optional
            int64 [rows]: the number of each row in the whole data.
        """

    def merge(self, other: Self) -> None:
        """Take in what another object of the same class has seen.

        Parameters
        ----------
        other : Statistic
            Left as it is.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain JSON values.

        Returns
        -------
        dict
            Strings, numbers, lists and dicts only.
        """
        ...
