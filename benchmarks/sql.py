"""TPC-H's 22 queries through `dtk.sql` on two workers, beside DuckDB on the same files.

The generator, and the queries with their answers, live in an environment of their own: their extension is for
DuckDB 1.5.5. Name its Python in ``DTK_TPCH_PYTHON``; else it is made in the scratch directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.harness import Ratio, benchmark, is_installed

PACKAGES = ("duckdb==1.5.5", "duckdb-extension-tpch==1.5.5", "tpchgen-cli==4.0.0")
TABLES = ("lineitem", "orders", "customer", "part", "partsupp", "supplier", "nation", "region")
ROWS_OF_SCALE_1 = 6_001_215
PARTS = 4  # files of each table
TOLERANCE = 1e-2  # absolute, as the answers of the benchmark's authors are rounded; relative beyond 1e4
THREADS = 2

LOADED = """
import duckdb, json, pathlib, sys, duckdb_extension_tpch
folder = pathlib.Path(duckdb_extension_tpch.__file__).parent
connection = duckdb.connect(config={"allow_unsigned_extensions": True})
connection.execute(f"LOAD '{next(folder.glob('extensions/v*/tpch.duckdb_extension'))}'")
"""
KNOWN = (
    LOADED
    + """
queries = connection.execute("SELECT query_nr, query FROM tpch_queries()").fetchall()
answers = connection.execute("SELECT query_nr, scale_factor, answer FROM tpch_answers()").fetchall()
print(json.dumps({"queries": queries, "answers": [[number, float(scale), text] for number, scale, text in answers]}))
"""
)
OWN_DATA = (
    LOADED
    + """
connection.execute("SET enable_progress_bar = false")
connection.execute(f"CALL dbgen(sf = {sys.argv[2]})")
for (name,) in connection.execute("SHOW TABLES").fetchall():
    (pathlib.Path(sys.argv[1]) / name).mkdir(parents=True)
    connection.execute(f"COPY {name} TO '{sys.argv[1]}/{name}/0.parquet' (ROW_GROUP_SIZE 200000)")
"""
)


@benchmark("sql")
def sql(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """TPC-H's 22 queries on two single-thread workers: right answers, and their time over DuckDB's on two threads."""
    if not is_installed("duckdb"):
        yield Ratio("sql", "tpc-h", "dtk/duckdb", (), note="duckdb is not installed")
        return
    scale = 1.0 if rows is None else rows / ROWS_OF_SCALE_1
    with tempfile.TemporaryDirectory() as scratch:
        python = os.environ.get("DTK_TPCH_PYTHON") or environment(Path(scratch))
        known = json.loads(subprocess.run([python, "-c", KNOWN], check=True, capture_output=True, text=True).stdout)
        queries = {int(number): text for number, text in known["queries"]}
        answers = {int(number): parsed(text) for number, of, text in known["answers"] if of == scale}
        generate(python, Path(scratch) / "data", scale)
        options = {"n_workers": THREADS, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
        from distributed import Client, LocalCluster

        with LocalCluster(**options) as cluster, Client(cluster):
            yield from compare(queries, Path(scratch) / "data", rounds, scale)
            if answers:
                subprocess.run([python, "-c", OWN_DATA, str(Path(scratch) / "own"), f"{scale:g}"], check=True)
                yield official(queries, answers, Path(scratch) / "own")


def environment(scratch: Path) -> str:
    """Make the environment of the generator."""
    subprocess.run([sys.executable, "-m", "venv", scratch / "tpch"], check=True)
    python = str(scratch / "tpch" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, stdout=sys.stderr)
    return python


def generate(python: str, data: Path, scale: float) -> None:
    """Write the tables as Parquet, some files each."""
    command = Path(python).parent / "tpchgen-cli"
    options = ["parquet", "-s", f"{scale:g}", f"--parts={PARTS}", f"--output-dir={data}"]
    subprocess.run([command, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def official(queries: dict[int, str], answers: dict[int, list[dict[str, Any]]], data: Path) -> Ratio:
    """Compare with the extension's answers, which are those of the data that it makes itself: its texts are others."""
    import dtk

    paths = {name: str(data / name) for name in TABLES}
    wrong = [n for n, query in queries.items() if not same(dtk.sql(query, **paths).compute(), answers[n])]
    note = f"{len(queries)} queries on the extension's own data beside its answers; wrong: {wrong or 'none'}"
    return Ratio("sql", "tpc-h official answers", "wrong", (float(len(wrong)),), "<= 0", note)


def compare(queries: dict[int, str], data: Path, rounds: int, scale: float) -> Iterator[Ratio]:
    """Run all queries both ways, in turn."""
    import dtk

    paths = {name: str(data / name) for name in TABLES}
    in_parts = [n for n, query in queries.items() if way(dtk.sql(f"EXPLAIN {query}", **paths)) == "distributed"]
    seconds: dict[str, dict[int, list[float]]] = {"dtk": {n: [] for n in queries}, "duckdb": {n: [] for n in queries}}
    wrong = []
    with of_duckdb(paths) as peer:
        for number in range(rounds + 1):
            for n, query in queries.items():
                took, found = timed(lambda query=query: dtk.sql(query, **paths).compute())
                took_peer, right = timed(lambda query=query: peer.sql(query).to_arrow_table())
                if number:
                    seconds["dtk"][n].append(took)
                    seconds["duckdb"][n].append(took_peer)
                elif not same(found, right.to_pylist()):
                    wrong.append(n)
    note = f"scale {scale:g}, {len(queries)} queries beside DuckDB's answers; wrong: {wrong or 'none'}"
    yield Ratio("sql", "tpc-h answers", "wrong", (float(len(wrong)),), "<= 0", note)
    totals = {name: [sum(of[n][i] for n in queries) for i in range(rounds)] for name, of in seconds.items()}
    ratios = tuple(ours / theirs for ours, theirs in zip(totals["dtk"], totals["duckdb"], strict=True))
    whole = [n for n in queries if n not in in_parts]
    yield Ratio("sql", "tpc-h total", "dtk/duckdb", ratios, note=f"distributed: {in_parts}; whole: {whole}")
    for n in queries:
        each = tuple(a / b for a, b in zip(seconds["dtk"][n], seconds["duckdb"][n], strict=True))
        yield Ratio("sql", f"tpc-h query {n}", "dtk/duckdb", each, note="distributed" if n in in_parts else "whole")


def of_duckdb(paths: dict[str, str]) -> Any:
    """Open DuckDB on the same files."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": THREADS})
    connection.execute("SET enable_progress_bar = false")
    for name, path in paths.items():
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{path}/*.parquet')")
    return connection


def way(explained: Any) -> str:
    """Tell which way a query runs."""
    steps = explained.compute()
    return str(steps.loc[steps["step"] == "way", "what"].iloc[0])


def timed(run: Any) -> tuple[float, Any]:
    """Run once."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def parsed(answer: str) -> list[dict[str, Any]]:
    """Read an official answer: lines of values between bars."""
    header, *lines = answer.removesuffix("\n").split("\n")
    return [dict(zip(header.split("|"), line.split("|"), strict=True)) for line in lines]


def same(found: Any, right: list[dict[str, Any]]) -> bool:
    """Compare an answer with the right one, row by row in order; numbers to what the authors round to."""
    if len(found) != len(right):
        return False
    for ours, theirs in zip(found.itertuples(index=False), right, strict=True):
        for value, target in zip(ours, theirs.values(), strict=True):
            if not equal(value, target):
                return False
    return True


def equal(value: Any, target: Any) -> bool:
    """Compare two values, one of which may be text."""
    missing = ("", "nan", "None", "NaT", "<NA>")
    if str(value) in missing or str(target) in missing:
        return str(value) in missing and str(target) in missing
    try:
        one, other = float(Decimal(str(value))), float(Decimal(str(target)))
    except ArithmeticError:
        return str(value).removesuffix(" 00:00:00") == str(target)
    return abs(one - other) <= TOLERANCE * max(1.0, abs(other) * 1e-4)
