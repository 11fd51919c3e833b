"""``dtk demo``: the whole way, on the flights of 2013."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dtk.cli.output import Json, only_results, print_json, print_pairs

__all__ = ["demo"]


def demo(
    *,
    scale: Annotated[int, typer.Option(metavar="N")] = 1,
    output: Annotated[str, typer.Option(metavar="DIR")] = "dtk-demo",
    epochs: Annotated[int | None, typer.Option(metavar="N")] = None,
    json: Json = False,
) -> None:
    """Run the main job end to end on real data: which flights out of New York City will arrive late.

    Joins 336,776 flights with the weather on a cluster of two workers, profiles them, trains a network on two ranks,
    evaluates it on two months held out beside scikit-learn's gradient boosting, predicts, saves and reloads.

    Parameters
    ----------
    scale : int
        Copies of the flights, their weather jittered; 40 are several times what a worker or a rank may hold.
    output : str
        The directory for everything that is written; what an earlier demo left there is replaced.
    epochs : int, optional
        Of training, at most; by default 3, and 1 for several copies.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Raises
    ------
    ArgumentError
        If an option cannot work.
    DependencyError
        If the package with the flights is not installed.

    Examples
    --------
    $ dtk demo --scale 40
    """
    from dtk.demo import LOADER_MEMORY, RANK_MEMORY, WORKER_MEMORY, check_demo, run_demo, summary
    from dtk.runtime import connect

    directory = Path(output).absolute()
    if epochs is None:
        epochs = 3 if scale == 1 else 1
    check_demo(directory, scale=scale, epochs=epochs)
    directory.mkdir(parents=True, exist_ok=True)
    with only_results(), connect(workers=2, threads=1, memory=WORKER_MEMORY, rank_memory=RANK_MEMORY) as client:
        result = run_demo(
            client,
            directory,
            scale=scale,
            epochs=epochs,
            memory=LOADER_MEMORY,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    if json:
        print_json(result.to_dict())
    else:
        print_pairs(summary(result))
