"""``dtk sql``: ask tables a question in SQL."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dtk.cli.output import Cluster, Json, Overwrite, joined, only_results, print_json, print_pairs, print_table
from dtk.errors import ArgumentError

if TYPE_CHECKING:
    import dask.dataframe as dd

__all__ = ["sql"]

SHOWN_ROWS = 100


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    *,
    table: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH")] = None,
    catalog: Annotated[str | None, typer.Option(metavar="TABLES.yaml")] = None,
    output: Annotated[str | None, typer.Option(metavar="FILE|DIRECTORY")] = None,
    to: Annotated[Literal["parquet", "csv"] | None, typer.Option("--to")] = None,
    explain: Annotated[bool, typer.Option("--explain")] = False,
    broadcast: Annotated[str | None, typer.Option(metavar="SIZE")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE")] = None,
    cluster: Cluster = None,
    json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Ask tables of any size a question in SQL: in parts on the cluster where that can be, else whole on one worker.

    Parameters
    ----------
    query : str
        One SELECT in DuckDB's dialect; - reads it from standard input.
    table : list of str, optional
        A table: its name in the query, and its path or URL. May be given often.
    catalog : str, optional
        A YAML file of external tables.
    output : str, optional
        Write the answer: a directory of Parquet, or a file of CSV; its first rows are printed if not given.
    to : str, optional
        The format of the output; told by its name if not given.
    explain : bool
        Tell which way the query runs, why, and what each step does; nothing is read.
    broadcast : str, optional
        What tables may take together to be sent to every task, such as 128MiB.
    memory : str, optional
        What DuckDB may hold on a worker that runs a query whole.
    cluster : str, optional
        The scheduler, or a cluster file, to join; threads of this process if not given.
    json : bool
        Print one JSON object, and nothing else, on standard output.
    overwrite : bool
        Replace what is at the output.

    Raises
    ------
    ArgumentError
        If a table is given without a name, or something is at the output.

    Examples
    --------
    $ dtk sql "SELECT carrier, avg(arr_delay) FROM flights GROUP BY carrier" --table flights=flights/
    """
    from dtk.analytics.sql import sql as ask

    tables = dict(_named(setting) for setting in table or ())
    options: dict[str, Any] = {"broadcast": broadcast, "memory": memory}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    given |= {"catalog": tables} if catalog is None else {"catalog": catalog, **tables}
    text = sys.stdin.read() if query == "-" else query
    is_told = explain or [word.upper() for word in text.split()[:1]] == ["EXPLAIN"]
    with only_results():
        format = None if output is None else _checked_output(output, to, overwrite)
        with joined(cluster):
            answer = ask(f"EXPLAIN {text}" if explain else text, **given)
            found = _shown(answer) if format is None else _written(answer, str(output), format, overwrite)
    if json:
        print_json(found)
    elif output is not None:
        print(f"{found['num_rows']:,} rows of {', '.join(found['columns'])}\n{output}")
    elif is_told:
        print_pairs({str(number): f"{step}: {what}" for number, (step, what) in enumerate(found["rows"], 1)})
    else:
        print_table(found["columns"], found["rows"])
        if not found["is_whole"]:
            print(f"\nthe first {SHOWN_ROWS} rows; --output writes all")


def _named(setting: str) -> tuple[str, str]:
    """Read ``name=path``."""
    name, equals, path = setting.partition("=")
    if not (name.strip() and equals and path):
        raise typer.BadParameter(f"--table {setting} is no name and path, such as flights=data/flights/")
    return name.strip(), path


def _checked_output(output: str, to: str | None, overwrite: bool) -> str:
    """Tell the format, and refuse before the query what could not be written after it."""
    format = to or ("csv" if output.lower().endswith(".csv") else "parquet")
    place = Path(output)
    if format == "csv" and (place.is_dir() or not place.parent.is_dir()):
        raise ArgumentError(f"--output {output}: no file can be there; name one in a folder that exists")
    if place.exists() and not overwrite:
        raise ArgumentError(f"--output {output}: is there already; choose another, or add --overwrite")
    return format


def _written(answer: dd.DataFrame, output: str, format: str, overwrite: bool) -> dict[str, Any]:
    from dtk.sources import open as open_data
    from dtk.sources import write_parquet

    if format == "parquet":
        path = write_parquet(answer, output, overwrite=overwrite, progress=True)
        return {"output": path, "columns": list(answer.columns), "num_rows": len(open_data(path))}
    partial = f"{output}.partial"
    answer.to_csv(partial, single_file=True, index=False)
    with open(partial, encoding="utf-8", newline="") as file:
        num_rows = sum(1 for _ in csv.reader(file)) - 1
    os.replace(partial, output)
    return {"output": os.path.abspath(output), "columns": list(answer.columns), "num_rows": num_rows}


def _shown(answer: dd.DataFrame) -> dict[str, Any]:
    """Compute the first rows, and no more partitions than these take."""
    rows: list[list[Any]] = []
    for part in answer.partitions:
        frame = part.compute()
        rows += frame.head(SHOWN_ROWS + 1 - len(rows)).astype(object).where(frame.notna(), None).to_numpy().tolist()
        if len(rows) > SHOWN_ROWS:
            break
    return {"columns": list(answer.columns), "rows": rows[:SHOWN_ROWS], "is_whole": len(rows) <= SHOWN_ROWS}
