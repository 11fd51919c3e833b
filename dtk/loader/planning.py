"""Making a plan: the shards and the pool for a memory budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dtk.loader.encoder import Encoder
from dtk.loader.grids import GridEncoder
from dtk.loader.layout import layout_of
from dtk.loader.order import Order, Tail
from dtk.loader.plan import DESTINATION_NBYTES, PERMUTING_NBYTES, Plan, decode_nbytes
from dtk.loader.segments import Integers
from dtk.sources import ExpressionSource, Source
from dtk.sources.arrays import ArraySource

__all__ = ["make_plan"]

_SHARDS: Final = (1, 2, 4, 8, 12, *(24 * 2**power for power in range(9)))
_POOL_CHUNKS: Final = 4  # with fewer in the pool, half chunks mix so much better that twice the decodes are worth it


def make_plan(
    source: Source | ArraySource,
    encoder: Encoder | GridEncoder,
    *,
    global_batch_size: int,
    shuffle: bool,
    seed: int,
    tail: Tail,
    memory_limit_nbytes: int,
    parameters: dict[str, Any] | None = None,
    ranks: int = 1,
) -> Plan:
    """Choose the shards, the pool and the blocks for a memory budget.

    Only the source, the fields and the arguments decide, and neither this machine nor the number of ranks: all ranks
    come to the same plan.

    Parameters
    ----------
    source : Source or ArraySource
        With known rows in its chunks.
    encoder : Encoder or GridEncoder
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
    Nothing is cut into more: the plan warns, and names the memory that would do.
    """
    chunk_rows = np.asarray(source.chunk_rows, np.int64)
    chunk_nbytes = _in_flight_nbytes(source, encoder)
    row = sum(field.row_nbytes for field in encoder.fields.values())
    if parameters is None:
        room = memory_limit_nbytes - decode_nbytes(chunk_nbytes, memory_limit_nbytes)
        num_shards, fill_rows = _choose(chunk_rows, global_batch_size, row, room, shuffle=shuffle)
        block_rows = _choose_blocks(chunk_rows, num_shards * fill_rows) if shuffle else None
        parameters = {
            "global_batch_size": global_batch_size,
            "num_shards": num_shards,
            "fill_rows": fill_rows,
            "block_rows": block_rows,
            "seed": seed,
            "tail": tail,
            "shuffle": shuffle,
        }
    return Plan(
        source_identity=source.identity,
        order=Order.from_parameters(chunk_rows, parameters),
        fields=dict(encoder.fields),
        epoch_nbytes=int(np.sum(source.chunk_nbytes)),
        chunk_nbytes=chunk_nbytes,
        memory_limit_nbytes=memory_limit_nbytes,
        layout=layout_of(source, encoder),
        ranks=ranks,
    )


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


def _in_flight_nbytes(source: Source | ArraySource, encoder: Encoder | GridEncoder) -> Integers:
    """Return the bytes of each chunk while it is read and encoded."""
    nbytes = np.asarray(source.chunk_rows).astype(np.float64)
    if isinstance(source, ArraySource):  # encoding them copies nothing but what has another type
        nbytes *= source.decoded_row_nbytes(encoder.columns)
    else:
        encoded = sum(field.row_nbytes for field in encoder.fields.values())
        nbytes *= _decoded_row_nbytes(source, encoder.columns) + encoded
    if isinstance(source, ExpressionSource):  # all rows below are there, as decoded, as Arrow and as pandas holds them
        nbytes += 3 * source.stored_rows * _decoded_row_nbytes(source.base, source.stored_columns)
    whole: Integers = np.ceil(nbytes).astype(np.int64)
    return whole


def _decoded_row_nbytes(source: Source, columns: Sequence[str]) -> float:
    """Return the bytes of a decoded row: from the types, and from one chunk for columns of variable width."""
    fixed, variable = 0.0, []
    for column in columns:
        kind: pa.DataType = source.schema.field(column).type
        try:
            fixed += kind.bit_width / 8 + 1 / 8  # and a bit that says whether it is null
        except ValueError:
            variable.append(column)
    chunks = np.flatnonzero(np.asarray(source.chunk_rows))
    if not variable or not len(chunks):
        return fixed
    sample = source.read(int(chunks[0]), variable)
    return float(fixed + sample.nbytes / max(sample.num_rows, 1))
