"""Variables of a Zarr store in tiles: whole chunks or shards, some of them together where they are small."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

    from dtk.sources.arrays import ArraySource
    from dtk.sources.plain_read import PlainRead
    from dtk.sources.zarr_read import Region

__all__ = ["TiledVariable", "tile_groups", "tiled_dataset", "tiled_source"]

_TILE_NBYTES: Final = 1 << 20  # chunks smaller than this are read together


@dataclass(frozen=True)
class TiledVariable:
    """A variable that is read from Zarr, tile by tile.

    Parameters
    ----------
    name : str
        Its name.
    dims : tuple of str
        Its dimensions, in the order of the array in the store.
    read : PlainRead
        Where it lies.
    """

    name: str
    dims: tuple[str, ...]
    read: PlainRead

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The lengths of its dimensions."""
        parts = [part for part in self.read.selection if isinstance(part, slice)]
        return {dim: part.stop - part.start for dim, part in zip(self.dims, parts, strict=True)}

    @property
    def is_remote(self) -> bool:
        """Whether it is in a remote store."""
        from dtk.sources.remote_zarr import is_remote

        return is_remote(self.read.array.store_path.store)

    @property
    def nbytes(self) -> int:
        """Bytes as stored, before they are compressed."""
        return math.prod(self.sizes.values()) * self.read.array.dtype.itemsize

    @cached_property
    def _edges(self) -> list[tuple[int, int, int]]:
        """For each axis of the array: the first and the last element wanted, and the length of a tile."""
        array = self.read.array
        lengths = list(array.shards or array.chunks)
        nbytes = math.prod(lengths) * array.dtype.itemsize
        parts = [part if isinstance(part, slice) else slice(part, part + 1) for part in self.read.selection]
        for axis, part in enumerate(parts):  # from the first on, so that chunks are decoded to where they belong
            joined = max(1, min(_TILE_NBYTES // max(1, nbytes), -(-(part.stop - part.start) // lengths[axis])))
            lengths[axis] *= joined
            nbytes *= joined
            if part.stop - part.start > lengths[axis]:
                break
        return [(part.start, part.stop, length) for part, length in zip(parts, lengths, strict=True)]

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Tiles along each axis of the array."""
        return tuple(-(-stop // length) - start // length for start, stop, length in self._edges)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return math.prod(self.grid)

    def region(self, tile: int) -> Region:
        """Return where a tile lies in the array.

        Parameters
        ----------
        tile : int
            From 0 to ``num_tiles - 1``.

        Returns
        -------
        tuple of slice
            For each axis of the array, within what is selected.
        """
        cells = np.unravel_index(tile, self.grid) if self.grid else ()
        region = []
        for cell, (start, stop, length) in zip(cells, self._edges, strict=True):
            first = (start // length + int(cell)) * length
            region.append(slice(max(first, start), min(first + length, stop)))
        return tuple(region)

    def blocks(self, first: int, last: int) -> Iterator[tuple[np.ndarray, dict[str, slice]]]:
        """Read some tiles in turn; remote ones are fetched one ahead.

        Parameters
        ----------
        first : int
            The first tile.
        last : int
            The one after the last.

        Yields
        ------
        values : numpy.ndarray
            Decoded, with all dimensions; overwritten by the next.
        at : dict of str to slice
            Where it lies along each dimension.
        """
        from dtk.sources.zarr_read import Scratch, fetch_region, read_region

        array, scratch, ahead = self.read.array, Scratch(), self.is_remote and len(self.grid) > 0
        dropped = tuple(axis for axis, part in enumerate(self.read.selection) if isinstance(part, int))
        coming: Future[Any] | None = fetch_region(array, self.region(first)) if ahead else None
        try:
            for tile in range(first, last):
                region, fetched = self.region(tile), coming
                coming = fetch_region(array, self.region(tile + 1)) if ahead and tile + 1 < last else None
                values = scratch.array("tile", [part.stop - part.start for part in region], array.dtype)
                if region:
                    read_region(array, region, values, scratch, fetched)
                else:
                    values = np.asarray(array[...])
                for function in self.read.decode:
                    values = function(values)
                yield values.squeeze(dropped), self._at(region)
        finally:
            if coming is not None:
                coming.cancel()

    def _at(self, region: Region) -> dict[str, slice]:
        wanted = [
            slice(part.start - whole.start, part.stop - whole.start)
            for part, whole in zip(region, self.read.selection, strict=True)
            if isinstance(whole, slice)
        ]
        return dict(zip(self.dims, wanted, strict=True))


def tiled_dataset(dataset: xr.Dataset, names: list[str]) -> list[TiledVariable]:
    """Find where the variables of a Dataset lie.

    Parameters
    ----------
    dataset : xarray.Dataset
        Opened from Zarr, selected by slices or single positions at most.
    names : list of str
        Which variables.

    Returns
    -------
    list of TiledVariable
        Nothing is read but metadata.

    Raises
    ------
    SourceError
        If a variable is computed, and not read; the error names it.
    """
    from dtk.sources.plain_read import plain_read

    return [
        TiledVariable(name, tuple(map(str, dataset[name].dims)), plain_read(name, dataset[name].variable))
        for name in names
    ]


def tiled_source(source: ArraySource, names: list[str]) -> list[TiledVariable]:
    """Find where the variables of a source lie.

    Parameters
    ----------
    source : ArraySource
        Any.
    names : list of str
        Which variables.

    Returns
    -------
    list of TiledVariable
        Their dimensions are in the order of the arrays in the store.
    """
    tiled = []
    for name in names:
        variable = source.variables[name]
        dims = list(variable.dims)
        if not variable.is_static:
            dims.insert(sum(isinstance(part, slice) for part in variable.read.selection[: variable.axis]), source.dim)
        tiled.append(TiledVariable(name, tuple(dims), variable.read))
    return tiled


def tile_groups(variables: Mapping[str, TiledVariable], num_groups: int) -> list[list[tuple[str, int, int]]]:
    """Cut the tiles of all variables into groups of about equal bytes.

    Parameters
    ----------
    variables : mapping of str to TiledVariable
        Those to read.
    num_groups : int
        How many groups are wanted, at least 1.

    Returns
    -------
    list of list of (str, int, int)
        For each group: variables, the first tile of each, and the one after the last. None is empty.
    """
    wanted = max(1, sum(variable.nbytes for variable in variables.values()) / num_groups)
    groups: list[list[tuple[str, int, int]]] = [[]]
    held = 0.0
    for name, variable in variables.items():
        first, num_tiles = 0, variable.num_tiles
        of_tile = max(1, variable.nbytes) / max(1, num_tiles)
        while first < num_tiles:
            last = min(num_tiles, first + max(1, round((wanted - held) / of_tile)))
            groups[-1].append((name, first, last))
            held += (last - first) * of_tile
            first = last
            if held >= wanted * 0.999:
                groups.append([])
                held = 0.0
    return [group for group in groups if group]
