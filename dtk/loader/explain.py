"""What a plan says of itself to people, and what it warns of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dtk.memory import format_nbytes

if TYPE_CHECKING:
    from dtk.loader.plan import Plan

__all__ = ["explain", "warnings_of"]


def explain(plan: Plan, ranks: Sequence[int]) -> str:
    """Describe the plan for people.

    Parameters
    ----------
    plan : Plan
        The plan.
    ranks : sequence of int
        The numbers of ranks to compare.

    Returns
    -------
    str
        A few aligned lines, and a warning each for what could be better.
    """
    order = plan.order
    left_out = order.num_rows - plan.num_samples
    tail = f"{left_out:,} rows left out, others each epoch" if left_out and order.shuffle else ""
    tail = tail or (f"the last {left_out:,} rows left out" if left_out else "every row once")
    shuffle = "as on disk"
    if order.shuffle:
        mean = max(order.num_rows / max(int(np.count_nonzero(order.chunk_rows)), 1), 1.0)
        shuffle = (
            f"shuffled with seed {order.seed}; pool of {plan.pool_rows:,} rows "
            f"({plan.pool_rows / mean:.1f} chunks) in {order.num_shards} shards"
        )
    requests = f" in {plan.requests:,} requests" if plan.requests else ""
    lines = [
        f"rows     {order.num_rows:,} in {plan.num_chunks:,} chunks",
        f"steps    {plan.num_steps:,} of {order.global_batch_size:,} samples; {tail}",
        f"order    {shuffle}",
        f"reads    {format_nbytes(plan.epoch_nbytes)} an epoch{requests}",
        f"memory   at most {format_nbytes(plan.memory_limit_nbytes)} a rank",
        "",
        f"{'ranks':>5}  {'batch':>7}  {'memory a rank':>13}  {'decodes a sample':>16}",
    ]
    lines += [
        f"{count:>5}  {order.batch_width(count):>7,}  {format_nbytes(plan.memory_nbytes(count)):>13}  "
        f"{plan.decodes_per_sample(count):>16.2f}"
        for count in ranks
    ]
    lines += [f"warning: {text}" for text in warnings_of(plan, ranks[0] if len(ranks) == 1 else 1)]
    return "\n".join(lines)


def warnings_of(plan: Plan, ranks: int) -> list[str]:
    """Say what is not as good as it could be, each with its remedy.

    Parameters
    ----------
    plan : Plan
        The plan.
    ranks : int
        The number of ranks.

    Returns
    -------
    list of str
        One line each.
    """
    order = plan.order
    found = []
    if order.shuffle and plan.num_chunks and int(order.chunk_rows.max()) > order.fill_rows:
        found.append(
            f"chunks of up to {int(order.chunk_rows.max()):,} rows are more than the {order.fill_rows:,} that are "
            "permuted together, and are decoded several times; give more memory= or write smaller row groups"
        )
    if plan.num_chunks > 64 and order.num_rows / plan.num_chunks < 1024:
        found.append(
            f"chunks hold {order.num_rows / plan.num_chunks:.0f} rows on average, which makes reading slow; write "
            "row groups of at least 10,000 rows"
        )
    if ranks > order.global_batch_size:
        found.append(f"ranks={ranks} is more than global_batch_size={order.global_batch_size}: some get no samples")
    if plan.decodes_per_sample(ranks) > 1.5:
        found.append(
            f"each sample is decoded {plan.decodes_per_sample(ranks):.1f} times by {ranks} ranks; take a number of "
            f"ranks that divides {order.num_shards}, or write more and smaller row groups"
        )
    return found
