"""Zarr arrays as a source: samples along a dimension that they share, one chunk a chunk or shard along it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError
from dtk.sources.array_facts import array_changes, array_facts
from dtk.sources.plain_read import PlainRead, plain_read
from dtk.sources.remote import Fetch, FetchCost
from dtk.sources.remote_zarr import is_remote
from dtk.sources.zarr_read import Region, Scratch, fetch_region, read_region, region_cost, stored_chunk_nbytes

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
        for name, stored in self._object_nbytes.items():
            array = self.variables[name].read.array
            whole = int(np.prod(array.shards or array.chunks, dtype=np.int64)) * array.dtype.itemsize
            of_sample += self.variables[name].row_nbytes * stored / max(1, whole)
        nbytes: npt.NDArray[np.int64] = np.ceil(self.chunk_rows * of_sample).astype(np.int64)
        return nbytes

    @cached_property
    def _object_nbytes(self) -> dict[str, float]:
        """Mean bytes of an object in the store, for each variable with samples."""
        return {name: stored_chunk_nbytes(one.read.array) for name, one in self.variables.items() if not one.is_static}

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

    def fetch_cost(self, columns: Sequence[str] | None = None) -> FetchCost | None:
        """Estimate what fetching the chunks takes.

        Parameters
        ----------
        columns : sequence of str, optional
            Which variables; all that have samples if None.

        Returns
        -------
        FetchCost or None
            None for local stores.
        """
        remote = [self.variables[name] for name in self._sampled(columns) if self.variables[name].is_remote]
        if not remote or not self.num_chunks:
            return None
        edges = self.chunk_edges
        costs = [
            region_cost(one.read.array, one.region(0, edges[1]), one.axis, edges, self._object_nbytes[one.name])
            for one in remote
        ]
        return FetchCost(np.sum([cost.nbytes for cost in costs], 0), np.sum([cost.requests for cost in costs], 0))

    def fetch(self, chunk: int, columns: Sequence[str] | None = None) -> Fetch:
        """Start to fetch what `read` will need of remote stores.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which variables; all that have samples if None.

        Returns
        -------
        list of concurrent.futures.Future
            One a remote variable, to be given to `read`, or cancelled.
        """
        start, stop = self.chunk_edges[chunk : chunk + 2].tolist()
        return self.fetch_samples(start, stop, columns)

    def fetch_samples(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Fetch:
        """Start to fetch what `read_samples` will need of remote stores.

        Parameters
        ----------
        start : int
            The first sample.
        stop : int
            The sample after the last.
        columns : sequence of str, optional
            Which variables; all that have samples if None.

        Returns
        -------
        list of concurrent.futures.Future
            One a remote variable, to be given to `read_samples`, or cancelled.
        """
        variables = [self.variables[name] for name in self._sampled(columns)]
        return [fetch_region(one.read.array, one.region(start, stop)) for one in variables if one.is_remote]

    def read(
        self,
        chunk: int,
        columns: Sequence[str] | None = None,
        scratch: Scratch | None = None,
        *,
        fetched: Fetch | None = None,
    ) -> ArrayBlock:
        """Read one whole chunk.

        Parameters
        ----------
        chunk : int
            From 0 to ``num_chunks - 1``.
        columns : sequence of str, optional
            Which variables; all that have samples if None.
        scratch : Scratch, optional
            Memory to use again: what was read with it before is overwritten. Fresh memory if None.
        fetched : list of concurrent.futures.Future, optional
            What `fetch` returned for the same chunk and variables.

        Returns
        -------
        ArrayBlock
            ``chunk_rows[chunk]`` samples.

        Raises
        ------
        DataError
            If a chunk in the store is damaged; it is named.
        FetchError
            If a remote store does not give it.
        """
        start, stop = self.chunk_edges[chunk : chunk + 2].tolist()
        return self.read_samples(start, stop, columns, scratch, fetched=fetched)

    def read_samples(
        self,
        start: int,
        stop: int,
        columns: Sequence[str] | None = None,
        scratch: Scratch | None = None,
        *,
        fetched: Fetch | None = None,
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
        fetched : list of concurrent.futures.Future, optional
            What `fetch_samples` returned for the same samples and variables.

        Returns
        -------
        ArrayBlock
            The samples.

        Raises
        ------
        DataError
            If a chunk in the store is damaged; it is named.
        FetchError
            If a remote store does not give it.
        """
        scratch = scratch or Scratch()
        names = self._sampled(columns)
        coming = iter(fetched or self.fetch_samples(start, stop, names))
        futures = {name: next(coming) if self.variables[name].is_remote else None for name in names}
        arrays = {name: _read(self.variables[name], start, stop, scratch, futures[name]) for name in names}
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

    def _sampled(self, columns: Sequence[str] | None) -> Sequence[str]:
        return [name for name, one in self.variables.items() if not one.is_static] if columns is None else columns

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


def _read(
    variable: ArrayVariable, start: int, stop: int, scratch: Scratch, fetched: Future[Any] | None = None
) -> npt.NDArray[Any]:
    """Read samples of a variable, decoded, with the samples first."""
    read, region = variable.read, variable.region(start, stop)
    values = scratch.array(variable.name, [part.stop - part.start for part in region], read.array.dtype)
    read_region(read.array, region, values, scratch, fetched)
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
