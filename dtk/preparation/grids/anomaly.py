"""Anomalies: what is left of a grid when its usual course over the year or the day is subtracted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from sklearn.utils.validation import check_is_fitted

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError
from dtk.preparation.grids.base import GridTransform, float_type, opened
from dtk.preparation.grids.cells import aligned, map_cells
from dtk.preparation.grids.planning import plan_grid_fit
from dtk.preparation.grids.scaler import channel_names, fitted_grid, safe_scale, shift_and_scale
from dtk.statistics import GridGroups, scan_grid

if TYPE_CHECKING:
    from dtk.preparation.grids.modules import AffineGrid

__all__ = ["Anomaly"]

_PARTS: Final = ("month", "season", "quarter", "dayofyear", "day", "weekday", "hour", "minute", "year")


class Anomaly(GridTransform):
    """Subtract a climatology: the mean of each month, day of the year or hour, at each point.

    Parameters
    ----------
    by : str
        The groups: ``"month"``, ``"season"``, ``"quarter"``, ``"dayofyear"``, ``"day"``, ``"weekday"``, ``"hour"``,
        ``"minute"`` or ``"year"``, as `xarray` takes them from the time (``data["time.month"]``).
    dim : str
        The time: a dimension with a coordinate of dates.
    dims : sequence of str, optional
        Dimensions that are kept, all but the time by default: a climatology for each point.
    with_std : bool
        Whether to divide by the standard deviation of the group, too.
    variables : sequence of str, optional
        Which; by default all of numbers that have the time.

    Attributes
    ----------
    climatology_, scale_ : xarray.Dataset
        float64: the means and the population's standard deviations, with a first dimension of groups, called as `by`.
    count_ : xarray.Dataset
        int64: values that are present.
    dims_, sizes_ : dict
        The dimensions of each variable at fit, and their lengths.

    Notes
    -----
    The fit is one pass. A thread holds 48 bytes for each group and point of the variables that it reads, and the
    transform keeps 24: 366 days of a million points are 17 GB in the fit, so choose months, or fewer `dims`, for such
    grids. A fit of which one task needs more than a worker has, or the result more than this machine, is refused before
    anything is read. The 366th day has leap years alone.

    Examples
    --------
    >>> time = np.array(["2020-01-10", "2020-01-20", "2020-02-10"], "M8[ns]")
    >>> data = xr.Dataset({"t": ("time", [1.0, 3.0, 8.0])}, coords={"time": time})
    >>> Anomaly("month").fit_transform(data)["t"].values
    array([-1.,  1.,  0.])
    """

    def __init__(
        self,
        by: str = "month",
        *,
        dim: str = "time",
        dims: Sequence[str] | None = None,
        with_std: bool = False,
        variables: Sequence[str] | None = None,
    ) -> None:
        self.by = by
        self.dim = dim
        self.dims = dims
        self.with_std = with_std
        self.variables = variables

    def _fit(self, dataset: xr.Dataset) -> None:
        labels = self._labels(dataset)
        names = self.variables
        if names is None:
            names = [name for name, dims in self.dims_.items() if self.dim in dims]
        lacking = [name for name in names if self.dim not in self.dims_[name]]
        if lacking:
            raise ArgumentError(
                f"variables={list(names)!r}: {lacking[0]!r} has no dimension {self.dim!r}; leave it out"
            )
        keep = [dim for dim in self.sizes_ if dim != self.dim] if self.dims is None else [*self.dims]
        if self.dim in keep:
            raise ArgumentError(f"dims={keep!r} must not keep {self.dim!r}, which is grouped")
        known, codes = np.unique(labels, return_inverse=True)
        plan_grid_fit(dataset, names, keep, len(known)).check(
            f"by={self.by!r} with dims={keep!r}",
            "choose larger groups, such as by='month', fewer dims=, or fewer variables=",
        )
        groups = GridGroups(self.by, self.dim, codes.astype(np.int64), len(known))
        found = scan_grid(dataset, keep, variables=names, groups=groups, label="fit")
        coords = {self.by: known}
        self.climatology_ = fitted_grid(dataset, found, "mean").assign_coords(coords)
        self.scale_ = fitted_grid(dataset, found, "std").map(safe_scale).assign_coords(coords)
        self.count_ = fitted_grid(dataset, found, "count").assign_coords(coords)

    def _labels(self, data: xr.Dataset | xr.DataArray) -> np.ndarray:
        """Return the group's label of each time."""
        if self.by not in _PARTS:
            raise ArgumentError(f"by={self.by!r} is no part of a date{did_you_mean(self.by, _PARTS)}: {_PARTS}")
        if self.dim not in data.coords:
            raise DataError(f"the data has no coordinate {self.dim!r}; pass dim=..., or assign dates to it")
        time = data[self.dim]
        num_missing = int(time.isnull().sum())
        if num_missing:
            raise DataError(
                f"coordinate {self.dim!r} holds {num_missing} missing dates, which belong to no group; leave them "
                f"out with data.sel({self.dim}=data[{self.dim!r}].notnull())"
            )
        try:
            return np.asarray(getattr(time.dt, self.by).values)
        except (AttributeError, TypeError) as error:
            raise DataError(f"coordinate {self.dim!r} holds {time.dtype}, no dates; decode it first") from error

    def groups(self, data: Any) -> xr.DataArray:
        """Return which group of the climatology each time belongs to.

        Parameters
        ----------
        data : xarray.Dataset, xarray.DataArray or str
            With the time.

        Returns
        -------
        xarray.DataArray
            int64 along the time: positions along the first dimension of `climatology_`.

        Raises
        ------
        DataError
            If a time belongs to no group of the fit.
        """
        check_is_fitted(self)
        dataset = opened(data)
        return xr.DataArray(self._codes(dataset), dims=[self.dim], coords={self.dim: dataset[self.dim]}, name=self.by)

    def _codes(self, data: xr.Dataset | xr.DataArray) -> np.ndarray:
        labels, known = self._labels(data), self.climatology_[self.by].values
        unknown = np.unique(labels[~np.isin(labels, known)])
        if len(unknown):
            raise DataError(
                f"{self.by}={unknown.tolist()} of the data had no time at fit; fit on data that covers them, or leave "
                "these times out"
            )
        return np.searchsorted(known, labels).astype(np.int64)

    def _fitted_names(self) -> list[str]:
        return [str(name) for name in self.climatology_.data_vars]

    def _apply(self, name: str, array: xr.DataArray, *, is_inverse: bool) -> xr.DataArray:
        if self.dim not in array.dims:
            raise DataError(f"variable {name!r} has no dimension {self.dim!r} any more; it has {array.dims}")
        mean = aligned(self.climatology_[name], array, name, whole=[self.by])
        scale = aligned(self.scale_[name], array, name, whole=[self.by]) if self.with_std else xr.Variable((), 1.0)
        axis = array.dims.index(self.dim)
        function = partial(_by_group, axis=axis, with_std=self.with_std, is_inverse=is_inverse)
        codes = xr.Variable((self.dim,), self._codes(array))
        return map_cells(array, function, codes, mean, scale, dtype=float_type(array))

    def as_module(self, variables: Sequence[str] | None = None, *, dim: str | None = None) -> AffineGrid:
        """Return the same as a torch module, for batches of a loader.

        Parameters
        ----------
        variables : sequence of str, optional
            Those that are the channels of the batch, in order, see `GridScaler.as_module`.
        dim : str, optional
            The dimension of the samples; the time by default, and nothing else.

        Returns
        -------
        torch.nn.Module
            ``forward(x, group)`` and ``inverse(x, group)`` for ``[B, C, *dims]`` with groups ``[B]``, and ``[B, T, C,
            *dims]`` with ``[B, T]``; the groups are what `groups` gives for the times of the batch.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If a variable was not there at fit, or samples lie along another dimension.
        """
        from dtk.preparation.grids.modules import AffineGrid, as_channels

        check_is_fitted(self)
        if dim not in (None, self.dim):
            raise ArgumentError(f"dim={dim!r} is not the time, {self.dim!r}; leave it out")
        size = self.climatology_.sizes[self.by]
        pairs = {}
        for name in channel_names(self, variables, self.dim):
            mean, scale = (xr.Variable((self.by,), np.full(size, value)) for value in (0.0, 1.0))
            if name in self.climatology_:
                mean = self.climatology_[name].variable
                scale = self.scale_[name].variable if self.with_std else scale
            pairs[name] = mean, scale
        shift, divisor = (
            as_channels({name: pair[which] for name, pair in pairs.items()}, self.dims_, self.sizes_, self.dim, self.by)
            for which in (0, 1)
        )
        return AffineGrid(shift, divisor, is_grouped=True)


def _by_group(
    x: np.ndarray,
    codes: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    *,
    axis: int,
    with_std: bool,
    is_inverse: bool,
) -> np.ndarray:
    """Shift and scale a block, of which each position along the axis has a group."""
    chosen = [
        np.moveaxis(one.squeeze(axis + 1)[codes.ravel()], 0, axis) if is_grouped else one
        for one, is_grouped in ((mean, True), (scale, with_std))
    ]
    return shift_and_scale(x, *chosen, is_inverse=is_inverse)
