"""The plan: what a loader will read, in which order, and what that costs in bytes, memory and steps."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError, MemoryLimitError
from dtk.loader.advice import enough_nbytes, warnings_of
from dtk.loader.ahead import HELD
from dtk.loader.draws import most_drawn
from dtk.loader.encoder import Field
from dtk.loader.explain import Explanation, explain
from dtk.loader.layout import Layout
from dtk.loader.mixing import LABELS, Mixing
from dtk.loader.order import Order
from dtk.loader.segments import Integers
from dtk.memory import format_nbytes

__all__ = ["DESTINATION_NBYTES", "PERMUTING_NBYTES", "Plan", "decode_nbytes", "streamed"]

DESTINATION_NBYTES: Final = 8  # of a row that is being decoded: where in the ring it goes
PERMUTING_NBYTES: Final = 24  # of a row of the one fill whose permutation is being drawn


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
    slice_rows : int
        Rows of a slice of a chunk that is too big to be decoded whole; 0 where all are decoded whole.
    sampling : mapping of str to str, optional
        How rows are drawn: ``"by"``, as the loader was given it, and the ``"digest"`` of what was counted for it.
    decodes_per_row : float
        Rows that are decoded by the row of a chunk that is read: more than 1 where windows reach into other chunks.
    cautions : tuple of str
        What the source warns of.
    layout : Layout
        How the samples lie in their store.
    ranks : int
        The number of ranks of the loader that made it. Nothing depends on it but what is explained by default.
    kept_nbytes : int
        Bytes that are kept from one read to the next: the footers of Parquet files, or static variables.
    fetch_nbytes : int
        Bytes of a remote source that a rank fetches ahead of decoding; 0 for a local one.
    """

    source_identity: str
    order: Order
    fields: Mapping[str, Field]
    epoch_nbytes: int
    chunk_nbytes: Integers
    memory_limit_nbytes: int
    slice_rows: int = 0
    sampling: Mapping[str, str] | None = None
    decodes_per_row: float = 1.0
    cautions: tuple[str, ...] = ()
    layout: Layout = field(default_factory=Layout)
    ranks: int = 1
    kept_nbytes: int = 0
    fetch_nbytes: int = 0

    @property
    def num_steps(self) -> int:
        """Steps of an epoch, the same on all ranks."""
        return self.order.num_steps

    @property
    def num_chunks(self) -> int:
        """Chunks of the source, or what its small row groups are joined to."""
        return len(self.order.chunk_rows)

    @property
    def num_samples(self) -> int:
        """Samples that all ranks together see in an epoch."""
        order = self.order
        return min(order.num_rows, order.num_steps * order.global_batch_size)

    @property
    def row_nbytes(self) -> int:
        """Bytes of a row as encoded."""
        return sum(one.row_nbytes for one in self.fields.values())

    @property
    def pool_rows(self) -> int:
        """Rows in the pool of the whole run: the fills of all shards."""
        return min(self.order.fill_rows * self.order.num_shards, self.order.num_rows)

    @cached_property
    def digest(self) -> str:
        """Hash of the source's identity, the order, the fields and how rows are drawn, in hex."""
        fields = [[name, one.dtype.str, list(one.shape)] for name, one in self.fields.items()]
        sampling = [] if self.sampling is None else [dict(self.sampling)]
        text = json.dumps([self.source_identity, self.order.digest, fields, *sampling])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_streamed(self) -> NDArray[np.bool_]:
        """Whether a chunk is read in slices, bool ``[chunks]``."""
        return streamed(self.order.chunk_rows, self.slice_rows)

    @cached_property
    def decode_nbytes(self) -> int:
        """Bytes of decoded chunks that a rank holds at most before their rows are in the ring."""
        return decode_nbytes(self.chunk_nbytes, self.memory_limit_nbytes)

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
            Bytes: the ring, the places of the rows that are being decoded, the decoded chunks, what the
            source keeps, and what is fetched ahead.
        """
        order, steps = self.order, self.ring_steps(ranks)
        ring = steps * order.batch_width(ranks) * self.row_nbytes
        slots = -(-order.global_batch_size // order.num_shards)
        shards = order.num_shards // ranks if order.num_shards % ranks == 0 else order.num_shards // ranks + 2
        destinations = min(shards, order.num_shards) * slots * steps * DESTINATION_NBYTES
        permuting = min(order.fill_rows, order.num_rows) * PERMUTING_NBYTES
        return ring + destinations + permuting + self.decode_nbytes + self.kept_nbytes + HELD * self.fetch_nbytes

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
            where a chunk is cut into blocks or is bigger than a fill, unless the ring holds the whole epoch, and where
            windows reach into the next chunk.
        """
        order = self.order
        if not self.num_chunks or not order.num_rows:
            return 1.0
        shared = (order.num_shards + ranks - math.gcd(ranks, order.num_shards)) / order.num_shards
        largest_piece = min(order.fill_rows, order.block_rows or order.fill_rows)
        if order.chunk_weights is None:
            pieces = -(-order.chunk_rows // largest_piece)
        else:
            pieces = -(-order.expected_rows // np.minimum(most_drawn(order.chunk_rows), largest_piece))
        if order.block_rows is None:  # then the pieces of a chunk that is read in slices follow each other
            pieces[self.is_streamed] = 1
        is_held = order.num_shards == 1 and self.ring_steps(ranks) == self.num_steps
        sliced = 1.0 if is_held else float((pieces * order.chunk_rows).sum()) / order.num_rows
        cuts = min(ranks, order.num_shards) - 1
        return (shared * sliced + cuts / self.num_chunks) * self.decodes_per_row

    def num_requests(self, ranks: int) -> int:
        """Estimate the reads of the store in an epoch, by all ranks together.

        Parameters
        ----------
        ranks : int
            The number of ranks.

        Returns
        -------
        int
            One for each column of a row group, or for each chunk of an array, as often as it is decoded; of a remote
            store the requests that fetch them, which are fewer; 0 in memory.
        """
        # What windows reach into is in both factors.
        return round(self.layout.num_requests * self.decodes_per_sample(ranks) / self.decodes_per_row)

    def entropy(self, ranks: int = 1, *, labels: int | Sequence[float] = LABELS) -> float:
        """Predict how well the batches of the first epochs mix data that lies sorted by a label.

        Parameters
        ----------
        ranks : int
            The number of ranks, whose batches are looked at one by one; 1 for the global batch.
        labels : int or sequence of float
            How many classes of the same size the label has, or the share of each, in the order on disk.

        Returns
        -------
        float
            The mean entropy of labels in a batch, as a share of that in batches of a full shuffle: 1 is as good.

        Raises
        ------
        ArgumentError
            If `labels` is no number of classes, or there is nothing to predict: see `mixing`.
        """
        mixing = self.mixing(labels)
        if mixing is None:
            raise ArgumentError(
                "the plan does not shuffle, has no step, or draws rows by weights: there is no entropy to predict"
            )
        return mixing.entropy(ranks)

    def mixing(self, labels: int | Sequence[float] = LABELS) -> Mixing | None:
        """Predict how well batches mix if the data lies sorted by a label.

        Parameters
        ----------
        labels : int or sequence of float
            How many classes of the same size there are, or the share of each, in the order on disk.

        Returns
        -------
        Mixing or None
            None where there is nothing to predict: no shuffle, no step, or rows that are drawn by their weights.

        Raises
        ------
        ArgumentError
            If `labels` is no number of classes.
        """
        can_be_told = self.order.shuffle and self.num_steps and self.order.chunk_weights is None
        return Mixing(self.order, labels) if can_be_told else None

    def warnings(self, ranks: int | None = None, *, batch_norm: bool | None = None) -> list[str]:
        """Say what is not as good as it could be, each with its remedy.

        Parameters
        ----------
        ranks : int, optional
            The number of ranks; that of the loader if None.
        batch_norm : bool, optional
            Whether the module that is trained has batch normalisation, which a badly mixed batch of a rank harms; not
            known if None.

        Returns
        -------
        list of str
            One line each.
        """
        return warnings_of(self, [self.ranks if ranks is None else ranks], self.mixing(), batch_norm=batch_norm)

    def explain(self, ranks: Sequence[int] | None = None, *, labels: int | Sequence[float] = LABELS) -> Explanation:
        """Describe the plan for people.

        Parameters
        ----------
        ranks : sequence of int, optional
            The numbers of ranks to compare and to warn for. If None, 1, 2, 4, 8 and that of the loader are compared,
            and warnings are for the loader's.
        labels : int or sequence of float
            The classes by whose label the data may lie sorted: how many there are, or the share of each.

        Returns
        -------
        Explanation
            Text; tables in a notebook; ``.save("plan.html")`` writes a page.

        Raises
        ------
        ArgumentError
            If `labels` is no number of classes.
        """
        compared = sorted({1, 2, 4, 8, self.ranks}) if ranks is None else list(ranks)
        return explain(self, compared, [self.ranks] if ranks is None else compared, labels)

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
                f"global_batch_size={order.global_batch_size} is more than the {order.num_rows} samples of the data, "
                f"which leaves no step; lower it, or pass tail='pad'{''.join(f' ({text})' for text in self.cautions)}"
            )
        need = self.memory_nbytes(ranks)
        if need > limit:
            largest = int(self.chunk_nbytes.max())
            fetched = HELD * self.fetch_nbytes
            enough = enough_nbytes(need - self.decode_nbytes - fetched, decode_nbytes(self.chunk_nbytes, 0), fetched)
            kept = ", static variables" if self.layout.kind == "arrays" else ", footers of files"
            kept = f"{kept} ({format_nbytes(self.kept_nbytes)})" if self.kept_nbytes else ""
            raise MemoryLimitError(
                f"memory={format_nbytes(limit)!r} is less than the {format_nbytes(need)} that a rank of {ranks} needs: "
                f"its largest chunk ({format_nbytes(largest)} while it is read){kept} and batches of "
                f"{order.batch_width(ranks):,} rows; pass "
                f"memory={format_nbytes(enough)!r} or more, lower global_batch_size, or write smaller row groups"
            )

    def _repr_html_(self) -> str:
        return self.explain()._repr_html_()

    def __repr__(self) -> str:
        rows, steps, batch = self.order.num_rows, self.num_steps, self.order.global_batch_size
        return f"Plan({rows:,} rows in {self.num_chunks:,} chunks, {steps:,} steps of {batch:,} samples)"

    @property
    def _span_steps(self) -> int:
        """The most steps that one fill reaches over."""
        slots = self.order.global_batch_size // self.order.num_shards
        return -(-(self.order.fill_rows - 1) // slots) + 1


def _lead_steps(span: int, rank_shards: int) -> int:
    return span if rank_shards <= 1 else -(-2 * span // rank_shards)


def streamed(chunk_rows: Integers, slice_rows: int) -> NDArray[np.bool_]:
    """Tell which chunks are read in slices.

    Parameters
    ----------
    chunk_rows : numpy.ndarray
        An int64 ``[chunks]``.
    slice_rows : int
        Rows of a slice; 0 for none.

    Returns
    -------
    numpy.ndarray
        A bool ``[chunks]``: those of more than two slices.
    """
    return (chunk_rows > 2 * slice_rows) & (slice_rows > 0)


def decode_nbytes(chunk_nbytes: Integers, limit_nbytes: int) -> int:
    """Share out memory for decoded chunks; it does not depend on this machine's threads.

    Parameters
    ----------
    chunk_nbytes : numpy.ndarray
        An int64 ``[chunks]``: bytes that a chunk takes while it is read.
    limit_nbytes : int
        Bytes that a rank's loader may hold.

    Returns
    -------
    int
        A quarter of the limit, but no more than all chunks take, and no less than the largest one.
    """
    return max(min(limit_nbytes // 4, int(chunk_nbytes.sum())), int(chunk_nbytes.max(initial=0)))
