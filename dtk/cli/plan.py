"""``dtk plan``: what a training would read, hold and do."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from dtk.cli.output import Json, only_results, print_json, print_pairs

__all__ = ["plan"]


def plan(spec: Annotated[str, typer.Argument(metavar="SPEC.yaml")], *, json: Json = False) -> None:
    """Say what a training would read, hold in memory and do, before anything runs.

    Only metadata is read; where filters decide which rows stay, the columns that they need are read once, to count.

    Parameters
    ----------
    spec : str
        The spec, a YAML file.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Examples
    --------
    $ dtk plan late.yaml
    """
    from dtk.cli.job import prepare

    with only_results():
        job = prepare(spec)
        train = job.pieces["train"]
        counting = _counting_nbytes(train)
        if counting is not None:
            from dtk.memory import format_nbytes

            print(
                f"counting rows: filters and splits decide which stay; reads {format_nbytes(counting)}", file=sys.stderr
            )
        planned = job.estimator().plan(train)
        num_ranks = _ranks(job.spec)
    if json:
        print_json(_described(job, planned, counting, num_ranks))
        return
    from dtk.memory import format_nbytes

    print_pairs(
        {
            "target": f"{job.spec.target} ({job.task})",
            "inputs": f"{len(job.inputs)} columns: {_few(job.inputs)}",
            "pieces": ", ".join(job.pieces),
            "counting": None
            if counting is None
            else f"needed, filters decide which rows stay: {format_nbytes(counting)}",
            "preparing": f"one pass over {format_nbytes(planned.epoch_nbytes)}",
            "training": f"{job.spec.epochs} epochs, {job.spec.epochs * planned.num_steps:,} steps at most",
            "bundle": job.output,
        }
    )
    print()
    print(planned.explain(num_ranks))


def _ranks(spec: Any) -> tuple[int, ...]:
    return (1, 2, 4, 8) if spec.ranks is None else (spec.ranks,)


def _counting_nbytes(data: Any) -> int | None:
    """Return what a pass that counts the rows reads; None where metadata tells how many there are."""
    from dtk.sources import as_source

    if as_source(data).chunk_rows is not None:
        return None
    return int(as_source(data, columns=[]).chunk_nbytes.sum())


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _described(job: Any, planned: Any, counting: int | None, num_ranks: tuple[int, ...]) -> dict[str, Any]:
    return {
        "spec": job.path,
        "target": job.spec.target,
        "task": job.task,
        "inputs": job.inputs,
        "pieces": list(job.pieces),
        "counting_nbytes": counting,
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
                "decodes_per_sample": planned.decodes_per_sample(count),
                "warnings": planned.warnings(count),
            }
            for count in num_ranks
        },
        "output": job.output,
    }
