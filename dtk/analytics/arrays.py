"""The variables of an xarray Dataset, in one pass over their chunks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from dtk.analytics.numbers import Value, iso_date, json_fields, known_number
from dtk.statistics import Moments
from dtk.statistics.grid_blocks import BlockGroup, grouped_blocks

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["DimProfile", "VariableProfile", "profile_dims", "profile_variables"]

_SUMMARISED: Final = "biufmM"  # NumPy's kinds that Arrow knows as numbers or dates


@dataclass(frozen=True)
class VariableProfile:
    """What one variable holds. Dates are ISO 8601 strings; what does not apply is None.

    Parameters
    ----------
    name : str
        The variable.
    dims : tuple of str
        Its dimensions.
    shape : tuple of int
        Its length along each.
    chunks : tuple of int or None
        The longest chunk along each dimension; None for a variable in memory.
    dtype : str
        NumPy's type.
    units : str or None
        What its attributes say.
    nbytes : int
        In memory.
    num_missing : int or None
        NaN and NaT.
    mean, std : float or None
        For the population (``ddof=0``); durations in seconds.
    min, max : str, int, float or None
        Its range.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...] | None
    dtype: str
    units: str | None
    nbytes: int
    num_missing: int | None = None
    mean: float | None = None
    std: float | None = None
    min: Value = None
    max: Value = None

    @property
    def missing_share(self) -> float | None:
        """The share of values that are missing; None where that is not known."""
        size = math.prod(self.shape)
        return None if self.num_missing is None or size == 0 else self.num_missing / size

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        Returns
        -------
        dict
            All fields, and the missing share.
        """
        return json_fields(asdict(self) | {"missing_share": self.missing_share})


@dataclass(frozen=True)
class DimProfile:
    """One dimension of a Dataset.

    Parameters
    ----------
    name : str
        The dimension.
    size : int
        Its length.
    first, last : str, int, float or None
        The ends of its coordinate; None without one.
    """

    name: str
    size: int
    first: Value = None
    last: Value = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        Returns
        -------
        dict
            All fields.
        """
        return asdict(self)


def profile_dims(dataset: xr.Dataset) -> tuple[DimProfile, ...]:
    """Describe the dimensions, from coordinates in memory.

    Parameters
    ----------
    dataset : xarray.Dataset
        Any Dataset.

    Returns
    -------
    tuple of DimProfile
        In the order of the Dataset.
    """
    found = []
    for name, size in dataset.sizes.items():
        ends: list[Value] = [None, None]
        if name in dataset.indexes and size:
            index = dataset.indexes[name]
            ends = [_plain(index[0]), _plain(index[-1])]
        found.append(DimProfile(str(name), size, *ends))
    return tuple(found)


def _plain(value: Any) -> Value:
    item = value.item() if isinstance(value, np.generic) else value
    if isinstance(item, (bool, int, float, str)):
        return item
    return str(item).replace(" ", "T").removesuffix("T00:00:00")


def profile_variables(dataset: xr.Dataset, *, progress: bool = False) -> tuple[VariableProfile, ...]:
    """Describe the data variables: each chunk is read once, all variables in one Dask computation.

    Parameters
    ----------
    dataset : xarray.Dataset
        Lazy, in memory, or both.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    tuple of VariableProfile
        In the order of the Dataset.
    """
    from dtk.runtime import delayed_reduce

    moments: dict[str, Moments] = {}
    groups: list[Any] = []
    for name, variable in dataset.data_vars.items():
        if variable.dtype.kind not in _SUMMARISED:
            continue
        if hasattr(variable.data, "to_delayed"):
            groups += grouped_blocks(str(name), variable.data, "profile")
        else:
            moments[str(name)] = _block_moments(np.asarray(variable.data))
    if groups:
        lazy: dict[str, Moments] = delayed_reduce(_group_moments, _merged, groups, label="profile", progress=progress)
        moments |= lazy
    return tuple(_describe(str(name), variable, moments.get(str(name))) for name, variable in dataset.data_vars.items())


def _group_moments(group: BlockGroup) -> dict[str, Moments]:
    moments = Moments()
    for block in group.blocks:
        moments.merge(_block_moments(block))
    return {group.name: moments}


def _block_moments(block: np.ndarray) -> Moments:
    values = np.ascontiguousarray(block).reshape(-1)
    if not values.dtype.isnative:  # NetCDF 3 is big-endian, which Arrow does not take
        values = values.astype(values.dtype.newbyteorder("="))
    moments = Moments()
    moments.update(pa.array(values))
    return moments


def _merged(parts: list[dict[str, Moments]]) -> dict[str, Moments]:
    merged: dict[str, Moments] = {}
    for part in parts:
        for name, moments in part.items():
            merged.setdefault(name, Moments()).merge(moments)
    return merged


def _describe(name: str, variable: xr.DataArray, moments: Moments | None) -> VariableProfile:
    chunks = variable.chunks
    common: dict[str, Any] = {
        "name": name,
        "dims": tuple(str(dim) for dim in variable.dims),
        "shape": tuple(variable.shape),
        "chunks": None if chunks is None else tuple(max(sizes, default=0) for sizes in chunks),
        "dtype": str(variable.dtype),
        "units": str(variable.attrs["units"]) if "units" in variable.attrs else None,
        "nbytes": variable.nbytes,
    }
    if moments is None:
        return VariableProfile(**common)
    common["num_missing"] = moments.missing
    if variable.dtype.kind == "M":
        return VariableProfile(**common, min=iso_date(moments.min), max=iso_date(moments.max))
    return VariableProfile(
        **common,
        mean=known_number(moments.mean),
        std=known_number(moments.std),
        min=known_number(moments.min),
        max=known_number(moments.max),
    )
