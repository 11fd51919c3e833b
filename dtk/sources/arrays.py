"""Zarr arrays as a source: samples along a dimension that they share, one chunk a chunk or shard along it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError
from dtk.sources.array_facts import array_changes, array_facts
from dtk.sources.plain_read import PlainRead, plain_read
from dtk.sources.zarr_read import Scratch, read_region, stored_chunk_nbytes

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ArrayBlock", "ArraySource", "ArrayVariable", "Verify", "array_source", "as_dataset", "source_of_dataset"]

Verify = Literal["metadata", "list"]

_LEAST_NBYTES: Final = 1 << 20  # of a chunk, decoded


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


@dataclass(frozen=True, eq=False, repr=False)
class ArraySource:
    """Variables of a Zarr store that share a dimension, read one chunk along it at a time.

    Parameters
    ----------
    dim : str
        The dimension of the samples.
    variables : mapping of str to ArrayVariable
        What can be read.
    num_samples : int
        The size of `dim`.
    chunk_edges : numpy.ndarray
        An int64 ``[chunks + 1]``: the samples at which chunks begin and end.
    verify : {"metadata", "list"}
        What its identity holds: the metadata, or a listing of all objects as well.
    """

    dim: str
    variables: Mapping[str, ArrayVariable]
    num_samples: int
    chunk_edges: npt.NDArray[np.int64]
    verify: Verify = "metadata"

    @cached_property
    def identity(self) -> str:
        """Hash of the stores' places and metadata, of what is selected, and of the snapshot or the listing."""
        return hashlib.blake2b(json.dumps(self.facts).encode(), digest_size=16).hexdigest()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a saved state tells of it, see `dtk.sources.facts`."""
        return array_facts(self)

    def changes(self, facts: Mapping[str, Any]) -> list[str]:
        """Say how it differs from what it was.

        Parameters
        ----------
        facts : mapping
            Its facts then.

        Returns
        -------
        list of str
            One for each difference.
        """
        return array_changes(self, facts)

    @property
    def chunk_rows(self) -> npt.NDArray[np.int64]:
        """Samples of each chunk, int64 ``[chunks]``."""
        return np.diff(self.chunk_edges)

    @cached_property
    def chunk_nbytes(self) -> npt.NDArray[np.int64]:
        """Bytes in the store of each chunk, int64 ``[chunks]``, estimated from a few."""
        of_sample = 0.0
        for variable in self.variables.values():
            if not variable.is_static:
                array = variable.read.array
                whole = int(np.prod(array.shards or array.chunks, dtype=np.int64)) * array.dtype.itemsize
                of_sample += variable.row_nbytes * stored_chunk_nbytes(array) / max(1, whole)
        nbytes: npt.NDArray[np.int64] = np.ceil(self.chunk_rows * of_sample).astype(np.int64)
        return nbytes

    @property
    def num_chunks(self) -> int:
        """Number of chunks along the samples."""
        return len(self.chunk_edges) - 1

    def decoded_row_nbytes(self, columns: Sequence[str]) -> float:
        """Return the bytes that a sample takes while it is read.

        Parameters
        ----------
        columns : sequence of str
            Which variables.

        Returns
        -------
        float
            As stored and, where that is another type, as decoded.
        """
        total = 0.0
        for name in columns:
            variable = self.variables[name]
            if not variable.is_static:
                decoded = int(np.prod(variable.shape, dtype=np.int64)) * variable.dtype.itemsize
                total += variable.row_nbytes + (decoded if variable.read.decode else 0)
        return total

    def read(self, chunk: int, columns: Sequence[str] | None = None, scratch: Scratch | None = None) -> ArrayBlock:
        """Read one whole chunk.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which variables; all that have samples if None.
        scratch : Scratch, optional
            Memory to use again: what was read with it before is overwritten. Fresh memory if None.

        Returns
        -------
        ArrayBlock
            ``chunk_rows[chunk]`` samples.

        Raises
        ------
        DataError
            If a chunk in the store is damaged; it is named.
        """
        start, stop = self.chunk_edges[chunk : chunk + 2].tolist()
        return self.read_samples(start, stop, columns, scratch)

    def read_samples(
        self, start: int, stop: int, columns: Sequence[str] | None = None, scratch: Scratch | None = None
    ) -> ArrayBlock:
        """Read a run of samples, also across chunks.

        Parameters
        ----------
        start : int
            The first sample.
        stop : int
            The sample after the last.
        columns : sequence of str, optional
            Which variables; all that have samples if None.
        scratch : Scratch, optional
            Memory to use again.

        Returns
        -------
        ArrayBlock
            The samples.

        Raises
        ------
        DataError
            If a chunk in the store is damaged; it is named.
        """
        scratch = scratch or Scratch()
        names = [name for name, one in self.variables.items() if not one.is_static] if columns is None else columns
        arrays = {name: _read(self.variables[name], start, stop, scratch) for name in names}
        return ArrayBlock(arrays, stop - start)

    def read_static(self, name: str) -> npt.NDArray[Any]:
        """Read a variable that has no samples.

        Parameters
        ----------
        name : str
            The variable.

        Returns
        -------
        numpy.ndarray
            The whole of it.
        """
        return _read(self.variables[name], 0, 0, Scratch())

    def describe(self, chunk: int) -> str:
        """Say where a chunk lies.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.

        Returns
        -------
        str
            The store and the samples.
        """
        start, stop = self.chunk_edges[chunk : chunk + 2].tolist()
        array = next(iter(self.variables.values())).read.array
        return f"{array.store_path}, {self.dim} {start} to {stop - 1}"

    def __repr__(self) -> str:
        return f"ArraySource({list(self.variables)}, {self.num_samples} along {self.dim!r}, {self.num_chunks} chunks)"


def source_of_dataset(data: xr.Dataset, columns: Sequence[str] | None = None, dim: str | None = None) -> ArraySource:
    """Turn an xarray Dataset that is read from Zarr into a source.

    Parameters
    ----------
    data : xarray.Dataset
        Opened from Zarr, selected by slices or single positions at most.
    columns : sequence of str, optional
        Which variables; all data variables if None.
    dim : str, optional
        The dimension of the samples; the first one of the biggest variable if None.

    Returns
    -------
    ArraySource
        Nothing is read but metadata.

    Raises
    ------
    SourceError
        If a variable is computed, and not read; the error names it.
    DataError
        If a variable is no array of numbers with samples.
    ArgumentError
        If a variable or the dimension is not there.
    """
    names = [str(name) for name in (data.data_vars if columns is None else columns)]
    for name in names:
        if name not in data.variables:
            known = [str(known) for known in data.variables]
            raise ArgumentError(f"{name!r} is no variable of the data{did_you_mean(name, known)}")
    if names and not any(data[name].dims for name in names):
        raise DataError(f"variables {names} have no dimensions: each is one number, and holds no samples")
    if dim is None:
        largest = max((data[name] for name in names if data[name].dims), key=lambda one: one.nbytes, default=None)
        dim = None if largest is None else str(largest.dims[0])
    if dim is None or dim not in data.sizes:
        known = [str(known) for known in data.sizes]
        raise ArgumentError(f"dim={dim!r} is no dimension of the data{did_you_mean(str(dim), known)}")
    variables = {name: _variable(name, data[name].variable, dim) for name in names}
    samples = [variable for variable in variables.values() if not variable.is_static]
    if not samples:
        raise ArgumentError(f"dim={dim!r} is in none of the variables {names}")
    return ArraySource(dim, variables, int(data.sizes[dim]), _edges(samples, int(data.sizes[dim])))


def _variable(name: str, variable: xr.Variable, dim: str) -> ArrayVariable:
    if variable.dtype.kind not in "fiub":
        raise DataError(
            f"variable {name!r} holds {variable.dtype}, no numbers; leave it out, or derive a number from it first"
        )
    read = plain_read(name, variable)
    dims = tuple(str(one) for one in variable.dims)
    axes = [axis for axis, part in enumerate(read.selection) if isinstance(part, slice)]
    is_static = dim not in dims
    axis = -1 if is_static else axes[dims.index(dim)]
    array = read.array
    return ArrayVariable(
        name=name,
        dims=tuple(one for one in dims if one != dim),
        shape=tuple(size for one, size in zip(dims, variable.shape, strict=True) if one != dim),
        dtype=np.dtype(variable.dtype),
        is_static=is_static,
        read=read,
        axis=axis,
        chunk_rows=0 if is_static else int((array.shards or array.chunks)[axis]),
    )


def _edges(samples: Sequence[ArrayVariable], num_samples: int) -> npt.NDArray[np.int64]:
    """Return where the chunks of the variable with the biggest samples begin and end."""
    largest = max(samples, key=lambda variable: variable.row_nbytes)
    part = largest.read.selection[largest.axis]
    assert isinstance(part, slice)
    # Small chunks are read several at a time: each read has a price of its own.
    together = max(1, _LEAST_NBYTES // max(1, largest.chunk_rows * largest.row_nbytes))
    size = largest.chunk_rows * together
    inner = np.arange(part.start // size + 1, -(-part.stop // size), dtype=np.int64) * size - part.start
    edges = np.concatenate([[0], inner, [num_samples]]) if num_samples else np.zeros(1, np.int64)
    return edges.astype(np.int64)


def _read(variable: ArrayVariable, start: int, stop: int, scratch: Scratch) -> npt.NDArray[Any]:
    """Read samples of a variable, decoded, with the samples first."""
    read = variable.read
    region = [slice(part, part + 1) if isinstance(part, int) else part for part in read.selection]
    if not variable.is_static:
        first = region[variable.axis].start
        region[variable.axis] = slice(first + start, first + stop)
    shape = [part.stop - part.start for part in region]
    values = scratch.array(variable.name, shape, read.array.dtype)
    read_region(read.array, tuple(region), values, scratch)
    dropped = tuple(axis for axis, part in enumerate(read.selection) if isinstance(part, int))
    for function in read.decode:
        values = function(values)
    if not variable.is_static and variable.axis:
        values = np.moveaxis(values, variable.axis, 0)
        dropped = tuple(axis + 1 if axis < variable.axis else axis for axis in dropped)
    return values.squeeze(dropped) if dropped else values


def array_source(data: Any, columns: Sequence[str] | None = None, dim: str | None = None) -> ArraySource | None:
    """Turn data of dimensions into a source; None for a table.

    Parameters
    ----------
    data : object
        An xarray Dataset, the path of a Zarr store, an `ArraySource`, or anything else.
    columns : sequence of str, optional
        Which variables; all data variables if None.
    dim : str, optional
        The dimension of the samples; the first one of the biggest variable if None.

    Returns
    -------
    ArraySource or None
        None if `data` is nothing of this kind.

    Raises
    ------
    SourceError
        If a variable is computed, and not read.
    """
    if isinstance(data, ArraySource):
        return data
    dataset = as_dataset(data)
    return None if dataset is None else source_of_dataset(dataset, columns, dim)


def as_dataset(data: Any) -> xr.Dataset | None:
    """Open data of dimensions; None for a table.

    Parameters
    ----------
    data : object
        An xarray Dataset, the path of a Zarr store, or anything else.

    Returns
    -------
    xarray.Dataset or None
        None if `data` is nothing of this kind.
    """
    if isinstance(data, str | os.PathLike):
        from dtk.sources.listing import list_files
        from dtk.sources.open import open as open_data

        if list_files(data).format not in {"zarr", "netcdf"}:
            return None
        data = open_data(data)
    return data if hasattr(data, "data_vars") else None
