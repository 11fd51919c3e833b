"""What the fit of a grid holds in memory, known before it reads anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import xarray as xr

from dtk.errors import ArgumentError
from dtk.memory import format_nbytes
from dtk.runtime.limits import machine_nbytes, worker_nbytes

__all__ = ["GridFitPlan", "plan_grid_fit"]

_MOMENTS_NBYTES: Final = 48  # of `dtk.statistics.GridMoments`, a cell
_FITTED_NBYTES: Final = 24  # mean, scale and count


@dataclass(frozen=True)
class GridFitPlan:
    """What the fit of a grid holds at least.

    Parameters
    ----------
    num_cells : mapping of str to int
        By variable: how many cells have moments of their own, those of all groups together.
    here_limit_nbytes : int
        Memory of this process.
    worker_limit_nbytes : int
        Memory that a task can count on at most.
    """

    num_cells: Mapping[str, int]
    here_limit_nbytes: int
    worker_limit_nbytes: int

    @property
    def here_nbytes(self) -> int:
        """Bytes here at the end: the moments of all variables, and what is kept of them."""
        return (_MOMENTS_NBYTES + _FITTED_NBYTES) * sum(self.num_cells.values())

    @property
    def task_nbytes(self) -> int:
        """Bytes of the moments of the largest variable, which a task that reads it holds."""
        return _MOMENTS_NBYTES * max(self.num_cells.values(), default=0)

    def check(self, argument: str, remedy: str) -> None:
        """Refuse a fit that no memory can hold.

        Parameters
        ----------
        argument : str
            What asks for so much, and its value.
        remedy : str
            What to do.

        Raises
        ------
        ArgumentError
            If one task, or this process, needs more than there is.
        """
        needs = (
            (self.task_nbytes, self.worker_limit_nbytes, "a task", "a worker"),
            (self.here_nbytes, self.here_limit_nbytes, "the result", "this process"),
        )
        for nbytes, limit_nbytes, what, where in needs:
            if nbytes > limit_nbytes:
                raise ArgumentError(
                    f"{argument} keeps {sum(self.num_cells.values()):,} cells: {what} would hold "
                    f"{format_nbytes(nbytes)}, and {where} has {format_nbytes(limit_nbytes)}; {remedy}"
                )


def plan_grid_fit(dataset: xr.Dataset, variables: Sequence[str], keep: Sequence[str], num_groups: int) -> GridFitPlan:
    """Plan a fit, from the sizes of the data alone.

    Parameters
    ----------
    dataset : xarray.Dataset
        Nothing of it is read.
    variables : sequence of str
        Those that are fitted.
    keep : sequence of str
        The dimensions that are kept, of those that a variable has.
    num_groups : int
        How many groups there are at each point.

    Returns
    -------
    GridFitPlan
        With the limits of this machine, and of the current Dask client's workers.
    """
    num_cells = {
        name: num_groups * math.prod(size for dim, size in dataset[name].sizes.items() if dim in keep)
        for name in variables
    }
    return GridFitPlan(num_cells, machine_nbytes(), worker_nbytes())
