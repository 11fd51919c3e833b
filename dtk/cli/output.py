"""What a verb puts out: tables for people on standard output, or one JSON object for a script."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

__all__ = [
    "AsSpec",
    "Cluster",
    "Format",
    "Json",
    "Overwrite",
    "joined",
    "only_results",
    "plain",
    "print_json",
    "print_pairs",
    "print_table",
]

PIPE_WIDTH: Final = 1000

Json = Annotated[bool, typer.Option("--json")]
Overwrite = Annotated[bool, typer.Option("--overwrite")]
Cluster = Annotated[str | None, typer.Option(metavar="ADDRESS|FILE")]
Format = Annotated[Literal["parquet", "csv", "zarr", "netcdf"] | None, typer.Option("--format")]
AsSpec = Annotated[str | None, typer.Option("--spec", metavar="SPEC.yaml")]


@contextlib.contextmanager
def only_results() -> Iterator[None]:
    """Send what is printed meanwhile to standard error, also by libraries and by processes that are started.

    Yields
    ------
    None
        Standard output is for results, which are printed afterwards.
    """
    if sys.stdout is None:  # closed by the shell, as in `>&-`: there is nothing to keep clean
        yield
        return
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed later
        yield
        return
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def joined(cluster: str | None) -> Iterator[Any]:
    """Join a cluster, and leave it afterwards.

    Parameters
    ----------
    cluster : str or None
        The address of a scheduler or the path of a cluster file; None for no cluster.

    Yields
    ------
    distributed.Client or None
        The current client meanwhile.
    """
    if cluster is None:
        yield None
        return
    from dtk.runtime import connect

    with connect(cluster) as client:
        yield client


def plain(value: Any) -> Any:
    """Turn a result into what JSON can say.

    Parameters
    ----------
    value : object
        Mappings, sequences, arrays, numbers, dates, paths and text.

    Returns
    -------
    object
        The same, with None for numbers that are not finite.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy's
        return plain(value.tolist())
    return (
        [plain(item) for item in value] if isinstance(value, Iterable) and not isinstance(value, Path) else str(value)
    )


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result as one JSON object.

    Parameters
    ----------
    result : mapping
        Anything that `plain` takes.
    """
    print(json.dumps(plain(result), ensure_ascii=False, allow_nan=False, indent=2))


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values, a line each, aligned.

    Parameters
    ----------
    pairs : mapping
        Values are printed as they are; those that are None are left out.
    """
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        if value is not None:
            print(f"{name:{width}}  {value}")


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> None:
    """Print a table.

    Parameters
    ----------
    header : sequence of str
        Names of the columns; no header is printed if all are empty.
    rows : iterable of sequences
        Cells, as many as names.
    right : iterable of str
        Columns that are aligned to the right: numbers.
    """
    if sys.stdout is None:  # as print() has it: nobody looks
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(header))
    for name in header:
        table.add_column(name, justify="right" if name in set(right) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(cell) for cell in row))
    # A file or a pipe is no window that lines must fit into.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(table)


def _escaped(cell: object) -> str:
    from rich.markup import escape

    return escape("" if cell is None else str(cell))
