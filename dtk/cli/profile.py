"""``dtk profile``: statistics of every column."""

from __future__ import annotations

from typing import Annotated

import typer

from dtk.cli.output import Cluster, Format, Json, joined, only_results, print_json

__all__ = ["profile"]


def profile(
    path: Annotated[str, typer.Argument(metavar="PATH")],
    *,
    html: Annotated[str | None, typer.Option(metavar="FILE")] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN")] = None,
    format: Format = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Describe every column of a table, or every variable of a store of arrays, in one pass.

    Parameters
    ----------
    path : str
        A file, a directory, a pattern with wildcards, or a URL.
    html : str, optional
        Write a page with plots to this file.
    target : str, optional
        The column to predict: warns of imbalance, and of columns that give it away.
    format : str, optional
        Of the data: parquet, csv, zarr or netcdf; guessed if not given.
    cluster : str, optional
        The scheduler, or a cluster file, to join; threads of this process if not given.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Examples
    --------
    $ dtk profile flights/ --html profile.html
    """
    from dtk.analytics import profile as make_profile
    from dtk.sources import open as open_data

    with only_results(), joined(cluster):
        report = make_profile(open_data(path, format=format), target=target)
        saved = None if html is None else str(report.save(html))
    if json:
        print_json(report.to_dict())
        return
    print(report.to_text())
    if saved is not None:
        print(f"\npage: {saved}")
