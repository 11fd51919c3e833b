"""Scaling of the variables of grids: per variable, per level or per point."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from sklearn.utils.validation import check_is_fitted

from dtk.errors import ArgumentError
from dtk.preparation.grids.base import GridTransform, float_type
from dtk.preparation.grids.cells import aligned, map_cells
from dtk.preparation.grids.planning import plan_grid_fit
from dtk.statistics import GridMoments, scan_grid

if TYPE_CHECKING:
    from dtk.preparation.grids.modules import AffineGrid

__all__ = ["GridScaler", "fitted_grid", "safe_scale", "shift_and_scale"]


class GridScaler(GridTransform):
    """Shift each variable by its mean and divide it by its standard deviation.

    Parameters
    ----------
    dims : sequence of str
        Dimensions that are kept: ``()`` scales each variable as a whole, ``["level"]`` each of its levels, ``["lat",
        "lon"]`` each point. A variable keeps those that it has.
    with_mean : bool
        Whether to shift.
    with_std : bool
        Whether to divide. Where a variable is constant it is only shifted.
    variables : sequence of str, optional
        Which; by default all of numbers of which a dimension is not kept.

    Attributes
    ----------
    mean_, scale_ : xarray.Dataset
        float64, with the dimensions kept and their coordinates. The deviation is that of the population.
    count_ : xarray.Dataset
        int64: values that are present.
    dims_, sizes_ : dict
        The dimensions of each variable at fit, and their lengths.

    Notes
    -----
    NaN is missing and stays so; a cell without any value becomes NaN. One pass reads all variables, see
    `dtk.statistics.scan_grid`.

    Examples
    --------
    >>> data = xr.Dataset({"t": (("time", "level"), [[1.0, 10.0], [3.0, 30.0]])})
    >>> scaler = GridScaler(dims=["level"]).fit(data)
    >>> scaler.mean_["t"].values, scaler.transform(data)["t"].values.tolist()
    (array([ 2., 20.]), [[-1.0, -1.0], [1.0, 1.0]])
    """

    def __init__(
        self,
        dims: Sequence[str] = (),
        *,
        with_mean: bool = True,
        with_std: bool = True,
        variables: Sequence[str] | None = None,
    ) -> None:
        self.dims = dims
        self.with_mean = with_mean
        self.with_std = with_std
        self.variables = variables

    def _fit(self, dataset: xr.Dataset) -> None:
        keep = [self.dims] if isinstance(self.dims, str) else list(self.dims)
        names = self.variables
        if names is None:
            names = [name for name, dims in self.dims_.items() if set(dims) - set(keep)]
        plan_grid_fit(dataset, names, keep, 1).check(f"dims={keep!r}", "keep fewer dims=, or fit fewer variables=")
        found = scan_grid(dataset, keep, variables=names, label="fit")
        self.mean_ = fitted_grid(dataset, found, "mean")
        self.scale_ = fitted_grid(dataset, found, "std").map(safe_scale)
        self.count_ = fitted_grid(dataset, found, "count")

    def _fitted_names(self) -> list[str]:
        return [str(name) for name in self.mean_.data_vars]

    def _apply(self, name: str, array: xr.DataArray, *, is_inverse: bool) -> xr.DataArray:
        mean, scale = (aligned(one[name], array, name) for one in (self.mean_, self.scale_))
        mean, scale = self._used(mean, scale)
        function = partial(shift_and_scale, is_inverse=is_inverse)
        return map_cells(array, function, mean, scale, dtype=float_type(array))

    def _used(self, mean: xr.Variable, scale: xr.Variable) -> tuple[xr.Variable, xr.Variable]:
        return mean if self.with_mean else mean * 0.0, scale if self.with_std else scale * 0.0 + 1.0

    def as_module(self, variables: Sequence[str] | None = None, *, dim: str = "time") -> AffineGrid:
        """Return the same as a torch module, for batches of a loader.

        Parameters
        ----------
        variables : sequence of str, optional
            Those that are the channels of the batch, in order, as ``inputs=`` of the loader. By default all that have
            the dimension of the samples, sorted by name, as the loader does. Those that were not fitted stay as they
            are.
        dim : str
            The dimension of the samples.

        Returns
        -------
        torch.nn.Module
            ``forward(x)`` and ``inverse(x)`` for ``[B, C, *dims]`` and ``[B, T, C, *dims]``.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If a variable was not there at fit, or the dimension of the samples was kept.
        """
        from dtk.preparation.grids.modules import AffineGrid, as_channels

        check_is_fitted(self)
        pairs = {}
        for name in channel_names(self, variables, dim):
            mean, scale = xr.Variable((), 0.0), xr.Variable((), 1.0)
            if name in self.mean_:
                mean, scale = self._used(self.mean_[name].variable, self.scale_[name].variable)
            pairs[name] = mean, scale
        shift, divisor = (
            as_channels({name: pair[which] for name, pair in pairs.items()}, self.dims_, self.sizes_, dim)
            for which in (0, 1)
        )
        return AffineGrid(shift, divisor)


def channel_names(transform: Any, variables: Sequence[str] | None, dim: str) -> list[str]:
    """Return the variables that are the channels of a batch, in order.

    Parameters
    ----------
    transform : GridTransform
        Fitted.
    variables : sequence of str, optional
        What the user says.
    dim : str
        The dimension of the samples.

    Returns
    -------
    list of str
        As the loader orders them.

    Raises
    ------
    ArgumentError
        If one was not there at fit, or the parameters lie along the samples.
    """
    names = sorted(name for name, dims in transform.dims_.items() if dim in dims) if variables is None else [*variables]
    unknown = [name for name in names if name not in transform.dims_]
    if unknown or not names:
        raise ArgumentError(f"variables={names!r} and dim={dim!r} do not fit the data of the fit, {transform.dims_}")
    kept = getattr(transform, "dims", None) or ()
    if dim in kept:
        raise ArgumentError(
            f"dims={list(kept)!r} keeps {dim!r}, along which samples lie; leave it out to have a module"
        )
    return names


def fitted_grid(dataset: xr.Dataset, found: dict[str, GridMoments], name: str) -> xr.Dataset:
    """Return one of the moments of all variables, with coordinates.

    Parameters
    ----------
    dataset : xarray.Dataset
        What was scanned.
    found : dict of str to GridMoments
        By variable.
    name : str
        Of the moment.

    Returns
    -------
    xarray.Dataset
        In memory.
    """
    variables = {key: (one.dims, getattr(one, name)) for key, one in found.items()}
    kept = {dim for one in found.values() for dim in one.dims}
    coords = {dim: (dim, dataset.indexes[dim].values) for dim in kept if dim in dataset.indexes}
    return xr.Dataset(variables, coords=coords)


def safe_scale(scale: xr.DataArray) -> xr.DataArray:
    """Replace what scikit-learn takes for zero by 1.

    Parameters
    ----------
    scale : xarray.DataArray
        Standard deviations.

    Returns
    -------
    xarray.DataArray
        To divide by.
    """
    return scale.where(~(scale < 10 * np.finfo(np.float64).eps), 1.0)


def shift_and_scale(x: np.ndarray, mean: np.ndarray, scale: np.ndarray, *, is_inverse: bool) -> np.ndarray:
    """Compute in float64.

    Parameters
    ----------
    x : numpy.ndarray
        Numbers.
    mean, scale : numpy.ndarray
        float64, broadcast against `x`.
    is_inverse : bool
        Whether to undo it.

    Returns
    -------
    numpy.ndarray
        float64, of the shape of `x`.
    """
    found: np.ndarray = x * scale + mean if is_inverse else (x - mean) / scale
    return found
