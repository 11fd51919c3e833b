"""Moments of arrays for each group of positions along a dimension, such as all Januaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from dtk.errors import ArgumentError, DataError
from dtk.statistics.array_text import array_of_text, text_of_array
from dtk.statistics.grid_moments import GridMoments
from dtk.statistics.grid_sums import GridSums, add_block

__all__ = ["GridGroups", "GroupedGridMoments"]


@dataclass(frozen=True, eq=False)
class GridGroups:
    """Which positions along a dimension belong together.

    Parameters
    ----------
    name : str
        What the groups are called: the first dimension of the results.
    dim : str
        The dimension that is grouped.
    codes : numpy.ndarray
        int64 [positions]: the group of each, from 0 on; -1 for one that is left out.
    num_groups : int
        How many groups there are.
    """

    name: str
    dim: str
    codes: np.ndarray
    num_groups: int


class GroupedGridMoments(GridMoments):
    """Count, mean, variance, minimum and maximum of a variable of a grid, for each group and each cell kept.

    Parameters
    ----------
    sizes : mapping of str to int
        As for `GridMoments`.
    keep : sequence of str
        The dimensions to keep, not the one that is grouped.
    groups : GridGroups
        The groups.

    Raises
    ------
    ArgumentError
        If a dimension is none of the variable's, or the grouped one is to be kept; if the groups are called like a
        dimension, or are more than they say.

    Notes
    -----
    Holds 48 bytes a group and cell.

    Examples
    --------
    >>> groups = GridGroups("parity", "time", np.array([0, 1, 0, 1]), 2)
    >>> moments = GroupedGridMoments({"time": 4, "x": 3}, [], groups)
    >>> moments.update(np.arange(12.0).reshape(4, 3))
    >>> moments.dims, moments.mean.tolist()
    (('parity',), [4.0, 7.0])
    """

    def __init__(self, sizes: Mapping[str, int], keep: Sequence[str], groups: GridGroups) -> None:
        super().__init__(sizes, keep)
        if groups.dim not in sizes or groups.dim in keep:
            raise ArgumentError(
                f"dim={groups.dim!r} is grouped: it must be one of {list(sizes)}, and none that is kept"
            )
        if groups.name in sizes:
            raise ArgumentError(f"name={groups.name!r} of the groups is a dimension of the variable; give another name")
        if int(groups.codes.max(initial=-1)) >= groups.num_groups:
            raise ArgumentError(f"codes up to {groups.codes.max()} must lie below num_groups={groups.num_groups}")
        self.groups = groups
        self.dims = (groups.name, *self.dims)
        self.shape = (groups.num_groups, *self.shape)
        self._sums = GridSums.empty(self.shape)

    def update(
        self, values: np.ndarray, row: np.ndarray | None = None, *, at: Mapping[str, slice] | None = None
    ) -> None:
        """Take in a block of the variable.

        Parameters
        ----------
        values : numpy.ndarray
            Numbers or booleans, with all dimensions of the variable in their order.
        row : numpy.ndarray, optional
            Not used.
        at : mapping of str to slice, optional
            Where along the grouped dimension, and along those that are kept, the block lies; all of it by default.

        Raises
        ------
        DataError
            If the block is of another shape, or holds no numbers.
        """
        axis = list(self.sizes).index(self.groups.dim)
        axes = tuple(axis for axis, dim in enumerate(self.sizes) if dim not in self.dims)
        codes = self.groups.codes[(at or {}).get(self.groups.dim, slice(None))]
        where = tuple((at or {}).get(dim, slice(None)) for dim in self.dims[1:])
        shape = self._sums.at((slice(0, 1), *where)).count.shape[1:]
        kept = tuple(size for axis, size in enumerate(values.shape) if axis not in axes)
        if values.ndim != len(self.sizes) or kept != shape or values.shape[axis] != len(codes):
            raise DataError(
                f"a block of shape {values.shape} does not fit dimensions {tuple(self.sizes)}, of which "
                f"{dict(zip(self.dims[1:], shape, strict=True))} are kept, and {len(codes)} along {self.groups.dim!r}"
            )
        if values.dtype.kind not in "biuf":
            raise DataError(f"values of type {values.dtype} are no numbers; convert them first")
        for group in np.unique(codes[codes >= 0]).tolist():
            positions = np.flatnonzero(codes == group)
            first, last = int(positions[0]), int(positions[-1]) + 1
            is_run = last - first == len(positions)
            index: Any = (*(slice(None),) * axis, slice(first, last) if is_run else positions)
            sums = self._sums.at((slice(group, group + 1), *where))
            self._is_close = add_block(sums, values[index], axes, is_close=self._is_close)

    def fresh(self) -> Self:
        """Return an empty one of the same kind.

        Returns
        -------
        GroupedGridMoments
            Of the same groups.
        """
        return type(self)(self.sizes, self.dims[1:], self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            Arrays are strings: base64 of their little-endian bytes.
        """
        groups = self.groups
        grouped = {
            "name": groups.name,
            "dim": groups.dim,
            "codes": text_of_array(groups.codes.astype(np.int64)),
            "num_groups": groups.num_groups,
        }
        return {**super().to_dict(), "keep": list(self.dims[1:]), "groups": grouped}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        GroupedGridMoments
            Equal to the first, to the last bit.
        """
        codes = array_of_text(state["groups"]["codes"], np.dtype(np.int64))
        moments = cls(state["sizes"], state["keep"], GridGroups(**state["groups"] | {"codes": codes}))
        for name, array in moments._sums.arrays().items():
            array[...] = array_of_text(state["sums"][name], array.dtype).reshape(array.shape)
        return moments
