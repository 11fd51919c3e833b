"""Moments of all variables of a grid, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dtk.errors import ArgumentError, DataError, SourceError
from dtk.runtime import delayed_reduce, map_reduce
from dtk.statistics.grid_blocks import BlockGroup, grouped_blocks
from dtk.statistics.grid_groups import GridGroups, GroupedGridMoments
from dtk.statistics.grid_moments import GridMoments
from dtk.statistics.grid_tiles import TiledVariable, tile_groups, tiled_dataset, tiled_source
from dtk.statistics.scan import groups_wanted

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["scan_grid"]

Found = dict[str, GridMoments]
EmptyOf = Callable[[Mapping[str, Mapping[str, int]]], Found]


def scan_grid(
    data: Any,
    keep: Sequence[str] = (),
    *,
    variables: Sequence[str] | None = None,
    groups: GridGroups | None = None,
    progress: bool = False,
    label: str = "scan",
) -> dict[str, GridMoments]:
    """Read the variables of a grid once, and take their moments over the dimensions that are not kept.

    Variables that are read from Zarr are read in place, chunk by chunk, in groups of about equal bytes, on the current
    Dask client or on local threads. Where any of them is computed by Dask, all are computed block by block, together.

    Parameters
    ----------
    data : xarray.Dataset, str, path or ArraySource
        What to read; a path leads to a Zarr store or to NetCDF.
    keep : sequence of str
        Dimensions: ``()`` gives one answer a variable, ``["level"]`` one a level, ``["lat", "lon"]`` one a point. A
        variable keeps those that it has.
    variables : sequence of str, optional
        Which data variables; all that hold numbers or booleans by default.
    groups : GridGroups, optional
        Groups of positions along a dimension, such as months: variables that have it give an answer for each.
    progress : bool
        Whether to show a progress bar.
    label : str
        Name of the tasks on the dashboard and of the progress bar.

    Returns
    -------
    dict of str to GridMoments
        By variable, in order.

    Raises
    ------
    ArgumentError
        If a variable or dimension is not there.
    SourceError
        If `data` is no grid.
    DataError
        If a variable that was asked for holds no numbers, or a chunk is damaged.

    Notes
    -----
    A thread holds one chunk of the store, or some that are small, and the moments of the variables that it reads: 48
    bytes for each cell that is kept, of each group.

    Examples
    --------
    >>> import xarray as xr
    >>> data = xr.Dataset({"t": (("time", "level"), [[1.0, 5.0], [3.0, np.nan]])})
    >>> moments = scan_grid(data, keep=["level"])["t"]
    >>> moments.mean.tolist(), moments.count.tolist()
    ([2.0, 5.0], [2, 1])
    """
    keep = [keep] if isinstance(keep, str) else list(keep)
    dataset, names, dims = _looked_up(data, variables)
    unknown = [dim for dim in keep if dim not in dims]
    if unknown:
        raise ArgumentError(f"keep={keep!r} names {unknown[0]!r}, which is no dimension of the data; it has {dims}")
    if not names:
        return {}
    empty_of = partial(_empty, keep, groups)
    try:
        tiled = tiled_source(data, names) if dataset is None else tiled_dataset(dataset, names)
    except SourceError:
        assert dataset is not None
        return _scan_computed(dataset[names], empty_of, progress=progress, label=label)
    by_name = {variable.name: variable for variable in tiled}
    empty = empty_of({name: variable.sizes for name, variable in by_name.items()})
    tiles = tile_groups(by_name, groups_wanted())
    if not tiles:
        return empty
    found: Found = map_reduce(_scan_tiles, _merged, tiles, shared=(by_name, empty_of), label=label, progress=progress)
    return empty | found


def _looked_up(data: Any, variables: Sequence[str] | None) -> tuple[xr.Dataset | None, list[str], list[str]]:
    """Return the Dataset, None for a source, and the names of what is to be read and of the dimensions there are."""
    from dtk.config import did_you_mean
    from dtk.sources.arrays import ArraySource
    from dtk.sources.datasets import as_dataset

    if isinstance(data, ArraySource):
        known, dataset = {name: variable.dtype for name, variable in data.variables.items()}, None
        dims = [data.dim, *(dim for variable in data.variables.values() for dim in variable.dims)]
    else:
        dataset = as_dataset(data, by_dask=False)
        if dataset is None:
            kind = f"{type(data).__module__}.{type(data).__qualname__}"
            remedy = "give an xarray Dataset, of a DataArray data.to_dataset(name='x'), or the path of a Zarr store"
            raise SourceError(f"data of type {kind} is no grid; {remedy}")
        known = {str(name): variable.dtype for name, variable in dataset.data_vars.items()}
        dims = [str(dim) for dim in dataset.dims]
    names = list(known if variables is None else variables)
    for name in names if variables is not None else []:
        if name not in known:
            raise ArgumentError(f"variables={names!r}: {name!r} is none of the data{did_you_mean(name, list(known))}")
        if known[name].kind not in "biuf":
            raise DataError(f"variable {name!r} holds {known[name]}, no numbers; leave it out")
    return dataset, [name for name in names if known[name].kind in "biuf"], list(dict.fromkeys(dims))


def _empty(keep: Sequence[str], groups: GridGroups | None, sizes: Mapping[str, Mapping[str, int]]) -> Found:
    found: Found = {}
    for name, of in sizes.items():
        kept = [dim for dim in keep if dim in of]
        is_grouped = groups is not None and groups.dim in of
        found[name] = GroupedGridMoments(of, kept, groups) if groups and is_grouped else GridMoments(of, kept)
    return found


def _scan_tiles(shared: tuple[dict[str, TiledVariable], EmptyOf], group: list[tuple[str, int, int]]) -> Found:
    variables, empty_of = shared
    found: Found = {}
    for name, first, last in group:
        variable = variables[name]
        if name not in found:
            found |= empty_of({name: variable.sizes})
        for values, at in variable.blocks(first, last):
            found[name].update(values, at=at)
    return found


def _merged(parts: list[Found]) -> Found:
    """Merge into fresh moments: the parts belong to Dask, which may merge them again after a worker is lost."""
    merged: Found = {}
    for part in parts:
        for name, moments in part.items():
            if name not in merged:
                merged[name] = moments.fresh()
            merged[name].merge(moments)
    return merged


def _scan_computed(dataset: xr.Dataset, empty_of: EmptyOf, *, progress: bool, label: str) -> Found:
    """Take the moments of what Dask computes, and of what is in memory."""
    sizes = {
        str(name): {str(dim): size for dim, size in variable.sizes.items()}
        for name, variable in dataset.data_vars.items()
    }
    found = empty_of(sizes)
    groups: list[Any] = []
    for name, variable in dataset.variables.items():
        if name not in dataset.data_vars:
            continue
        lazy = variable if hasattr(variable.data, "dask") or variable._in_memory else variable.chunk("auto")
        if hasattr(lazy.data, "dask"):
            groups += grouped_blocks(str(name), lazy.data, label)
        else:
            found[str(name)].update(np.asarray(lazy.data))
    if groups:
        computed: Found = delayed_reduce(
            partial(_scan_blocks, sizes, empty_of), _merged, groups, label=label, progress=progress
        )
        found |= computed
    return found


def _scan_blocks(sizes: dict[str, dict[str, int]], empty_of: EmptyOf, group: BlockGroup) -> Found:
    found = empty_of({group.name: sizes[group.name]})
    for start, block in zip(group.starts.tolist(), group.blocks, strict=True):
        ends = zip(sizes[group.name], start, np.shape(block), strict=True)
        at = {dim: slice(int(first), int(first) + size) for dim, first, size in ends}
        found[group.name].update(np.asarray(block), at=at)
    return found
