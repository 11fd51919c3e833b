"""From an xarray Dataset, or the path of a store, to a source of samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError
from dtk.sources.arrays import ArraySource
from dtk.sources.plain_read import plain_read
from dtk.sources.variables import ArrayVariable

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["array_source", "as_dataset", "source_of_dataset"]

_LEAST_NBYTES: Final = 1 << 20  # of a chunk, decoded


def source_of_dataset(
    data: xr.Dataset, columns: Sequence[str] | None = None, dim: str | None = None, labels: Sequence[str] = ()
) -> ArraySource:
    """Turn an xarray Dataset that is read from Zarr into a source.

    Parameters
    ----------
    data : xarray.Dataset
        Opened from Zarr, selected by slices or single positions at most.
    columns : sequence of str, optional
        Which variables; all data variables if None.
    dim : str, optional
        The dimension of the samples; if None, the one that `labels` share, or the first one of the biggest variable.
    labels : sequence of str
        Those of the variables that have a value for each sample, as a target does.

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
        If a variable or the dimension is not there, or the dimension would be a guess.
    """
    names = [str(name) for name in (data.data_vars if columns is None else columns)]
    for name in names:
        if name not in data.variables:
            known = [str(known) for known in data.variables]
            raise ArgumentError(f"{name!r} is no variable of the data{did_you_mean(name, known)}")
    if names and not any(data[name].dims for name in names):
        raise DataError(f"variables {names} have no dimensions: each is one number, and holds no samples")
    if dim is None:
        dim = _sample_dim({name: data[name] for name in names if data[name].dims}, labels)
    elif dim not in data.sizes:
        known = [str(known) for known in data.sizes]
        raise ArgumentError(f"dim={dim!r} is no dimension of the data{did_you_mean(str(dim), known)}")
    variables = {name: _variable(name, data[name].variable, dim) for name in names}
    samples = [variable for variable in variables.values() if not variable.is_static]
    if not samples:
        raise ArgumentError(f"dim={dim!r} is in none of the variables {names}")
    return ArraySource(dim, variables, int(data.sizes[dim]), _edges(samples, int(data.sizes[dim])))


def array_source(
    data: Any, columns: Sequence[str] | None = None, dim: str | None = None, labels: Sequence[str] = ()
) -> ArraySource | None:
    """Turn data of dimensions into a source; None for a table.

    Parameters
    ----------
    data : object
        An xarray Dataset, the path of a Zarr store, an `ArraySource`, or anything else.
    columns : sequence of str, optional
        Which variables; all data variables if None.
    dim : str, optional
        The dimension of the samples; if None, the one that `labels` share, or the first one of the biggest variable.
    labels : sequence of str
        Those of the variables that have a value for each sample, as a target does.

    Returns
    -------
    ArraySource or None
        None if `data` is nothing of this kind.

    Raises
    ------
    SourceError
        If a variable is computed, and not read.
    ArgumentError
        If a variable or the dimension is not there, or the dimension would be a guess.
    """
    if isinstance(data, ArraySource):
        if dim not in (None, data.dim):
            raise ArgumentError(f"dim={dim!r} is not that of the source, {data.dim!r}; leave it out")
        return data
    dataset = as_dataset(data)
    return None if dataset is None else source_of_dataset(dataset, columns, dim, labels)


def as_dataset(data: Any, *, by_dask: bool = True) -> xr.Dataset | None:
    """Open data of dimensions; None for a table.

    Parameters
    ----------
    data : object
        An xarray Dataset, the path of a Zarr store, or anything else.
    by_dask : bool
        Whether Dask is to read the Zarr store at a path. What reads its chunks itself does without, which takes no time
        for each.

    Returns
    -------
    xarray.Dataset or None
        None if `data` is nothing of this kind.
    """
    if isinstance(data, str | os.PathLike):
        from dtk.sources.listing import list_files
        from dtk.sources.open import open_listing, open_zarr_lazily

        listing = list_files(data)
        if listing.format not in {"zarr", "netcdf"}:
            return None
        data = open_listing(listing) if by_dask or listing.format != "zarr" else open_zarr_lazily(listing)
    return data if hasattr(data, "data_vars") else None


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


def _sample_dim(variables: Mapping[str, xr.DataArray], labels: Sequence[str]) -> str:
    """Choose the dimension of the samples; refuse what would be a guess, unless the labels are refused later."""
    if not variables:
        raise ArgumentError("there are no variables, and so no samples; choose some")
    told = [variables[name] for name in labels if name in variables]
    shared = [str(dim) for dim in told[0].dims if all(dim in one.dims for one in told)] if told else []
    if len(shared) == 1:
        return shared[0]
    largest = max(variables.values(), key=lambda one: one.nbytes)
    dim = str(largest.dims[0])
    of_samples = {other for one in variables.values() if dim in one.dims for other in one.dims}
    strange = [one for one in variables.values() if not of_samples.issuperset(one.dims)]
    if strange and not told:
        raise ArgumentError(
            f"samples may lie along {dim!r}, the first dimension of {largest.name!r}, the biggest variable, or along "
            f"{strange[0].dims[0]!r}, that of {strange[0].name!r}; pass dim={dim!r} or dim={strange[0].dims[0]!r}, or "
            "leave variables out"
        )
    return dim


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
