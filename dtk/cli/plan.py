"""``dtk plan``: what a training would read, hold and do."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from dtk.cli.output import Json, only_results, print_json, print_pairs

__all__ = ["plan"]


def plan(spec: Annotated[str, typer.Argument(metavar="SPEC.yaml")], *, json: Json = False) -> None:
    """Say what a training would read, hold in memory and do, before anything runs.

    Only metadata is read; where filters or the split decide which rows stay, the columns that they need are read, to
    count. That runs on threads of this process: no cluster is started or joined.

    Parameters
    ----------
    spec : str
        The spec, a YAML file.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Raises
    ------
    MemoryLimitError
        If a rank would hold more than its share of the cluster that would be started.

    Examples
    --------
    $ dtk plan late.yaml
    """
    from dtk.cli.job import prepare
    from dtk.cli.share import check_share, plan_rank
    from dtk.memory import format_nbytes

    with only_results():
        job = prepare(spec)
        counting = sum(map(_counting_nbytes, job.pieces.values()))
        if counting:
            text = f"counting rows: filters and splits decide which stay; reads up to {format_nbytes(counting)}"
            print(f"{text} on threads of this process", file=sys.stderr)
        job.refuse_empty_pieces()
        planned = job.estimator().plan(
            job.pieces["train"], sample_weight=job.spec.sample_weight, validation=job.pieces.get("validation")
        )
        counts = job.rank_counts()
        ranks = {count: plan_rank(job, planned, count) for count in counts}
        if len(ranks) == 1:  # else only the cluster tells how many there will be
            check_share(job, counts[0], ranks[counts[0]])
    if json:
        print_json(_described(job, planned, counting, ranks))
        return
    print_pairs(
        {
            "target": f"{job.spec.target} ({job.task})",
            "inputs": f"{len(job.inputs)} columns: {_few(job.inputs)}",
            "pieces": ", ".join(job.pieces),
            "counting": f"needed, filters and splits decide which rows stay: {format_nbytes(counting)}"
            if counting
            else None,
            "preparing": f"one pass over {format_nbytes(planned.epoch_nbytes)}",
            "training": f"{job.spec.epochs} epochs, {job.spec.epochs * planned.num_steps:,} steps at most",
            "bundle": job.output,
        }
    )
    print()
    print(planned.explain(counts))
    print()
    for count, parts in ranks.items():
        shown = ", ".join(f"{name} {format_nbytes(nbytes)}" for name, nbytes in parts.items())
        share = job.share_nbytes(count)
        limit = "" if share is None else f" of {format_nbytes(share)}"
        held = f"with {count} {'rank' if count == 1 else 'ranks'} each holds about {format_nbytes(sum(parts.values()))}"
        print(f"{held}{limit}: {shown}")


def _counting_nbytes(data: Any) -> int:
    """Return what a pass that counts the rows reads; 0 where metadata tells how many there are."""
    from dtk.sources import as_source

    source = as_source(data, columns=[])
    return 0 if source.chunk_rows is not None else int(source.chunk_nbytes.sum())


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _described(job: Any, planned: Any, counting: int, ranks: dict[int, dict[str, int]]) -> dict[str, Any]:
    return {
        "spec": job.path,
        "target": job.spec.target,
        "task": job.task,
        "inputs": job.inputs,
        "pieces": list(job.pieces),
        "counting_nbytes": counting or None,
        "num_rows": planned.order.num_rows,
        "num_chunks": planned.num_chunks,
        "epochs": job.spec.epochs,
        "num_steps": planned.num_steps,
        "global_batch_size": planned.order.global_batch_size,
        "epoch_nbytes": planned.epoch_nbytes,
        "memory_limit_nbytes": planned.memory_limit_nbytes,
        "ranks": {
            str(count): {
                "memory_nbytes": planned.memory_nbytes(count),
                "planned_peak_nbytes": sum(parts.values()),
                "parts_nbytes": parts,
                "share_nbytes": job.share_nbytes(count),
                "decodes_per_sample": planned.decodes_per_sample(count),
                "warnings": planned.warnings(count),
            }
            for count, parts in ranks.items()
        },
        "bundle": job.output,
    }
