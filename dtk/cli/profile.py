"""``dtk profile``: statistics of every column, and what breaks a schema or drifts from earlier data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dtk.cli.output import AsSpec, Cluster, Format, Json, Overwrite, joined, only_results, print_json
from dtk.errors import ArgumentError

if TYPE_CHECKING:
    from dtk.analytics.known import KnownColumn

__all__ = ["profile"]


def profile(
    path: Annotated[str, typer.Argument(metavar="PATH")],
    *,
    html: Annotated[str | None, typer.Option(metavar="FILE")] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN")] = None,
    schema: Annotated[str | None, typer.Option(metavar="SCHEMA.yaml")] = None,
    write_schema: Annotated[str | None, typer.Option(metavar="SCHEMA.yaml")] = None,
    against: Annotated[str | None, typer.Option(metavar="BUNDLE|PROFILE.json")] = None,
    drift: Annotated[list[str] | None, typer.Option(metavar="MEASURE=LIMIT")] = None,
    spec: AsSpec = None,
    format: Format = None,
    cluster: Cluster = None,
    json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Describe and check a table, or every variable of a store of arrays, in one pass; exits with 1 if it is not fine.

    Parameters
    ----------
    path : str
        A file, a directory, a pattern with wildcards, or a URL.
    html : str, optional
        Write a page with plots to this file.
    target : str, optional
        The column to predict: warns of imbalance, and of columns that give it away.
    schema : str, optional
        What the columns must be like: kinds, ranges, missing values, allowed values, keys.
    write_schema : str, optional
        Propose a schema that this data keeps, to be edited.
    against : str, optional
        Compare with what a bundle was trained on, or with a profile that --json printed earlier.
    drift : list of str, optional
        How far the data may be from that: psi, ks, mean, std, missing, unseen or out_of_range; may be given often.
    spec : str, optional
        The spec that the bundle was trained by: its derived columns are made here, too, and its filters applied.
    format : str, optional
        Of the data: parquet, csv, zarr or netcdf; guessed if not given.
    cluster : str, optional
        The scheduler, or a cluster file, to join; threads of this process if not given.
    json : bool
        Print one JSON object, and nothing else, on standard output.
    overwrite : bool
        Replace a schema that is there by the proposed one.

    Raises
    ------
    typer.Exit
        With code 1 if a rule of the schema is violated, or the data drifted.

    Examples
    --------
    $ dtk profile flights-2014/ --schema flights.yaml --against late.bundle
    """
    from dtk.analytics import profile as make_profile
    from dtk.analytics import read_schema
    from dtk.analytics.known import read_known
    from dtk.sources import open as open_data

    with only_results():
        _check_destination(write_schema, overwrite=overwrite)
        limits = dict(map(_limit, drift or ()))
        wanted = None if schema is None else read_schema(schema)
        known = None if against is None else read_known(_what_knows(against))
        with joined(cluster):
            data = open_data(path, format=format) if spec is None else _opened_as(path, spec, known, format)
            report = make_profile(data, target=target, schema=wanted, against=known, drift=limits)
        saved = {"page": None if html is None else str(report.save(html))}
        if write_schema is not None:
            Path(write_schema).write_text(report.propose_schema().to_yaml(), encoding="utf-8")
            saved["schema"] = write_schema
    if json:
        print_json(report.to_dict())
    else:
        print(report.to_text())
        for name, place in saved.items():
            if place is not None:
                print(f"\n{name}: {place}")
    if not report.is_valid:
        raise typer.Exit(1)


def _check_destination(path: str | None, *, overwrite: bool) -> None:
    """Refuse before the pass what could not be written after it."""
    if path is None:
        return
    place = Path(path)
    if place.is_dir() or not place.parent.is_dir():
        raise ArgumentError(f"--write-schema {path}: no file can be there; name one in a folder that exists")
    if place.exists() and not overwrite:
        raise ArgumentError(f"--write-schema {path}: is there already; choose another, or add --overwrite")


def _limit(setting: str) -> tuple[str, float]:
    """Read ``measure=limit``."""
    name, _, limit = setting.partition("=")
    try:
        return name.strip(), float(limit)
    except ValueError:
        raise typer.BadParameter(f"--drift {setting} is no measure and limit, such as psi=0.25") from None


def _opened_as(path: str, spec: str, known: Sequence[KnownColumn] | None, format: str | None) -> Any:
    from dtk.cli.job import opened_as

    return opened_as(path, spec, [column.name for column in known or ()], filtered=True, format=format)


def _what_knows(path: str) -> Any:
    """Return what is known of earlier data: of a bundle its preparation, without the weights; else the path."""
    if not Path(path).is_dir():
        return path
    from dtk.bundle.files import read_description

    return read_description(path)["preparation"]
