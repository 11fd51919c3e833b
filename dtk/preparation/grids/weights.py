"""Weights of points on a sphere."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr

from dtk.errors import ArgumentError, DataError
from dtk.preparation.grids.base import opened

__all__ = ["latitude_weights"]

_NAMES: Final = ("lat", "latitude")


def latitude_weights(
    data: Any, *, dim: str | None = None, method: str = "cos", along: tuple[str, ...] = (), name: str = "weights"
) -> xr.DataArray:
    """Weigh points by the area that they stand for, which shrinks towards the poles.

    Parameters
    ----------
    data : xarray.Dataset, xarray.DataArray or str
        With a coordinate of latitudes in degrees, regular or not.
    dim : str, optional
        The latitude; ``"lat"``, ``"latitude"`` or the coordinate with units of degrees north by default.
    method : str
        ``"cos"``: the cosine. ``"area"``: exactly the area of the cell, whose edges lie half-way to its neighbours and
        no further than the poles; of a point at a pole, too, where the cosine is 0.
    along : tuple of str
        Dimensions of `data` to repeat it along, after the latitude: with ``("lon",)`` it is a map, which the loader
        takes as a static input.
    name : str
        What to call it.

    Returns
    -------
    xarray.DataArray
        float64 along the latitude, with a mean of 1; in memory. Written to the store of the data
        (``weights.to_dataset().to_zarr(path, mode="a")``) `dtk.Loader` gives it as ``"static"``.

    Raises
    ------
    ArgumentError
        If the method or a dimension is not there.
    DataError
        If there are no latitudes, or one lies beyond a pole.

    Examples
    --------
    >>> data = xr.Dataset(coords={"lat": [-60.0, 0.0, 60.0], "lon": [0.0, 180.0]})
    >>> latitude_weights(data).values
    array([0.75, 1.5 , 0.75])
    """
    dataset = opened(data)
    if method not in ("cos", "area"):
        raise ArgumentError(f"method={method!r} must be 'cos' or 'area'")
    dim = _latitude(dataset) if dim is None else dim
    if dim not in dataset.indexes:
        raise ArgumentError(f"dim={dim!r} is no dimension with a coordinate; there are {[*map(str, dataset.indexes)]}")
    unknown = [one for one in along if one not in dataset.sizes]
    if unknown:
        raise ArgumentError(
            f"along={along!r} names {unknown[0]!r}, which is no dimension; there are {[*dataset.sizes]}"
        )
    degrees = np.asarray(dataset.indexes[dim], np.float64)
    if not len(degrees) or not (np.abs(degrees) <= 90).all():
        raise DataError(f"coordinate {dim!r} must hold latitudes between -90 and 90 degrees; choose another with dim=")
    weights = np.cos(np.deg2rad(degrees)) if method == "cos" else _areas(degrees)
    found = xr.DataArray(weights / weights.mean(), dims=[dim], coords={dim: dataset[dim]}, name=name)
    shape = {dim: len(degrees)} | {one: dataset.sizes[one] for one in along}
    coords = {one: dataset[one] for one in shape if one in dataset.indexes}
    repeated = found.variable.set_dims(shape)  # type: ignore[no-untyped-call]
    return xr.DataArray(repeated.copy(deep=True), coords=coords, name=name)


def _latitude(dataset: xr.Dataset) -> str:
    for name in dataset.indexes:
        units = str(dataset[name].attrs.get("units", ""))
        if name in _NAMES or dataset[name].attrs.get("standard_name") == "latitude" or units == "degrees_north":
            return str(name)
    raise DataError(f"the data has no latitude that says so; pass dim=..., one of {[*map(str, dataset.indexes)]}")


def _areas(degrees: np.ndarray) -> np.ndarray:
    """Return the areas of rings on the unit sphere, over 2 pi."""
    if len(degrees) == 1:
        return np.ones(1)
    order = np.argsort(degrees)
    ordered = degrees[order]
    if not (np.diff(ordered) > 0).all():
        raise DataError("latitudes repeat, so that their cells have no area; drop the duplicates")
    between = (ordered[1:] + ordered[:-1]) / 2
    first, last = 2 * ordered[0] - between[0], 2 * ordered[-1] - between[-1]
    edges = np.clip(np.concatenate([[first], between, [last]]), -90, 90)
    areas = np.empty_like(degrees)
    areas[order] = np.diff(np.sin(np.deg2rad(edges)))
    return areas
