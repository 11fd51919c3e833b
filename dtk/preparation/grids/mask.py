"""Masks of grids: points that never have a value, such as land in a grid of the ocean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from sklearn.utils.validation import check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.grids.base import GridTransform, float_type
from dtk.preparation.grids.cells import aligned, map_cells
from dtk.preparation.grids.planning import plan_grid_fit
from dtk.preparation.grids.scaler import channel_names
from dtk.statistics import scan_grid

if TYPE_CHECKING:
    from dtk.preparation.grids.modules import MaskedGrid

__all__ = ["Mask"]


class Mask(GridTransform):
    """Fill in points that have no value, the same ones at all times.

    Parameters
    ----------
    mask : xarray.DataArray, optional
        bool, True where there is no value; for all variables that have its dimensions. By default the points that were
        missing at all times of the fit.
    dim : str
        The time, along which a mask stays the same.
    fill_value : float
        What is filled in.
    add_indicator : bool
        Whether to add the mask as a variable without the time, called ``"t_mask"`` for ``"t"``: 1 where there is no
        value, else 0. In a batch of a loader that is a static channel. Variables without such points have none.
    variables : sequence of str, optional
        Which; by default all of numbers that have the time, and the dimensions of a mask that is given.

    Attributes
    ----------
    mask_ : xarray.Dataset
        bool, for each variable, with the dimensions of the mask.
    dims_, sizes_ : dict
        The dimensions of each variable at fit, and their lengths.

    Notes
    -----
    Values that are missing at some times only stay missing. `inverse_transform` makes masked points NaN again.

    Examples
    --------
    >>> data = xr.Dataset({"sst": (("time", "x"), [[1.0, np.nan], [np.nan, np.nan]])})
    >>> Mask(fill_value=-9.0).fit_transform(data)["sst"].values.tolist()
    [[1.0, -9.0], [nan, -9.0]]
    """

    def __init__(
        self,
        mask: xr.DataArray | None = None,
        *,
        dim: str = "time",
        fill_value: float = 0.0,
        add_indicator: bool = False,
        variables: Sequence[str] | None = None,
    ) -> None:
        self.mask = mask
        self.dim = dim
        self.fill_value = fill_value
        self.add_indicator = add_indicator
        self.variables = variables

    def _fit(self, dataset: xr.Dataset) -> None:
        names = self.variables
        if names is None:
            needed = {self.dim} | (set() if self.mask is None else set(self.mask.dims))
            names = [name for name, dims in self.dims_.items() if needed <= set(dims)]
        if self.mask is not None:
            if self.mask.dtype != bool or self.dim in self.mask.dims:
                raise ArgumentError(f"mask={self.mask.dtype}{self.mask.dims} must be bool, without {self.dim!r}")
            fixed = self.mask.reset_coords(drop=True)
            self.mask_ = xr.Dataset(dict.fromkeys(names, fixed))
            for name in names:
                aligned(self.mask_[name], dataset[name], name)
            return
        keep = [dim for dim in self.sizes_ if dim != self.dim]
        plan_grid_fit(dataset, names, keep, 1).check("mask=None", "pass mask=..., or fewer variables=")
        found = scan_grid(dataset, keep, variables=names, label="fit")
        kept = {dim: dataset.indexes[dim].values for dim in keep if dim in dataset.indexes}
        masks = {name: xr.DataArray(one.count == 0, dims=one.dims) for name, one in found.items()}
        used = {dim for one in masks.values() for dim in one.dims}
        self.mask_ = xr.Dataset(masks, coords={dim: values for dim, values in kept.items() if dim in used})

    def _fitted_names(self) -> list[str]:
        return [str(name) for name in self.mask_.data_vars]

    def _apply(self, name: str, array: xr.DataArray, *, is_inverse: bool) -> xr.DataArray:
        mask = aligned(self.mask_[name], array, name)
        value = np.nan if is_inverse else self.fill_value
        return map_cells(array, partial(_fill, value=value), mask, dtype=float_type(array))

    def _finish(self, dataset: xr.Dataset) -> xr.Dataset:
        if not self.add_indicator:
            return dataset
        added = {}
        for name in self._masked_names(self._fitted_names()):
            if f"{name}_mask" in dataset.variables:
                raise DataError(f"variable '{name}_mask' is there already; rename it, or leave add_indicator out")
            if name in dataset.data_vars:
                mask = aligned(self.mask_[name], dataset[name], name)
                added[f"{name}_mask"] = mask.astype(np.float32)
        return dataset.assign(added)

    def _masked_names(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in self.mask_ and bool(self.mask_[name].any())]

    def as_module(self, variables: Sequence[str] | None = None, *, dim: str | None = None) -> MaskedGrid:
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
            ``forward(x)`` for ``[B, C, *dims]`` and ``[B, T, C, *dims]``; with `add_indicator` the channels of the
            masks come after those of `x`. ``inverse(x)`` makes masked points NaN.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If a variable was not there at fit, or samples lie along another dimension.
        """
        from dtk.preparation.grids.modules import MaskedGrid, as_channels

        check_is_fitted(self)
        if dim not in (None, self.dim):
            raise ArgumentError(f"dim={dim!r} is not the time, {self.dim!r}; leave it out")
        names = channel_names(self, variables, self.dim)
        nothing = xr.Variable((), np.False_)
        masks = {name: self.mask_[name].variable if name in self.mask_ else nothing for name in names}
        whole = as_channels(masks, self.dims_, self.sizes_, self.dim)
        indicator = None
        masked = self._masked_names(names) if self.add_indicator else []
        if masked:
            spatial = [one for one in self.dims_[names[0]] if one != self.dim][1 - whole.ndim :]
            full = (self.sizes_[one] for one in spatial)
            added = as_channels({name: masks[name] for name in masked}, self.dims_, self.sizes_, self.dim)
            indicator = np.broadcast_to(added, (len(added), *full))
        return MaskedGrid(whole, self.fill_value, indicator)


def _fill(x: np.ndarray, mask: np.ndarray, *, value: float) -> np.ndarray:
    return np.where(mask, value, x)
