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

    def result(self) -> dict[str, Any]:
        """Return what it says, by name.

        Returns
        -------
        dict
            Plain numbers, lists and arrays; approximate answers come with their error.
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the whole state as plain JSON values, to the last bit.

        Returns
        -------
        dict
            Strings, numbers, lists and dicts only.
        """
        ...

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        Statistic
            It says the same as the first, and goes on like it.
        """
        ...
