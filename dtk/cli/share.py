"""What a rank of a job is planned to hold, before anything is fitted, and whether its share suffices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dtk.errors import MemoryLimitError
from dtk.memory import format_nbytes

if TYPE_CHECKING:
    import pyarrow as pa

    from dtk.cli.job import Job
    from dtk.loader import Field, Plan

__all__ = ["check_share", "plan_rank"]

VALIDATION_BATCH: Final = 4096  # at least


@dataclass(frozen=True)
class _Shapes:
    """The arrays of a batch before anything is fitted."""

    columns: tuple[str, ...]
    fields: Mapping[str, Field]

    def encode(self, table: pa.Table) -> Mapping[str, Any]:
        raise AssertionError("a plan reads no rows")


def plan_rank(job: Job, planned: Plan, ranks: int) -> dict[str, int]:
    """Say what a rank would hold, in bytes, by what it is for.

    Parameters
    ----------
    job : Job
        What to train.
    planned : Plan
        Of its training data.
    ranks : int
        How many there are.

    Returns
    -------
    dict of str to int
        The model without all but two rows of each embedding: how many categories there are, only a fit tells.
    """
    from dtk.loader import Loader
    from dtk.models import ModelSchema, build
    from dtk.training.run import plan_rank_memory

    widths = {name: field.shape[0] for name, field in planned.fields.items() if field.shape}
    outputs = 1 if job.task == "regression" else 2
    module = build(job.spec.model, ModelSchema(widths.get("inputs", 0), (2,) * widths.get("codes", 0), outputs))
    plans = {"loader": planned}
    if "validation" in job.pieces:
        loader = Loader(
            job.pieces["validation"],
            preparation=_Shapes((*job.inputs, job.spec.target), planned.fields),
            global_batch_size=max(planned.order.global_batch_size, VALIDATION_BATCH),
            shuffle=False,
            memory=job.spec.memory,
            tail="pad",
        )
        plans["validation"] = loader.plan
    return plan_rank_memory(module, plans, ranks)


def check_share(job: Job, ranks: int, parts: Mapping[str, int]) -> None:
    """Refuse what training would refuse: a rank that would hold more than its share.

    Parameters
    ----------
    job : Job
        What to train.
    ranks : int
        How many there are.
    parts : mapping of str to int
        What `plan_rank` says.

    Raises
    ------
    MemoryLimitError
        With the remedy for the part that is too large.
    """
    from dtk.training.run import can_read_less

    share, needed = job.share_nbytes(ranks), sum(parts.values())
    if share is None or needed <= share:
        return
    shown = ", ".join(f"{name} {format_nbytes(nbytes)}" for name, nbytes in parts.items())
    raise MemoryLimitError(
        f"{job.path}: a rank would hold {format_nbytes(needed)} ({shown}) but may hold {format_nbytes(share)}; "
        f"{'lower memory, or ' if can_read_less(parts, share) else ''}raise cluster.rank_memory or cluster.memory"
    )
