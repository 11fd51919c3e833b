"""``dtk aggregate``: a table aggregated by groups, printed or written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dtk.cli.output import Cluster, Format, Json, Overwrite, joined, only_results, print_json, print_pairs, print_table
from dtk.errors import ArgumentError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["aggregate"]

SHOWN_ROWS = 50


def aggregate(
    path: Annotated[str, typer.Argument(metavar="PATH")],
    *,
    by: Annotated[list[str] | None, typer.Option("--by", metavar="COLUMN")] = None,
    agg: Annotated[list[str], typer.Option("--agg", metavar="COLUMN=MEASURE,...")],
    where: Annotated[str | None, typer.Option(metavar="CONDITION")] = None,
    window: Annotated[str | None, typer.Option(metavar="COLUMN")] = None,
    every: Annotated[str | None, typer.Option(metavar="LENGTH")] = None,
    over: Annotated[str | None, typer.Option(metavar="LENGTH")] = None,
    fill: Annotated[str | None, typer.Option(metavar="VALUE")] = None,
    cast: Annotated[str | None, typer.Option(metavar="TYPE")] = None,
    approx: Annotated[float | None, typer.Option(metavar="ERROR")] = None,
    keep_missing: Annotated[bool, typer.Option("--keep-missing")] = False,
    to: Annotated[str | None, typer.Option(metavar="PATH")] = None,
    format: Format = None,
    cluster: Cluster = None,
    json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    r"""Aggregate the rows of each group; prints the result, or writes it.

    Parameters
    ----------
    path : str
        A file, a directory, a pattern with wildcards, or a URL.
    by : list of str, optional
        A column to group by, or a part of a date such as date.month; may be given often. All rows are one group if
        not given.
    agg : list of str
        What is asked of a column: count, sum, mean, min, max, var, std, skew, median, quantile(0.95), distinct, first,
        last, mode, top(3), weighted_mean(other), corr(other), histogram(0,10,20); may be given often. The measure
        count of the column * counts rows.
    where : str, optional
        Which rows count, in SQL.
    window : str, optional
        A column of times: windows of --every are a key, too.
    every : str, optional
        How often a window ends: 15min, 1h, 1d, 1w, 1mo.
    over : str, optional
        How long a window is, if longer than --every; or all, for all time before.
    fill : str, optional
        In place of missing values: mean, or a number.
    cast : str, optional
        The type to aggregate in: float32, float64, int64, and so on.
    approx : float, optional
        The error that quantiles and distinct counts may have; they are exact if not given.
    keep_missing : bool
        Take rows with a missing key for a group, too.
    to : str, optional
        Where to write: a CSV file if it ends in .csv, else a directory of Parquet files.
    format : str, optional
        Of the data: parquet or csv; guessed if not given.
    cluster : str, optional
        The scheduler, or a cluster file, to join; threads of this process if not given.
    json : bool
        Print one JSON object, and nothing else, on standard output.
    overwrite : bool
        Replace what is at --to.

    Examples
    --------
    $ dtk aggregate sales.csv --by product --agg price=mean,median,max,min --fill mean --cast float32 --to out.csv
    """
    from dtk.analytics import TimeWindow
    from dtk.analytics import aggregate as make
    from dtk.sources import open as open_data

    with only_results():
        if (window is None) != (every is None) or (over is not None and window is None):
            raise ArgumentError("--window COLUMN, --every LENGTH and --over LENGTH go together; give the first two")
        wanted: dict[str, list[str]] = {}
        for setting in agg:
            column, measures = _measures(setting)
            wanted.setdefault(column, []).extend(measures)
        windows = None if window is None or every is None else TimeWindow(window, every, over)
        if to is not None and Path(to).exists() and not overwrite:
            raise ArgumentError(f"--to {to}: is there already; choose another, or add --overwrite")
        with joined(cluster):
            data = open_data(path, format=format)
            options: dict[str, Any] = {"where": where, "window": windows, "fill": _number(fill), "cast": cast}
            options |= {"approx": approx, "dropna": not keep_missing}
            frame = make(data, by or [], wanted, to=to, overwrite=overwrite, **options)
            result = None if to is not None else frame.compute()
    if result is not None:
        _show(result, json=json)
    elif json:
        print_json({"path": to})
    else:
        print_pairs({"written": to})


def _measures(setting: str) -> tuple[str, list[str]]:
    """Read ``column=measure,measure(argument, argument)``."""
    column, sign, text = setting.partition("=")
    found = re.findall(r"[^,(]+(?:\([^)]*\))?", text)
    if not sign or not column or not found:
        raise typer.BadParameter(f"--agg {setting} is no column and measures, such as price=mean,max")
    return column.strip(), [measure.strip() for measure in found]


def _number(text: str | None) -> str | float | None:
    """Read a number where it is one."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _show(result: pd.DataFrame, *, json: bool) -> None:
    if json:
        rows = result.astype(object).where(result.notna(), None).to_dict("records")
        print_json({"columns": list(result.columns), "rows": rows})
        return
    numbers = [name for name in result.columns if result[name].dtype.kind in "iuf"]
    print_table(list(result.columns), result.head(SHOWN_ROWS).astype(object).to_numpy().tolist(), right=numbers)
    if len(result) > SHOWN_ROWS:
        print(f"\n{len(result) - SHOWN_ROWS} more rows; --to writes all of them")
