"""A variable of a Zarr store as it lies there, and what is read of several."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dtk.sources.plain_read import PlainRead
from dtk.sources.remote_zarr import is_remote
from dtk.sources.zarr_read import Region, Scratch, read_region

__all__ = ["ArrayBlock", "ArrayVariable", "read_variable"]


@dataclass(frozen=True)
class ArrayBlock:
    """A contiguous run of samples.

    Parameters
    ----------
    arrays : mapping of str to numpy.ndarray
        By variable: ``[samples, *shape]``.
    num_rows : int
        Samples.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    num_rows: int

    def slice(self, first: int, num_rows: int) -> Self:
        """Take some samples, without a copy.

        Parameters
        ----------
        first : int
            The first one.
        num_rows : int
            How many.

        Returns
        -------
        ArrayBlock
            Views of this one.
        """
        arrays = {name: array[first : first + num_rows] for name, array in self.arrays.items()}
        return type(self)(arrays, num_rows)

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Take samples by their numbers.

        Parameters
        ----------
        rows : numpy.ndarray
            An int64 ``[n]``: which ones, also several times.

        Returns
        -------
        ArrayBlock
            Copies.
        """
        return type(self)({name: array[rows] for name, array in self.arrays.items()}, len(rows))


@dataclass(frozen=True)
class ArrayVariable:
    """One variable of a source.

    Parameters
    ----------
    name : str
        Its name.
    dims : tuple of str
        Its dimensions, the sample dimension left out.
    shape : tuple of int
        The shape of a sample; of the whole where it is static.
    dtype : numpy.dtype
        As decoded.
    is_static : bool
        Whether it lacks the sample dimension.
    read : PlainRead
        Where it lies.
    axis : int
        Of the array in the store: the one along the samples; -1 where it is static.
    chunk_rows : int
        Samples of a chunk, or of a shard, in the store.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_static: bool
    read: PlainRead
    axis: int
    chunk_rows: int

    @property
    def row_nbytes(self) -> int:
        """Bytes of a sample as stored, before it is compressed."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.read.array.dtype.itemsize

    @property
    def is_remote(self) -> bool:
        """Whether it is in a remote store."""
        return is_remote(self.read.array.store_path.store)

    def region(self, start: int, stop: int) -> Region:
        """Return where some samples lie in the array.

        Parameters
        ----------
        start : int
            The first sample; of no meaning for a static variable.
        stop : int
            The sample after the last.

        Returns
        -------
        tuple of slice
            For each of the array's dimensions.
        """
        region = [slice(part, part + 1) if isinstance(part, int) else part for part in self.read.selection]
        if not self.is_static:
            first = region[self.axis].start
            region[self.axis] = slice(first + start, first + stop)
        return tuple(region)


def read_variable(
    variable: ArrayVariable, start: int, stop: int, scratch: Scratch, fetched: Future[Any] | None = None
) -> npt.NDArray[Any]:
    """Read samples of a variable.

    Parameters
    ----------
    variable : ArrayVariable
        The variable.
    start : int
        The first sample; 0 where it is static.
    stop : int
        The sample after the last; 0 where it is static.
    scratch : Scratch
        Memory to use again.
    fetched : Future, optional
        What is on its way from a remote store.

    Returns
    -------
    numpy.ndarray
        Decoded: ``[samples, *shape]``, or the whole of a static one.
    """
    read, region = variable.read, variable.region(start, stop)
    values = scratch.array(f"variable {variable.name}", [part.stop - part.start for part in region], read.array.dtype)
    read_region(read.array, region, values, scratch, fetched)
    dropped = tuple(axis for axis, part in enumerate(read.selection) if isinstance(part, int))
    for function in read.decode:
        values = function(values)
    if not variable.is_static and variable.axis:
        values = np.moveaxis(values, variable.axis, 0)
        dropped = tuple(axis + 1 if axis < variable.axis else axis for axis in dropped)
    return values.squeeze(dropped) if dropped else values
