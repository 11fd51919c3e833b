"""``dtk sql``: ask tables a question in SQL."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    to: Annotated[str | None, typer.Option(metavar="PATH")] = None,
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
    to : str, optional
        Where to write: a CSV file if it ends in .csv, else a directory of Parquet files; the first rows are printed if
        it is not given.
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
        Replace what is at --to.

    Raises
    ------
    ArgumentError
        If a table is given twice, or something is there already.

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
        if to is not None and Path(to).exists() and not overwrite:
            raise ArgumentError(f"--to {to}: is there already; choose another, or add --overwrite")
        with joined(cluster):
            answer = ask(f"EXPLAIN {text}" if explain else text, **given)
            found = _shown(answer) if to is None else _written(answer, to, overwrite)
    if json:
        print_json(found)
    elif to is not None:
        print_pairs({"written": found["path"], "columns": ", ".join(found["columns"])})
    elif is_told:
        print_pairs({str(number): f"{step}: {what}" for number, (step, what) in enumerate(found["rows"], 1)})
    else:
        print_table(found["columns"], found["rows"])
        if not found["is_whole"]:
            print(f"\nthe first {SHOWN_ROWS} rows; --to writes all")


def _named(setting: str) -> tuple[str, str]:
    """Read ``name=path``."""
    name, equals, path = setting.partition("=")
    if not (name.strip() and equals and path):
        raise typer.BadParameter(f"--table {setting} is no name and path, such as flights=data/flights/")
    return name.strip(), path


def _written(answer: dd.DataFrame, to: str, overwrite: bool) -> dict[str, Any]:
    from dtk.sources import write_parquet
    from dtk.sources.publishing import written_whole

    if to.lower().endswith(".csv"):
        with written_whole(to) as temporary:
            answer.to_csv(temporary, single_file=True, index=False)
    else:
        write_parquet(answer, to, overwrite=overwrite, progress=True)
    return {"path": os.path.abspath(to), "columns": list(answer.columns)}


def _shown(answer: dd.DataFrame) -> dict[str, Any]:
    """Compute the first rows, and no more partitions than these take."""
    rows: list[list[Any]] = []
    for part in answer.partitions:
        frame = part.compute()
        rows += frame.head(SHOWN_ROWS + 1 - len(rows)).astype(object).where(frame.notna(), None).to_numpy().tolist()
        if len(rows) > SHOWN_ROWS:
            break
    return {"columns": list(answer.columns), "rows": rows[:SHOWN_ROWS], "is_whole": len(rows) <= SHOWN_ROWS}
