"""``dtk evaluate``: metrics of a bundle on data."""

from __future__ import annotations

from typing import Annotated

import typer

from dtk.cli.output import AsSpec, Cluster, Format, Json, joined, only_results, print_json, print_pairs

__all__ = ["evaluate"]


def evaluate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE")],
    path: Annotated[str, typer.Argument(metavar="PATH")],
    *,
    spec: AsSpec = None,
    format: Format = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Compare a bundle's predictions with the target, in one pass over the data.

    Parameters
    ----------
    bundle : str
        The directory of a bundle.
    path : str
        The data, with the target: a file, a directory, a pattern with wildcards, or a URL.
    spec : str, optional
        The spec that the bundle was trained by: its derived columns and filters are made here, too.
    format : str, optional
        Of the data: parquet, csv, zarr or netcdf; guessed if not given.
    cluster : str, optional
        The scheduler, or a cluster file, to join; threads of this process if not given.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Examples
    --------
    $ dtk evaluate late.bundle flights-2014/ --spec late.yaml
    """
    import dtk
    from dtk.cli.job import opened_as

    with only_results():
        fitted = dtk.load(bundle)
        target = [] if fitted.target is None else [fitted.target.name]
        data = opened_as(path, spec, [*fitted.preparation.columns, *target], filtered=True, format=format)
        with joined(cluster):
            metrics = fitted.evaluate(data, progress=True)
    if json:
        print_json({"bundle": bundle, "data": path, "metrics": metrics})
        return
    print_pairs({name: f"{value:.4f}" for name, value in metrics.items()})
