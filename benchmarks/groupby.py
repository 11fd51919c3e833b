"""Aggregates by group: dtk on two single-thread workers beside DuckDB on two threads, and its other peers, in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fit_table import seconds
from benchmarks.harness import Ratio, benchmark, is_installed, measure

ROWS = 20_000_000
FILES = 8
GROUP_ROWS = 262_144
THREADS = 2
MEASURES = ["mean", "min", "max", "count"]
SQL = "avg(x), min(x), max(x), count(x)"

CASES: dict[str, dict[str, Any]] = {
    "string key": {"by": ["name"], "goal": "<= 2.0"},
    "100k integer keys": {"by": ["kind"], "goal": "<= 2.0"},
    "exact median": {"by": ["name"], "agg": "median", "goal": "<= 2.0"},
    "two keys, filter": {"by": ["name", "flag"], "where": "y > 0.5", "goal": "<= 2.0"},
    "10M distinct keys": {"by": ["user"], "goal": "<= 4.0"},
}


@benchmark("groupby")
def groupby(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Group 20M rows in five ways: seconds over DuckDB, Polars (streaming) and dask.dataframe on the same files."""
    from distributed import Client, LocalCluster

    rows = rows or ROWS
    with tempfile.TemporaryDirectory() as scratch:
        path = write_rows(Path(scratch) / "rows", rows)
        cluster = LocalCluster(
            n_workers=THREADS, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        )
        with cluster, Client(cluster):
            for case, asked in CASES.items():
                samples = measure(systems(path, asked), rounds)
                note = f"{rows:,} rows; two single-thread workers, peers on two threads"
                yield Ratio("groupby", case, "dtk/duckdb", samples.ratio("dtk", "duckdb"), asked["goal"], note)
                yield Ratio("groupby", case, "dtk/dask", samples.ratio("dtk", "dask"), "<= 0.5", "same cluster")
                yield Ratio("groupby", case, "dtk/polars", samples.ratio("dtk", "polars"), "", "streaming")


def write_rows(path: Path, rows: int) -> Path:
    """Write keys of 1,000 names, 100,000 kinds and 10 million users, and two columns of numbers."""
    path.mkdir()
    names = np.array([f"category-{number}" for number in range(1000)])
    for number, part in enumerate(np.array_split(np.arange(rows), FILES)):
        rng, num_rows = np.random.default_rng(number), len(part)
        columns = {
            "name": names[rng.integers(0, len(names), num_rows)],
            "kind": rng.integers(0, 100_000, num_rows),
            "user": rng.integers(0, max(10, rows // 2), num_rows),
            "flag": rng.integers(0, 10, num_rows).astype(np.int32),
            "x": rng.normal(size=num_rows),
            "y": rng.exponential(size=num_rows).astype(np.float32),
        }
        options = {"compression": "zstd", "row_group_size": GROUP_ROWS}
        pq.write_table(pa.table(columns), path / f"part-{number}.parquet", **options)
    return path


def systems(path: Path, asked: Mapping[str, Any]) -> dict[str, Callable[[], float]]:
    """Return what runs one case in each system that is installed."""
    found = {"dtk": in_dtk(path, asked), "duckdb": in_duckdb(path, asked), "dask": in_dask(path, asked)}
    if asked.get("agg") == "median":
        del found["dask"]  # which has approximate ones alone
    if is_installed("polars"):
        found["polars"] = in_polars(path, asked)
    return found


def in_dtk(path: Path, asked: Mapping[str, Any]) -> Callable[[], float]:
    """Aggregate, and leave a result of many partitions on the workers."""
    import dtk

    def run() -> None:
        measures = asked.get("agg", MEASURES)
        found = dtk.aggregate(str(path), by=asked["by"], agg={"x": measures}, where=asked.get("where"))
        finished(found)

    return seconds(run)


def finished(frame: Any) -> None:
    """Wait for a lazy result; one of millions of rows stays where it is."""
    from distributed import wait

    if frame.npartitions == 1:
        frame.compute()
    else:
        wait(frame.persist())


def in_duckdb(path: Path, asked: Mapping[str, Any]) -> Callable[[], float]:
    """Aggregate in one process, to an Arrow table."""
    import duckdb

    connection = duckdb.connect(config={"threads": THREADS})
    connection.execute("SET enable_progress_bar = false")
    keys = ", ".join(asked["by"])
    measures = "median(x)" if asked.get("agg") == "median" else SQL
    where = f"WHERE {asked['where']}" if "where" in asked else ""
    query = f"SELECT {keys}, {measures} FROM '{path}/*.parquet' {where} GROUP BY {keys}"
    return seconds(lambda: connection.sql(query).to_arrow_table())


def in_dask(path: Path, asked: Mapping[str, Any]) -> Callable[[], float]:
    """Aggregate on the same cluster with dask.dataframe."""
    import dask.dataframe as dd

    def run() -> None:
        frame = dd.read_parquet(path)
        if "where" in asked:
            frame = frame[frame["y"] > 0.5]
        split_out = 8 if asked["by"] == ["user"] else 1
        finished(frame.groupby(asked["by"])["x"].agg(MEASURES, split_out=split_out))

    return seconds(run)


def in_polars(path: Path, asked: Mapping[str, Any]) -> Callable[[], float]:
    """Aggregate with Polars' streaming engine."""
    import os

    os.environ.setdefault("POLARS_MAX_THREADS", str(THREADS))
    import polars as pl

    def run() -> None:
        frame = pl.scan_parquet(path / "*.parquet")
        if "where" in asked:
            frame = frame.filter(pl.col("y") > 0.5)
        x = pl.col("x")
        measures = [x.mean().alias("mean"), x.min().alias("min"), x.max().alias("max"), x.count().alias("count")]
        if asked.get("agg") == "median":
            measures = [x.median()]
        frame.group_by(asked["by"]).agg(measures).collect(engine="streaming")

    return seconds(run)
