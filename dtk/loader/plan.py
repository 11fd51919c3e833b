"""The plan: what a loader will read, in which order, and what that costs in bytes, memory and steps."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError, DataError, MemoryLimitError
from dtk.loader.encoder import Encoder, Field
from dtk.loader.grids import GridEncoder
from dtk.loader.order import Order, Tail
from dtk.loader.segments import Integers
from dtk.memory import format_nbytes
from dtk.sources import ExpressionSource, Source
from dtk.sources.arrays import ArraySource

__all__ = ["Plan", "make_plan"]

_SHARDS: Final = (1, 2, 4, 8, 12, *(24 * 2**power for power in range(9)))
_DESTINATION_NBYTES: Final = 8  # of a row that is being decoded: where in the ring it goes
_PERMUTING_NBYTES: Final = 24  # of a row of the one fill whose permutation is being drawn


@dataclass(frozen=True, eq=False)
class Plan:
    """What a loader will do, for any number of ranks.

    Parameters
    ----------
    source_identity : str
        Digest of the source.
    order : Order
        The order of samples.
    fields : mapping of str to Field
        The arrays of a batch.
    epoch_nbytes : int
        Bytes on disk of the columns that are read.
    chunk_nbytes : numpy.ndarray
        An int64 ``[chunks]``: bytes that a chunk takes from when it is read until its rows are in the ring.
    memory_limit_nbytes : int
        Bytes that a rank's loader may hold.
    """

    source_identity: str
    order: Order
    fields: Mapping[str, Field]
    epoch_nbytes: int
    chunk_nbytes: Integers
    memory_limit_nbytes: int

    @property
    def num_steps(self) -> int:
        """Steps of an epoch, the same on all ranks."""
        return self.order.num_steps

    @property
    def num_chunks(self) -> int:
        """Chunks of the source."""
        return len(self.order.chunk_rows)

    @property
    def num_samples(self) -> int:
        """Samples that all ranks together see in an epoch."""
        order = self.order
        return min(order.num_rows, order.num_steps * order.global_batch_size)

    @property
    def row_nbytes(self) -> int:
        """Bytes of a row as encoded."""
        return sum(field.row_nbytes for field in self.fields.values())

    @property
    def pool_rows(self) -> int:
        """Rows in the pool of the whole run: the fills of all shards."""
        return min(self.order.fill_rows * self.order.num_shards, self.order.num_rows)

    @cached_property
    def digest(self) -> str:
        """Hash of the source's identity, the order and the fields, in hex."""
        fields = [[name, field.dtype.str, list(field.shape)] for name, field in self.fields.items()]
        text = json.dumps([self.source_identity, self.order.digest, fields])
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def decode_nbytes(self) -> int:
        """Bytes of decoded chunks that a rank holds at most before their rows are in the ring."""
        return _decode_nbytes(self.chunk_nbytes, self.memory_limit_nbytes)

    def samples_in_step(self, step: int) -> int:
        """Count the real samples of a global batch.

        Parameters
        ----------
        step : int
            The step within the epoch.

        Returns
        -------
        int
            The global batch size, or less in a padded last step.
        """
        return self.order.samples_in_step(step)

    def lead_steps(self, ranks: int) -> int:
        """Return for how many steps the ring of a rank reads ahead, beyond the fills that are open.

        Parameters
        ----------
        ranks : int
            The number of ranks.

        Returns
        -------
        int
            Steps: one fill's for a rank with one shard, two fills' where they are staggered.
        """
        return _lead_steps(self._span_steps, self.order.num_shards // ranks)

    def ring_steps(self, ranks: int) -> int:
        """Return the steps whose batches a rank holds at a time.

        Parameters
        ----------
        ranks : int
            The number of ranks.

        Returns
        -------
        int
            Steps.
        """
        return min(self.num_steps, self._span_steps + self.lead_steps(ranks))

    def memory_nbytes(self, ranks: int) -> int:
        """Return the memory that the loader of a rank takes at most.

        Parameters
        ----------
        ranks : int
            The number of ranks.

        Returns
        -------
        int
            Bytes: the ring, the places of the rows that are being decoded, and the decoded chunks.
        """
        order, steps = self.order, self.ring_steps(ranks)
        ring = steps * order.batch_width(ranks) * self.row_nbytes
        slots = -(-order.global_batch_size // order.num_shards)
        shards = order.num_shards // ranks if order.num_shards % ranks == 0 else order.num_shards // ranks + 2
        destinations = min(shards, order.num_shards) * slots * steps * _DESTINATION_NBYTES
        permuting = min(order.fill_rows, order.num_rows) * _PERMUTING_NBYTES
        return ring + destinations + permuting + self.decode_nbytes

    def decodes_per_sample(self, ranks: int) -> float:
        """Estimate how often a row is decoded in an epoch, by all ranks together.

        Parameters
        ----------
        ranks : int
            The number of ranks.

        Returns
        -------
        float
            1 at best. More where a shard is read by several ranks, where a border between two ranks cuts a chunk, and
            where a chunk is cut into blocks or is bigger than a fill.
        """
        order = self.order
        if not self.num_chunks or not order.num_rows:
            return 1.0
        shared = (order.num_shards + ranks - math.gcd(ranks, order.num_shards)) / order.num_shards
        largest_piece = min(order.fill_rows, order.block_rows or order.fill_rows)
        pieces = -(-order.chunk_rows // largest_piece)
        sliced = float((pieces * order.chunk_rows).sum()) / order.num_rows
        cuts = min(ranks, order.num_shards) - 1
        return shared * sliced + cuts / self.num_chunks

    def warnings(self, ranks: int = 1) -> list[str]:
        """Say what is not as good as it could be, each with its remedy.

        Parameters
        ----------
        ranks : int
            The number of ranks.

        Returns
        -------
        list of str
            One line each.
        """
        order = self.order
        found = []
        if order.shuffle and self.num_chunks and int(order.chunk_rows.max()) > order.fill_rows:
            found.append(
                f"chunks of up to {int(order.chunk_rows.max()):,} rows are more than the {order.fill_rows:,} that are "
                "permuted together, and are decoded several times; give more memory= or write smaller row groups"
            )
        if self.num_chunks > 64 and order.num_rows / self.num_chunks < 1024:
            found.append(
                f"chunks hold {order.num_rows / self.num_chunks:.0f} rows on average, which makes reading slow; write "
                "row groups of at least 10,000 rows"
            )
        if ranks > order.global_batch_size:
            found.append(f"ranks={ranks} is more than global_batch_size={order.global_batch_size}: some get no samples")
        if self.decodes_per_sample(ranks) > 1.5:
            found.append(
                f"each sample is decoded {self.decodes_per_sample(ranks):.1f} times by {ranks} ranks; take a number of "
                f"ranks that divides {order.num_shards}, or write more and smaller row groups"
            )
        return found

    def check(self, ranks: int = 1) -> None:
        """Refuse what cannot work.

        Parameters
        ----------
        ranks : int
            The number of ranks.

        Raises
        ------
        DataError
            If there are no rows.
        ArgumentError
            If an epoch has no step.
        MemoryLimitError
            If a rank needs more memory than the limit.
        """
        order, limit = self.order, self.memory_limit_nbytes
        if not order.num_rows:
            raise DataError("the data holds no rows; nothing can be loaded from it")
        if not self.num_steps:
            raise ArgumentError(
                f"global_batch_size={order.global_batch_size} is more than the {order.num_rows} rows of the data, "
                "which leaves no step; lower it, or pass tail='pad'"
            )
        need = self.memory_nbytes(ranks)
        if need > limit:
            largest = int(self.chunk_nbytes.max())
            # With more memory a quarter of it is still kept for decoded chunks, or what the largest takes.
            ring, chunk = need - self.decode_nbytes, _decode_nbytes(self.chunk_nbytes, 0)
            enough = 1.05 * max(ring * 4 / 3, ring + chunk)
            raise MemoryLimitError(
                f"memory={format_nbytes(limit)!r} is less than the {format_nbytes(need)} that a rank of {ranks} needs: "
                f"its largest chunk ({format_nbytes(largest)} while it is read) and batches of "
                f"{order.batch_width(ranks):,} rows; pass "
                f"memory={format_nbytes(enough)!r} or more, lower global_batch_size, or write smaller row groups"
            )

    def explain(self, ranks: Sequence[int] = (1, 2, 4, 8)) -> str:
        """Describe the plan for people.

        Parameters
        ----------
        ranks : sequence of int
            The numbers of ranks to compare.

        Returns
        -------
        str
            A few aligned lines, and a warning each for what could be better.
        """
        order = self.order
        left_out = order.num_rows - self.num_samples
        tail = f"{left_out:,} rows left out, others each epoch" if left_out and order.shuffle else ""
        tail = tail or (f"the last {left_out:,} rows left out" if left_out else "every row once")
        shuffle = "as on disk"
        if order.shuffle:
            mean = max(order.num_rows / max(int(np.count_nonzero(order.chunk_rows)), 1), 1.0)
            shuffle = (
                f"shuffled with seed {order.seed}; pool of {self.pool_rows:,} rows "
                f"({self.pool_rows / mean:.1f} chunks) in {order.num_shards} shards"
            )
        lines = [
            f"rows     {order.num_rows:,} in {self.num_chunks:,} chunks",
            f"steps    {self.num_steps:,} of {order.global_batch_size:,} samples; {tail}",
            f"order    {shuffle}",
            f"reads    {format_nbytes(self.epoch_nbytes)} an epoch",
            f"memory   at most {format_nbytes(self.memory_limit_nbytes)} a rank",
            "",
            f"{'ranks':>5}  {'batch':>7}  {'memory a rank':>13}  {'decodes a sample':>16}",
        ]
        lines += [
            f"{count:>5}  {order.batch_width(count):>7,}  {format_nbytes(self.memory_nbytes(count)):>13}  "
            f"{self.decodes_per_sample(count):>16.2f}"
            for count in ranks
        ]
        lines += [f"warning: {text}" for text in self.warnings(ranks[0] if len(ranks) == 1 else 1)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        rows, steps, batch = self.order.num_rows, self.num_steps, self.order.global_batch_size
        return f"Plan({rows:,} rows in {self.num_chunks:,} chunks, {steps:,} steps of {batch:,} samples)"

    @property
    def _span_steps(self) -> int:
        """The most steps that one fill reaches over."""
        slots = self.order.global_batch_size // self.order.num_shards
        return -(-(self.order.fill_rows - 1) // slots) + 1


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
    row = sum(field.row_nbytes for field in encoder.fields.values())
    if parameters is None:
        room = memory_limit_nbytes - _decode_nbytes(chunk_nbytes, memory_limit_nbytes)
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
    per_step = factor * (batch * row_nbytes + slots * shards * _DESTINATION_NBYTES) + slots * _PERMUTING_NBYTES
    span = max(2, int(room_nbytes / per_step) - 1)
    return (span - 1) * (batch // shards) + 1


def _lead_steps(span: int, rank_shards: int) -> int:
    return span if rank_shards <= 1 else -(-2 * span // rank_shards)


def _decode_nbytes(chunk_nbytes: Integers, limit_nbytes: int) -> int:
    """Return a quarter of the limit, but no more than all chunks take, and no less than the largest one.

    It does not depend on this machine's threads.
    """
    return max(min(limit_nbytes // 4, int(chunk_nbytes.sum())), int(chunk_nbytes.max(initial=0)))


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
