"""``dtk train``: a spec, run to the end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dtk.cli.output import Json, Overwrite, only_results, print_json, print_pairs

__all__ = ["train"]


def train(
    spec: Annotated[str, typer.Argument(metavar="SPEC.yaml")],
    *,
    output: Annotated[str | None, typer.Option(metavar="DIR")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train as a spec says, evaluate on its test piece, and save the bundle.

    Parameters
    ----------
    spec : str
        The spec, a YAML file.
    output : str, optional
        The directory of the bundle, instead of the one that the spec names.
    overwrite : bool
        Replace what is there, once the new is complete.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Raises
    ------
    ArgumentError
        If the output cannot be written, a piece of the split has no rows, or anything in the spec is wrong.

    Examples
    --------
    $ dtk train late.yaml --output late.bundle
    """
    from dtk.bundle.files import check_destination
    from dtk.cli.job import prepare
    from dtk.errors import ArgumentError

    start = time.monotonic()
    with only_results():
        job = prepare(spec)
        destination = str(Path(output or job.output).absolute())
        if Path(destination).exists() and not overwrite:
            raise ArgumentError(f"output={destination!r} is there already; give another --output, or --overwrite")
        check_destination(destination, overwrite=overwrite)
        print(f"{job.task} of {job.spec.target!r} from {len(job.inputs)} columns", file=sys.stderr)
        with job.cluster():
            job.refuse_empty_pieces()
            model = job.estimator().fit(
                job.pieces["train"], sample_weight=job.spec.sample_weight, validation=job.pieces.get("validation")
            )
            model.bundle_.save(destination, overwrite=overwrite)  # before anything else can fail
            metrics = model.bundle_.evaluate(job.pieces["test"], progress=True)
    report = model.report_
    result = {
        "task": job.task,
        "target": job.spec.target,
        "metrics": metrics,
        "num_ranks": report.num_ranks,
        "num_epochs": len(report.history),
        "samples_per_s": report.samples_per_s,
        "wait_share": report.wait_share,
        "planned_peak_nbytes": report.planned_peak_nbytes,
        "peak_nbytes": report.peak_nbytes,
        "wall_s": time.monotonic() - start,
        "bundle": destination,
    }
    if json:
        print_json(result | {"history": report.history})
    else:
        print_pairs(_lines(result))


def _lines(result: dict[str, Any]) -> dict[str, str]:
    from dtk.memory import format_nbytes

    peak, planned = format_nbytes(result["peak_nbytes"]), format_nbytes(result["planned_peak_nbytes"])
    ranks = "1 rank" if result["num_ranks"] == 1 else f"{result['num_ranks']} ranks"
    return {
        **{f"test {name}": f"{value:.4f}" for name, value in result["metrics"].items()},
        "training": f"{result['samples_per_s']:,.0f} samples/s on {ranks}, {result['num_epochs']} epochs",
        "waiting for data": f"{result['wait_share']:.1%} of the training",
        "memory of a rank": f"peak {peak}, planned {planned}",
        "wall time": f"{result['wall_s']:.1f} s",
        "bundle": result["bundle"],
    }
