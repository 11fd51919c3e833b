"""Functions of grids, and of parameters along some of their dimensions: block by block where Dask holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dtk.errors import DataError

__all__ = ["aligned", "map_cells"]


def map_cells(
    array: xr.DataArray, function: Callable[..., Any], *parameters: xr.Variable, dtype: np.dtype[Any]
) -> xr.DataArray:
    """Apply a function to each block of an array, and to what of the parameters belongs there.

    Parameters
    ----------
    array : xarray.DataArray
        Any; what is neither in memory nor Dask's is read by Dask.
    function : callable
        ``function(block, *parameters) -> block``. Each parameter has first the dimensions that the array lacks, which
        come whole, and then those of the array in order, of length 1 where it does not lie along one.
    *parameters : xarray.Variable
        In memory.
    dtype : numpy.dtype
        Of the result.

    Returns
    -------
    xarray.DataArray
        With the coordinates and attributes of the array; lazy where the array is.
    """
    import dask.array as da

    if not array.variable._in_memory and array.chunks is None:
        array = array.chunk({})
    dims = tuple(map(str, array.dims))
    ordered = [
        one.transpose(*(dim for dim in one.dims if dim not in dims), *(dim for dim in dims if dim in one.dims))
        for one in parameters
    ]
    layouts = [_layout(dims, tuple(map(str, one.dims))) for one in ordered]
    on_block = partial(_on_block, function=function, layouts=layouts, dtype=dtype)
    if array.chunks is None:
        values = on_block(np.asarray(array.data), *(one.values for one in ordered))
        return array.copy(data=values).drop_encoding()
    chunks = dict(zip(dims, array.data.chunks, strict=True))
    arguments: list[Any] = [array.data, dims]
    for one in ordered:
        of_one = tuple(chunks.get(str(dim), (size,)) for dim, size in one.sizes.items())
        arguments += [da.from_array(one.values, chunks=of_one), tuple(map(str, one.dims))]
    meta = np.empty((0,) * len(dims), dtype)
    lazy = da.blockwise(on_block, dims, *arguments, meta=meta, concatenate=True, align_arrays=False)
    return array.copy(data=lazy).drop_encoding()


def _layout(dims: tuple[str, ...], of_parameter: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the index that gives a parameter the dimensions of the array."""
    whole = sum(dim not in dims for dim in of_parameter)
    return (slice(None),) * whole + tuple(slice(None) if dim in of_parameter else np.newaxis for dim in dims)


def _on_block(
    block: np.ndarray,
    *parameters: np.ndarray,
    function: Callable[..., Any],
    layouts: Sequence[tuple[Any, ...]],
    dtype: np.dtype[Any],
) -> np.ndarray:
    with np.errstate(all="ignore"):  # infinite and missing values are what they are
        found = function(block, *(one[layout] for one, layout in zip(parameters, layouts, strict=True)))
    return np.asarray(found, dtype)


def aligned(parameter: xr.DataArray, array: xr.DataArray, name: str, *, whole: Sequence[str] = ()) -> xr.Variable:
    """Choose of a fitted parameter what belongs to an array.

    Parameters
    ----------
    parameter : xarray.DataArray
        What was fitted, with the coordinates of the fit.
    array : xarray.DataArray
        What it is applied to.
    name : str
        Of the variable, for errors.
    whole : sequence of str
        Dimensions of the parameter alone.

    Returns
    -------
    xarray.Variable
        With the labels of the array, in its order.

    Raises
    ------
    DataError
        If the array lacks a dimension, or has labels or a length that the fit did not see.
    """
    for dim in parameter.dims:
        if dim in whole:
            continue
        if dim not in array.dims:
            raise DataError(f"variable {name!r} has no dimension {dim!r}, which the fit kept; it has {array.dims}")
        if dim in parameter.indexes and dim in array.indexes:
            labels, wanted = parameter.indexes[dim], array.indexes[dim]
            if not labels.equals(wanted):
                unknown = wanted[~wanted.isin(labels)]
                if len(unknown):
                    raise DataError(
                        f"variable {name!r} has {dim}={unknown[0]}, one of {len(unknown)} labels that the fit did "
                        "not see; select those of the fit, or fit anew"
                    )
                if not labels.is_unique:
                    twice = labels[labels.duplicated()][0]
                    raise DataError(
                        f"{dim}={twice} was there several times at fit, and variable {name!r} has other labels; drop "
                        "the duplicates, and fit anew"
                    )
                parameter = parameter.isel({dim: labels.get_indexer(wanted)})
        elif parameter.sizes[dim] != array.sizes[dim]:
            raise DataError(
                f"variable {name!r} has {array.sizes[dim]} along {dim!r} where the fit had {parameter.sizes[dim]}; "
                "give both a coordinate, or fit anew"
            )
    return parameter.variable
