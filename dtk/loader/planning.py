"""Making a plan: the shards and the pool for a memory budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dtk.loader.ahead import HELD, fetch_cost_of, fetch_limit_nbytes
from dtk.loader.encoder import Encoder
from dtk.loader.grids import GridEncoder
from dtk.loader.order import Order, Tail
from dtk.loader.plan import DESTINATION_NBYTES, PERMUTING_NBYTES, Plan, decode_nbytes
from dtk.loader.segments import Integers
from dtk.sources import ExpressionSource, Source
from dtk.sources.arrays import ArraySource

__all__ = ["make_plan"]

_SHARDS: Final = (1, 2, 4, 8, 12, *(24 * 2**power for power in range(9)))


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
) -> Plan:
    """Choose the shards and the pool for a memory budget.

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

    Returns
    -------
    Plan
        Not checked yet.
    """
    chunk_rows = np.asarray(source.chunk_rows, np.int64)
    chunk_nbytes = _in_flight_nbytes(source, encoder)
    cost, fetch_nbytes = fetch_cost_of(source, encoder.columns), 0
    if cost is not None:
        chunk_nbytes = chunk_nbytes + HELD * cost.nbytes
        fetch_nbytes = fetch_limit_nbytes(cost.nbytes, memory_limit_nbytes)
    row = sum(field.row_nbytes for field in encoder.fields.values())
    if parameters is None:
        room = memory_limit_nbytes - decode_nbytes(chunk_nbytes, memory_limit_nbytes) - HELD * fetch_nbytes
        num_shards, fill_rows = _choose(chunk_rows, global_batch_size, row, room, shuffle=shuffle)
        parameters = {
            "global_batch_size": global_batch_size,
            "num_shards": num_shards,
            "fill_rows": fill_rows,
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
        fetch_nbytes=fetch_nbytes,
        requests=0 if cost is None else int(cost.requests.sum()) + cost.once,
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
