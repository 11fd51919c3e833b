"""How the samples lie in their store, as far as it makes reading dear: requests, and chunks that are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from dtk.loader.encoder import Encoder
from dtk.loader.grids import GridEncoder
from dtk.loader.segments import Integers
from dtk.loader.windows import WindowEncoder
from dtk.sources import ExpressionSource, Source, TableSource
from dtk.sources.arrays import ArraySource
from dtk.sources.joining import can_join
from dtk.sources.parquet import ParquetSource
from dtk.sources.remote import FetchCost
from dtk.sources.variables import ArrayVariable
from dtk.sources.windows import WindowSource

__all__ = ["Layout", "layout_of"]

_DEAR: Final = 0.05  # of all that is decoded: more than that is worth a word


@dataclass(frozen=True)
class Layout:
    """How the samples lie in their store.

    Parameters
    ----------
    kind : {"table", "row groups", "arrays"}
        In memory, in Parquet or in Zarr.
    num_requests : int
        Reads of the store in one pass over all chunks: one for each column of a row group, or for each chunk of an
        array; of a remote store what it is asked for, see `FetchCost`; 0 in memory.
    num_row_groups : int
        Row groups with rows that may be read; 0 where there are none.
    can_join : bool
        Whether small row groups may be read together.
    misaligned : mapping of str to float
        Variables whose chunks are cut by the plan's, and how often each of their samples is decoded in one pass; small
        ones, for which it costs nothing that matters, are left out.
    dim : str, optional
        The dimension of the samples, of arrays.
    windows : str, optional
        What the windows are, where samples are windows.
    """

    kind: Literal["table", "row groups", "arrays"] = "row groups"
    num_requests: int = 0
    num_row_groups: int = 0
    can_join: bool = False
    misaligned: Mapping[str, float] = field(default_factory=dict)
    dim: str | None = None
    windows: str | None = None


def layout_of(
    source: Source | ArraySource | WindowSource,
    encoder: Encoder | GridEncoder | WindowEncoder,
    cost: FetchCost | None = None,
) -> Layout:
    """Look at how the samples of a source lie; metadata only.

    Parameters
    ----------
    source : Source, ArraySource or WindowSource
        With known rows in its chunks.
    encoder : Encoder, GridEncoder or WindowEncoder
        What is made of them: it names the columns that are read.
    cost : FetchCost, optional
        What fetching its chunks takes; None of a local source.

    Returns
    -------
    Layout
        Of the columns that are read.
    """
    if cost is not None:
        return replace(layout_of(source, encoder), num_requests=int(cost.requests.sum()) + cost.once)
    if isinstance(source, WindowSource):
        of_rows = layout_of(source.base, encoder)
        num_requests = round(of_rows.num_requests * source.costs.decodes_per_row)
        assert isinstance(encoder, WindowEncoder)
        text = "; ".join(filter(None, [source.text, encoder.note]))
        return replace(of_rows, num_requests=num_requests, can_join=False, windows=text)
    if isinstance(source, ArraySource):
        variables = [source.variables[name] for name in encoder.columns]
        reads = {one.name: _stored_reads(one, source.chunk_edges) for one in variables if not one.is_static}
        row_nbytes = {one.name: one.row_nbytes for one in variables}
        times = {name: read / max(1, stored) for name, (read, stored, _) in reads.items()}
        dear = _DEAR * sum(row_nbytes.values())
        misaligned = {name: times[name] for name in reads if (times[name] - 1) * row_nbytes[name] > dear}
        num_requests = sum(read * of_sample for read, _, of_sample in reads.values())
        return Layout("arrays", num_requests, misaligned=misaligned, dim=source.dim)
    if isinstance(source, TableSource):
        return Layout("table")
    columns = source.stored_columns if isinstance(source, ExpressionSource) else encoder.columns
    is_read = np.asarray(source.chunk_rows) > 0
    groups = source.num_groups if isinstance(source, ParquetSource | ExpressionSource) else is_read
    num_row_groups = int(groups[is_read].sum())
    return Layout("row groups", num_row_groups * max(1, len(columns)), num_row_groups, can_join(source))


def _stored_reads(variable: ArrayVariable, edges: Integers) -> tuple[int, int, int]:
    """Return how many stored chunks all reads take along the samples, how many there are, and how many abreast."""
    read = variable.read
    stored = read.array.shards or read.array.chunks
    abreast = 1
    for axis, part in enumerate(read.selection):
        if axis != variable.axis and isinstance(part, slice) and part.stop > part.start:
            abreast *= (part.stop - 1) // stored[axis] - part.start // stored[axis] + 1
    along = read.selection[variable.axis]
    assert isinstance(along, slice)
    if len(edges) < 2:
        return 0, 0, abreast
    first = (along.start + edges[:-1]) // variable.chunk_rows
    last = (along.start + edges[1:] - 1) // variable.chunk_rows
    return int((last - first + 1).sum()), int(last[-1] - first[0] + 1), abreast
