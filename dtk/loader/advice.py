"""What is not as good as it could be in a plan, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from dtk.loader.ahead import HELD
from dtk.loader.joining import pool_that_joins
from dtk.memory import format_nbytes

if TYPE_CHECKING:
    from dtk.loader.mixing import Mixing
    from dtk.loader.plan import Plan

__all__ = ["MIXING_BLOCKS", "blocks_that_mix", "enough_nbytes", "warnings_of"]

MIXING_BLOCKS: Final = 24
"""Blocks in the pool that mix two classes as well as a full shuffle does, within 2% of the entropy."""

_WELL_MIXED: Final = 0.98
_MUCH_LESS_MIXED: Final = 0.95
_MUCH_DECODED: Final = 1.5
_TINY_ROWS: Final = 1024  # of a row group
_TINY_NBYTES: Final = 64 << 10  # of a request, where opening it costs more than reading it
_FEW_REQUESTS: Final = 64


def blocks_that_mix(num_labels: int) -> int:
    """Return how many blocks the pool must hold so that batches of sorted data are as good as a full shuffle's.

    Parameters
    ----------
    num_labels : int
        The number of classes.

    Returns
    -------
    int
        With so many the entropy of labels in a global batch is within 2% of a full shuffle's.
    """
    return max(MIXING_BLOCKS, 5 * num_labels)


def enough_nbytes(ring_nbytes: float, decode_nbytes: int, fetch_nbytes: int) -> float:
    """Return a memory in which a loader finds room.

    Parameters
    ----------
    ring_nbytes : float
        Bytes of its ring, and what belongs to that.
    decode_nbytes : int
        The least bytes for decoded chunks: a quarter of the memory is kept for them.
    fetch_nbytes : int
        The least bytes for what is fetched ahead: an eighth is, of a remote source.

    Returns
    -------
    float
        Bytes, with some to spare.
    """
    return 1.05 * max(ring_nbytes * (8 / 5 if fetch_nbytes else 4 / 3), ring_nbytes + decode_nbytes + fetch_nbytes)


def warnings_of(plan: Plan, ranks: Sequence[int], mixing: Mixing | None, *, batch_norm: bool | None) -> list[str]:
    """Say what is not as good as it could be, each with its remedy.

    Parameters
    ----------
    plan : Plan
        The plan.
    ranks : sequence of int
        The numbers of ranks; of those that have the same trouble the first is named.
    mixing : Mixing or None
        What predicts the entropy of batches; None if nothing is shuffled.
    batch_norm : bool or None
        Whether the module that is trained has batch normalisation; None if that is not known.

    Returns
    -------
    list of str
        One line each.
    """
    found: dict[str, str] = {}
    for count in ranks:
        for kind, text in [
            *_of_chunks(plan),
            *_of_ranks(plan, count),
            *(_of_mixing(plan, count, mixing, batch_norm) if mixing is not None else ()),
            *_of_decodes(plan, count),
        ]:
            found.setdefault(kind, text)
    return list(found.values())


def _of_chunks(plan: Plan) -> Iterator[tuple[str, str]]:
    order, layout = plan.order, plan.layout
    largest = int(order.chunk_rows.max(initial=0))
    for number, text in enumerate(plan.cautions):
        yield f"source {number}", text
    if plan.decodes_per_row > _MUCH_DECODED:
        yield (
            "windows",
            f"windows reach into later chunks, so that {plan.decodes_per_row:.1f} rows are decoded by the row; write "
            "bigger row groups or chunks",
        )
    if order.shuffle and largest > order.fill_rows:
        again = "" if plan.is_streamed[int(order.chunk_rows.argmax())] else ", and are decoded several times"
        yield (
            "fill",
            f"chunks of up to {largest:,} rows are more than the {order.fill_rows:,} that are permuted together"
            f"{again}; give more memory=, about {_memory_for(plan, 2 * largest)!r}"
            f"{_smaller(plan, order.fill_rows // 2)}",
        )
    elif order.block_rows is not None and plan.decodes_per_sample(1) > _MUCH_DECODED * plan.decodes_per_row:
        yield (
            "blocks",
            f"chunks of up to {largest:,} rows are read in two blocks, because the pool holds few of them, so each "
            f"sample is decoded {plan.decodes_per_sample(1):.1f} times; give more memory=, about "
            f"{_memory_for(plan, 5 * largest)!r}{_smaller(plan, plan.pool_rows // 5)}",
        )
    request_nbytes = plan.epoch_nbytes / max(layout.num_requests, 1)
    if layout.kind == "arrays" and layout.num_requests > _FEW_REQUESTS and request_nbytes < _TINY_NBYTES:
        yield (
            "tiny",
            f"chunks in the store hold {format_nbytes(request_nbytes)} on average, which makes reading slow; write "
            "chunks of 1 MiB or more, or shards of many chunks",
        )
    elif layout.kind != "arrays":
        yield from _of_row_groups(plan)
    if layout.misaligned:
        named = ", ".join(f"{name!r} ({times:.1f} times)" for name, times in sorted(layout.misaligned.items()))
        yield (
            "misaligned",
            f"chunks along the samples are cut by those of the biggest variable, and are decoded more than once: "
            f"{named}; write all variables with the same chunks along the samples, or leave these out",
        )


def _of_row_groups(plan: Plan) -> Iterator[tuple[str, str]]:
    """Warn of tiny row groups: each costs something, also where several are read together."""
    order, number = plan.order, plan.layout.num_row_groups or plan.num_chunks
    mean = order.num_rows / max(number, 1)
    if number <= _FEW_REQUESTS or mean >= _TINY_ROWS:
        return
    wanted_rows = pool_that_joins(mean)
    if order.join_rows is not None:
        which = f"row groups hold {mean:.0f} rows on average, and are read {number / plan.num_chunks:.1f} at a time"
        remedy = "write row groups of at least 10,000 rows, once"
    else:
        which = f"chunks hold {mean:.0f} rows on average"
        remedy = "write row groups of at least 10,000 rows"
        if plan.layout.can_join and plan.pool_rows < wanted_rows <= order.num_rows:
            remedy += f", or give more memory=, about {_memory_for(plan, wanted_rows)!r}, to have some read together"
    yield "tiny", f"{which}, which makes reading slow; {remedy}"


def _of_ranks(plan: Plan, ranks: int) -> Iterator[tuple[str, str]]:
    batch = plan.order.global_batch_size
    if ranks > batch:
        yield (
            "ranks",
            f"ranks={ranks} is more than global_batch_size={batch}: some get no samples; take at most {batch} ranks, "
            "or a bigger batch",
        )


def _of_mixing(plan: Plan, ranks: int, mixing: Mixing, batch_norm: bool | None) -> Iterator[tuple[str, str]]:
    order = plan.order
    sorted_data = f"if the data lies sorted by a label of {mixing.num_labels} classes, "
    whole = mixing.entropy()
    if whole < _WELL_MIXED and plan.pool_rows < order.num_rows:
        chunk = order.num_rows / max(int(np.count_nonzero(order.chunk_rows)), 1)
        open_rows = mixing.pool_rows
        enough_rows = max(blocks_that_mix(mixing.num_labels) * chunk, 2 * open_rows)
        rewrite = _smaller(plan, int(chunk * open_rows / enough_rows))
        rewrite += f" ({format_nbytes(plan.epoch_nbytes)} to write, once)" if rewrite else ""
        yield (
            "mixing",
            f"{sorted_data}global batches have {whole:.1%} of the entropy of a full shuffle's: they are drawn from "
            f"{open_rows / chunk:.1f} chunks at a time; give more memory=, about "
            f"{_memory_for(plan, plan.pool_rows * enough_rows / open_rows)!r}{rewrite}",
        )
    part = mixing.entropy(ranks)
    if ranks > 1 and batch_norm is not False and part < _MUCH_LESS_MIXED * whole:
        module = "the module has batch normalisation" if batch_norm else "a module with batch normalisation"
        yield (
            "batch norm",
            f"{sorted_data}the batch of one rank of {ranks} has {part:.1%} of the entropy of a full shuffle's, and "
            f"{module}{', which' if batch_norm else ''} sees no more than that; take nn.LayerNorm or nn.GroupNorm, "
            "nn.SyncBatchNorm on GPUs, fewer ranks, or more memory=",
        )


def _of_decodes(plan: Plan, ranks: int) -> Iterator[tuple[str, str]]:
    shards, decodes = plan.order.num_shards, plan.decodes_per_sample(ranks)
    if decodes <= _MUCH_DECODED or decodes <= _MUCH_DECODED * plan.decodes_per_sample(1):
        return  # what one rank decodes several times is told by its chunks
    fewer = f"a number of ranks that divides {shards}" if ranks <= shards else f"at most {shards} ranks"
    if shards == 1:
        fewer = "one rank"
    yield (
        "decodes",
        f"each sample is decoded {decodes:.1f} times by {ranks} ranks; take {fewer}, or give more "
        f"memory={', or write more and smaller chunks' if plan.layout.kind != 'table' else ''}",
    )


def _smaller(plan: Plan, num_rows: int) -> str:
    """Say what could be written instead, where that helps: chunks of a few rows of a table would be slow to read."""
    if plan.layout.kind == "arrays":
        return f", or write chunks of at most {max(1, num_rows):,} samples"
    return (
        f", or write row groups of at most {num_rows:,} rows" if plan.layout.kind != "table" and num_rows >= 100 else ""
    )


def _memory_for(plan: Plan, pool_rows: float) -> str:
    """Estimate the memory that a pool takes, from what today's takes."""
    share = min(pool_rows, plan.order.num_rows) / max(plan.pool_rows, 1)
    fetched = HELD * plan.fetch_nbytes
    ring = (plan.memory_nbytes(1) - plan.decode_nbytes - fetched) * share
    return format_nbytes(enough_nbytes(ring, plan.decode_nbytes, fetched))
