"""Transforms of grids as torch modules, on batches as `dtk.Loader` gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from dtk.errors import ArgumentError

__all__ = ["AffineGrid", "MaskedGrid", "as_channels"]


class AffineGrid(nn.Module):
    """Shift and scale channels: `GridScaler`, and `Anomaly` with the groups of the samples.

    Parameters
    ----------
    mean, scale : numpy.ndarray
        float64, broadcast against ``[channels, *dimensions]``; with a first axis of groups if `is_grouped`.
    is_grouped : bool
        Whether samples choose by their group.

    Notes
    -----
    The mean is held in two floats, so that digits survive where it is much larger than the spread.
    """

    mean: Tensor
    rest: Tensor
    scale: Tensor

    def __init__(self, mean: np.ndarray, scale: np.ndarray, *, is_grouped: bool = False) -> None:
        super().__init__()
        first = mean.astype(np.float32)
        for name, values in (("mean", first), ("rest", mean - first), ("scale", scale)):
            self.register_buffer(name, torch.as_tensor(values.astype(np.float32)), persistent=False)
        self.is_grouped = is_grouped

    def forward(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """Compute the output of a batch.

        Parameters
        ----------
        x : torch.Tensor
            ``[B, C, *dims]`` or ``[B, T, C, *dims]``.
        group : torch.Tensor, optional
            int64 ``[B]`` or ``[B, T]``: the group of each sample, where there are groups.

        Returns
        -------
        torch.Tensor
            Of the shape of `x`.
        """
        mean, rest, scale = self._chosen(group)
        return (x - mean - rest) / scale

    def inverse(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """Undo `forward`.

        Parameters
        ----------
        x : torch.Tensor
            As for `forward`.
        group : torch.Tensor, optional
            As for `forward`.

        Returns
        -------
        torch.Tensor
            Of the shape of `x`.
        """
        mean, rest, scale = self._chosen(group)
        return x * scale + rest + mean

    def _chosen(self, group: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if not self.is_grouped:
            return self.mean, self.rest, self.scale
        if group is None:
            raise ArgumentError(
                "group=None leaves open which climatology a sample takes; give Anomaly.groups of its time"
            )
        return self.mean[group], self.rest[group], self.scale[group]


class MaskedGrid(nn.Module):
    """Fill in what is masked, and add the mask as channels on request: `Mask`.

    Parameters
    ----------
    mask : numpy.ndarray
        bool, broadcast against ``[channels, *dimensions]``: True where there is no value.
    fill_value : float
        What is filled in.
    indicator : numpy.ndarray, optional
        bool ``[channels, *dimensions]``: channels to add.
    """

    mask: Tensor
    indicator: Tensor | None

    def __init__(self, mask: np.ndarray, fill_value: float, indicator: np.ndarray | None = None) -> None:
        super().__init__()
        self.register_buffer("mask", torch.as_tensor(mask), persistent=False)
        added = None if indicator is None else torch.as_tensor(indicator.astype(np.float32))
        self.register_buffer("indicator", added, persistent=False)
        self.fill_value = fill_value

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of a batch.

        Parameters
        ----------
        x : torch.Tensor
            ``[B, C, *dims]`` or ``[B, T, C, *dims]``.

        Returns
        -------
        torch.Tensor
            With the channels of the mask after those of `x`.
        """
        filled = x.masked_fill(self.mask, self.fill_value)
        if self.indicator is None:
            return filled
        axis = x.ndim - self.indicator.ndim
        added = self.indicator.to(x.dtype).expand(*x.shape[:axis], *self.indicator.shape)
        return torch.cat([filled, added], dim=axis)

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`, without the channels of the mask.

        Parameters
        ----------
        x : torch.Tensor
            As `forward` takes it.

        Returns
        -------
        torch.Tensor
            NaN where there is no value.
        """
        return x.masked_fill(self.mask, math.nan)


def as_channels(
    parameters: Mapping[str, xr.Variable],
    dims: Mapping[str, Sequence[str]],
    sizes: Mapping[str, int],
    dim: str,
    group: str | None = None,
) -> np.ndarray:
    """Put parameters of variables beside each other, as the loader does with the variables.

    Parameters
    ----------
    parameters : mapping of str to xarray.Variable
        By variable, in the order of the channels.
    dims : mapping of str to sequence of str
        The dimensions of each variable.
    sizes : mapping of str to int
        The length of each dimension.
    dim : str
        That of the samples.
    group : str, optional
        A first dimension of all parameters.

    Returns
    -------
    numpy.ndarray
        ``[channels, *dimensions]``, of length 1 along dimensions in which no parameter differs; groups come first.

    Raises
    ------
    ArgumentError
        If the variables do not end with the same dimensions.
    """
    kept = {name: [one for one in dims[name] if one != dim] for name in parameters}
    spatial = max(kept.values(), key=len)[-2:]
    of_groups = [group] if group else []
    found = []
    for name, parameter in parameters.items():
        if kept[name][len(kept[name]) - len(spatial) :] != spatial:
            raise ArgumentError(
                f"variables={list(parameters)!r}: {name!r} has {kept[name]}, and not {spatial} at the end"
            )
        channels = kept[name][: len(kept[name]) - len(spatial)]
        wanted = [*of_groups, *channels, *(one for one in spatial if one in parameter.dims)]
        lengths = {one: parameter.sizes[one] if one in parameter.dims else sizes[one] for one in wanted}
        values = parameter.set_dims(lengths).values  # type: ignore[no-untyped-call]
        groups = [lengths[one] for one in of_groups]
        num_channels = math.prod(lengths[one] for one in channels)
        found.append(values.reshape(*groups, num_channels, *(lengths.get(one, 1) for one in spatial)))
    axis = len(of_groups)
    shape = np.broadcast_shapes(*(one.shape[axis + 1 :] for one in found))
    return np.concatenate([np.broadcast_to(one, (*one.shape[: axis + 1], *shape)) for one in found], axis=axis)
