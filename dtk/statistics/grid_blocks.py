"""The blocks of Dask arrays, so many together as a task is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

__all__ = ["BlockGroup", "grouped_blocks"]

_GROUP_NBYTES: Final = 64 * 2**20  # blocks in memory together: a task each would cost more than small ones take


@dataclass(frozen=True)
class BlockGroup:
    """Some computed blocks of one array.

    Parameters
    ----------
    name : str
        What the array is called.
    starts : numpy.ndarray
        int64 [blocks, dimensions]: where each begins.
    blocks : list of numpy.ndarray
        In memory.
    """

    name: str
    starts: np.ndarray
    blocks: list[np.ndarray]


def grouped_blocks(name: str, values: Any, label: str) -> list[Any]:
    """Return the blocks of a Dask array in groups.

    Parameters
    ----------
    name : str
        What to call the array.
    values : dask.array.Array
        Nothing of it is computed.
    label : str
        The beginning of the names of tasks.

    Returns
    -------
    list of dask.delayed.Delayed
        Each a `BlockGroup`. Arrays that share work still do so when they are computed together.
    """
    from dask.base import flatten
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph

    # One layer for all groups, for a delayed object a block takes longer than a small block. The array's own layers
    # stay as they are, so that variables which share chunks still do.
    blocks = list(flatten(values.__dask_keys__()))
    edges = [np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int64) for sizes in values.chunks]
    starts = np.stack([axis.ravel() for axis in np.meshgrid(*edges, indexing="ij")], 1) if edges else np.zeros((1, 0))
    per_group = max(1, _GROUP_NBYTES * len(blocks) // max(1, values.nbytes))
    layer_name = f"{label}-{name}-{values.name}"
    layer: dict[Any, Any] = {
        f"{layer_name}-{first}": (
            BlockGroup,
            name,
            starts[first : first + per_group],
            blocks[first : first + per_group],
        )
        for first in range(0, len(blocks), per_group)
    }
    graph = HighLevelGraph.from_collections(layer_name, layer, dependencies=[values])
    return [Delayed(key, graph, layer=layer_name) for key in layer]
