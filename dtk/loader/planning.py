"""Making a plan: the shards and the pool for a memory budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from dtk.loader.ahead import HELD, fetch_cost_of, fetch_limit_nbytes
from dtk.loader.draws import most_drawn
from dtk.loader.encoder import Encoder
from dtk.loader.grids import GridEncoder
from dtk.loader.joining import choose_join_rows, joined_source
from dtk.loader.layout import layout_of
from dtk.loader.order import Order, Tail
from dtk.loader.plan import DESTINATION_NBYTES, PERMUTING_NBYTES, Plan, decode_nbytes, streamed
from dtk.loader.sampling import Sampling
from dtk.loader.segments import Integers
from dtk.loader.windows import WindowEncoder
from dtk.sources import ExpressionSource, Source
from dtk.sources.arrays import ArraySource
from dtk.sources.joining import can_join
from dtk.sources.parquet import ParquetSource
from dtk.sources.remote import FetchCost
from dtk.sources.windows import WindowSource

__all__ = ["make_plan"]

_WEIGHING_NBYTES: Final = 32  # of a row: its weight, as read and as added up, or the code of its class
_DRAWING_NBYTES: Final = 32  # of a row that is drawn: its number, and the numbers that choose it
_SHARDS: Final = (1, 2, 4, 8, 12, *(24 * 2**power for power in range(9)))
_SLICE_NBYTES: Final = 32 << 20
_LEAST_SLICE_ROWS: Final = 1024
_PAGE_NBYTES: Final = 2 << 20  # twice what writers make pages of
_SAMPLED_ROWS: Final = 65_536
_POOL_CHUNKS: Final = 4  # with fewer in the pool, half chunks mix so much better that twice the decodes are worth it


def make_plan(
    source: Source | ArraySource | WindowSource,
    encoder: Encoder | GridEncoder | WindowEncoder,
    *,
    global_batch_size: int,
    shuffle: bool,
    seed: int,
    tail: Tail,
    memory_limit_nbytes: int,
    parameters: dict[str, Any] | None = None,
    sampling: Sampling | None = None,
    ranks: int = 1,
) -> Plan:
    """Choose the shards, the pool and the blocks for a memory budget.

    Only the source, the fields and the arguments decide, and neither this machine nor the number of ranks: all ranks
    come to the same plan.

    Parameters
    ----------
    source : Source, ArraySource or WindowSource
        With known rows in its chunks.
    encoder : Encoder, GridEncoder or WindowEncoder
        What is made of the rows.
    global_batch_size : int
        Samples of a global batch.
    shuffle : bool
        Whether to shuffle.
    seed : int
        The seed.
    tail : {"trim", "pad"}
        What becomes of the rows that fill no global batch.
    memory_limit_nbytes : int
        Bytes that a rank's loader may hold.
    parameters : dict, optional
        The order's parameters, from a saved state; chosen here if None.
    sampling : Sampling, optional
        How rows are drawn; each comes once if None.
    ranks : int
        The number of ranks of the loader, for what the plan explains by default.

    Returns
    -------
    Plan
        Not checked yet.

    Notes
    -----
    Many shards make many ranks cheap, but each wants a fill of two chunks and eight chunks in all. The pool is as big
    as the memory allows. Blocks are whole chunks, which are then decoded once, as long as the pool holds at least four.
    Where it holds one to four, batches of sorted data would be of one to four places on disk; chunks are then read in
    two blocks of at most half the largest one, which takes twice the decodes and mixes two to three times the places.
    Nothing is cut into more: the plan warns, and names the memory that would do. Small row groups are joined first, as
    far as the pool still holds very many.
    """
    if parameters is None:
        join_rows = _choose_join_rows(source, encoder, sampling, global_batch_size, memory_limit_nbytes)
    else:
        join_rows = parameters.get("join_rows")  # which states had none of at first
    joined, chunk_weights = joined_source(source, join_rows, sampling)
    if join_rows is not None and joined.num_chunks == source.num_chunks:
        join_rows = None  # no small ones follow each other
    source = joined
    chunk_rows = np.asarray(source.chunk_rows, np.int64)
    costs = _costs(source, encoder, sampling, memory_limit_nbytes)
    if parameters is None:
        row = _row_nbytes(encoder)
        num_shards, fill_rows = _choose(chunk_rows, global_batch_size, row, costs.room_nbytes, shuffle=shuffle)
        block_rows = None
        if shuffle and not streamed(chunk_rows, costs.slice_rows).any():  # slices follow each other
            block_rows = _choose_blocks(chunk_rows, num_shards * fill_rows)
        parameters = {
            "global_batch_size": global_batch_size,
            "num_shards": num_shards,
            "fill_rows": fill_rows,
            "block_rows": block_rows,
            "join_rows": join_rows,
            "seed": seed,
            "tail": tail,
            "shuffle": shuffle,
        }
    order = Order.from_parameters(chunk_rows, parameters, chunk_weights)
    return Plan(
        source_identity=source.identity,
        order=order,
        fields=dict(encoder.fields),
        epoch_nbytes=int(np.sum(source.chunk_nbytes[order.expected_rows > 0])),
        chunk_nbytes=costs.chunk_nbytes,
        memory_limit_nbytes=memory_limit_nbytes,
        slice_rows=costs.slice_rows,
        sampling=None if sampling is None else {"by": sampling.rule.by, "digest": sampling.digest},
        decodes_per_row=source.costs.decodes_per_row if isinstance(source, WindowSource) else 1.0,
        cautions=tuple(source.cautions()) if isinstance(source, WindowSource) else (),
        layout=layout_of(source, encoder, costs.fetch_cost),
        ranks=ranks,
        kept_nbytes=costs.kept_nbytes,
        fetch_nbytes=costs.fetch_nbytes,
    )


class _Costs(NamedTuple):
    """What reading takes of the memory."""

    slice_rows: int
    chunk_nbytes: Integers
    kept_nbytes: int
    fetch_cost: FetchCost | None
    fetch_nbytes: int
    room_nbytes: int  # that is left for the ring


def _costs(
    source: Source | ArraySource | WindowSource,
    encoder: Encoder | GridEncoder | WindowEncoder,
    sampling: Sampling | None,
    limit_nbytes: int,
) -> _Costs:
    slice_rows, chunk_nbytes = _in_flight(source, encoder, sampling)
    kept_nbytes = _kept_nbytes(source) + _static_nbytes(encoder)
    cost, fetch_nbytes = fetch_cost_of(source, _read_columns(encoder.columns, sampling)), 0
    if cost is not None:
        chunk_nbytes = chunk_nbytes + HELD * cost.nbytes
        fetch_nbytes = fetch_limit_nbytes(cost.nbytes, limit_nbytes)
    room = limit_nbytes - decode_nbytes(chunk_nbytes, limit_nbytes) - kept_nbytes - HELD * fetch_nbytes
    return _Costs(slice_rows, chunk_nbytes, kept_nbytes, cost, fetch_nbytes, room)


def _choose_join_rows(
    source: Source | ArraySource | WindowSource,
    encoder: Encoder | GridEncoder | WindowEncoder,
    sampling: Sampling | None,
    batch: int,
    limit_nbytes: int,
) -> int | None:
    """Choose how many rows of small row groups are joined, from the pool that there would be without; None for none."""
    chunk_rows = np.asarray(source.chunk_rows, np.int64)
    total = int(chunk_rows.sum())
    if not can_join(source) or 2 * chunk_rows.min(initial=total) > (choose_join_rows(total, 0) or 0):
        return None  # whatever the pool is
    costs = _costs(source, encoder, sampling, limit_nbytes)
    num_shards, fill_rows = _choose(chunk_rows, batch, _row_nbytes(encoder), costs.room_nbytes, shuffle=True)
    return choose_join_rows(min(num_shards * fill_rows, total), costs.slice_rows)


def _row_nbytes(encoder: Encoder | GridEncoder | WindowEncoder) -> int:
    return sum(field.row_nbytes for field in encoder.fields.values())


def _choose(
    chunk_rows: np.ndarray[Any, np.dtype[np.int64]], batch: int, row_nbytes: int, room_nbytes: int, *, shuffle: bool
) -> tuple[int, int]:
    """Choose the number of shards and the rows of a fill; the ring of a single rank fits into the room.

    Many shards make many ranks cheap, but each wants a fill of two chunks and eight chunks in all.
    """
    total = int(chunk_rows.sum())
    num_chunks = int(np.count_nonzero(chunk_rows))
    chunk = total / max(num_chunks, 1)
    if not shuffle:
        return 1, max(1, min(_fill_rows(1, batch, row_nbytes, room_nbytes), int(chunk_rows.max(initial=1))))
    chosen = 1
    for shards in _SHARDS:
        pool = shards * _fill_rows(shards, batch, row_nbytes, room_nbytes)
        if shards <= min(pool / (2 * chunk) if chunk else 0, num_chunks / 8, batch / 16):
            chosen = shards
    return chosen, max(1, min(_fill_rows(chosen, batch, row_nbytes, room_nbytes), total))


def _choose_blocks(chunk_rows: Integers, pool_rows: int) -> int | None:
    """Choose half of the largest chunk where the pool holds one to four chunks, and None for whole ones elsewhere."""
    total, largest = int(chunk_rows.sum()), int(chunk_rows.max(initial=0))
    chunk = total / max(int(np.count_nonzero(chunk_rows)), 1)
    is_cut = largest <= pool_rows < min(_POOL_CHUNKS * chunk, total)
    return -(-largest // 2) if is_cut and largest > 1 else None


def _fill_rows(shards: int, batch: int, row_nbytes: int, room_nbytes: int) -> int:
    """Return the largest fill for which `Plan.memory_nbytes` of one rank stays in the room, or a minimal one."""
    slots = -(-batch // shards)
    factor = 1 + min(2, shards) / shards
    per_step = factor * (batch * row_nbytes + slots * shards * DESTINATION_NBYTES) + slots * PERMUTING_NBYTES
    span = max(2, int(room_nbytes / per_step) - 1)
    return (span - 1) * (batch // shards) + 1


def _kept_nbytes(source: Source | ArraySource | WindowSource) -> int:
    """Return the bytes that a source keeps from one read to the next."""
    if isinstance(source, WindowSource | ExpressionSource):
        return _kept_nbytes(source.base)
    return source.kept_nbytes if isinstance(source, ParquetSource) else 0


def _static_nbytes(encoder: Encoder | GridEncoder | WindowEncoder) -> int:
    """Return the bytes of what all samples share."""
    shape = encoder.static_shape if isinstance(encoder, GridEncoder | WindowEncoder) else ()
    return 4 * math.prod(shape) if shape else 0


def _in_flight(
    source: Source | ArraySource | WindowSource,
    encoder: Encoder | GridEncoder | WindowEncoder,
    sampling: Sampling | None,
) -> tuple[int, Integers]:
    """Return the rows of the slices in which big row groups are read, and the bytes of each chunk while it is read."""
    if isinstance(source, WindowSource):
        assert isinstance(encoder, WindowEncoder)
        columns = [*encoder.columns, *source.time_columns]
        _, of_rows = _in_flight_rows(source.base, columns, encoder.encoded_nbytes, None, may_slice=False)
        return 0, source.costs.in_flight_nbytes(of_rows)
    return _in_flight_rows(source, encoder.columns, _row_nbytes(encoder), sampling, may_slice=sampling is None)


def _in_flight_rows(
    source: Source | ArraySource,
    columns: Sequence[str],
    encoded: int,
    sampling: Sampling | None,
    *,
    may_slice: bool,
) -> tuple[int, Integers]:
    rows = encoded_rows = np.asarray(source.chunk_rows, np.int64)
    columns, slice_rows = _read_columns(columns, sampling), 0
    if isinstance(source, ArraySource):  # encoding them copies nothing but what has another type
        decoded, encoded = source.decoded_row_nbytes(columns), 0
    else:
        decoded = _decoded_row_nbytes(source, columns)
    nbytes = rows * decoded
    if sampling is not None:  # what is drawn is a copy
        encoded_rows = most_drawn(rows)
        nbytes += rows * _WEIGHING_NBYTES + encoded_rows * (decoded + _DRAWING_NBYTES)
    nbytes += encoded_rows * encoded
    if isinstance(source, ExpressionSource):  # all rows below are there, as decoded, as Arrow and as pandas holds them
        nbytes += 3 * source.stored_rows * _decoded_row_nbytes(source.base, source.stored_columns)
    if isinstance(source, ParquetSource) and source.filesystem is None and may_slice:
        row_nbytes = decoded + encoded
        slice_rows = max(_LEAST_SLICE_ROWS, int(_SLICE_NBYTES / max(row_nbytes, 1)))
        # A slice, the one before, and of each column the page that they are cut from.
        of_slices = 2 * slice_rows * row_nbytes + _PAGE_NBYTES * len(columns)
        nbytes = np.where(streamed(rows, slice_rows), np.minimum(nbytes, of_slices), nbytes)
    whole: Integers = np.ceil(nbytes).astype(np.int64)
    return slice_rows, whole


def _read_columns(columns: Sequence[str], sampling: Sampling | None) -> list[str]:
    return list(dict.fromkeys([*columns, *([] if sampling is None else [sampling.rule.column])]))


def _decoded_row_nbytes(source: Source, columns: Sequence[str]) -> float:
    """Return the bytes of a decoded row: from the types, and from one chunk for columns of variable width."""
    fixed, variable = 0.0, []
    for column in columns:
        kind: pa.DataType = source.schema.field(column).type
        if pa.types.is_dictionary(kind):
            variable.append(column)
            continue
        try:
            fixed += kind.bit_width / 8 + 1 / 8  # and a bit that says whether it is null
        except ValueError:
            variable.append(column)
    chunks = np.flatnonzero(np.asarray(source.chunk_rows))
    if not variable or not len(chunks):
        return fixed
    chunk = int(chunks[0])
    if isinstance(source, ParquetSource):
        sample = next(source.read_slices(chunk, _SAMPLED_ROWS, variable))
    else:
        sample = source.read(chunk, variable)
    return float(fixed + sample.nbytes / max(sample.num_rows, 1))
