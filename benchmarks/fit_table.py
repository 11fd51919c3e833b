"""Fitting the preparation of a table: dtk beside a bare scan of the same columns, and beside its peers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Ratio, benchmark, is_installed, measure

THREADS = 2
ROWS = 4_000_000
FILES = 8
GROUP_ROWS = 131_072
FLOATS, INTEGERS, STRINGS = 24, 10, 16
NUMBERS = [f"f{number}" for number in range(FLOATS)] + [f"i{number}" for number in range(INTEGERS)]
SCALED, ROBUST = NUMBERS[::2], NUMBERS[1::2]
CATEGORIES = [f"s{number}" for number in range(STRINGS)]
MOST_CATEGORIES = 100


@benchmark("fit-table")
def fit_table(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Impute, scale and encode 50 mixed columns: seconds over a bare scan of them, and over peers."""
    import dask

    rows = rows or ROWS
    pa.set_cpu_count(THREADS)
    with tempfile.TemporaryDirectory() as scratch, dask.config.set(num_workers=THREADS):
        path = write_mixed(Path(scratch) / "mixed", rows)
        systems = {"scan": bare_scan(path), "dtk": dtk_fit(path), "partial_fit": partial_fit_loop(path)}
        if is_installed("dask_ml"):
            systems["dask-ml"] = dask_ml_fit(path)
        samples = measure(systems, rounds)
        case = "50 mixed columns"
        note = f"{rows:,} rows, {THREADS} threads; 34 numbers of which 17 by quantiles, 16 strings"
        yield Ratio("fit-table", case, "dtk/bare-scan", samples.ratio("dtk", "scan"), "<= 2.0", note)
        yield Ratio("fit-table", case, "dtk/dask-ml", samples.ratio("dtk", "dask-ml"), "<= 0.15", DASK_ML_NOTE)
        ratio = samples.ratio("dtk", "partial_fit")
        yield Ratio("fit-table", case, "dtk/partial_fit-loop", ratio, "<= 0.25", LOOP_NOTE)


def write_mixed(path: Path, rows: int) -> Path:
    """Write 24 float, 10 integer and 16 string columns, with gaps."""
    path.mkdir()
    for number, part in enumerate(np.array_split(np.arange(rows), FILES)):
        rng, num_rows = np.random.default_rng(number), len(part)
        columns = {}
        for column in range(FLOATS):
            values = rng.normal(column, 1 + column, num_rows).astype(np.float64 if column % 3 == 0 else np.float32)
            gaps = rng.random(num_rows) < 0.05 if column % 2 else None
            columns[f"f{column}"] = pa.array(values, mask=gaps)
        for column in range(INTEGERS):
            values = rng.integers(0, 10 ** (1 + column % 6), num_rows)
            columns[f"i{column}"] = pa.array(values.astype(np.int64 if column % 2 else np.int32))
        for column in range(STRINGS):
            size = 4 * 2 ** (column % 8)
            words = np.array([f"value-{word}" for word in range(size)])
            gaps = rng.random(num_rows) < 0.02
            columns[f"s{column}"] = pa.array(words[(size * rng.random(num_rows) ** 2).astype(int)], mask=gaps)
        options = {"compression": "zstd", "row_group_size": GROUP_ROWS}
        pq.write_table(pa.table(columns), path / f"part-{number}.parquet", **options)
    return path


class _Rows:
    """What a bare scan collects."""

    def __init__(self) -> None:
        self.count = 0

    def update(self, table: pa.Table, first_row: int) -> None:
        self.count += table.num_rows

    def merge(self, other: _Rows) -> None:
        self.count += other.count


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Return what times some work."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def bare_scan(path: Path) -> Callable[[], float]:
    """Read all columns, and count rows."""
    from dtk.statistics import scan

    return seconds(lambda: scan(path, _Rows))


def dtk_fit(path: Path) -> Callable[[], float]:
    """Fit all columns at once."""
    return seconds(lambda: dtk_columns().fit(path))


def dtk_columns() -> Any:
    """Say what is to be fitted."""
    from dtk.preparation.transforms import ColumnTransformer, OneHotEncoder, RobustScaler, SimpleImputer, StandardScaler

    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES)
    return ColumnTransformer(
        [
            ("scaled", [SimpleImputer(), StandardScaler()], SCALED),
            ("robust", [SimpleImputer(strategy="median"), RobustScaler()], ROBUST),
            ("categories", [SimpleImputer(strategy="most_frequent"), encoder], CATEGORIES),
        ]
    )


LOOP_NOTE = "pandas, row group by row group: means and counts, then scales of what is filled in; quantiles of a sample"


def partial_fit_loop(path: Path) -> Callable[[], float]:
    """Fit the same with scikit-learn and pandas: two passes, as scaling needs what imputing fills in."""
    import pandas as pd
    from sklearn.preprocessing import StandardScaler

    def frames() -> Iterator[pd.DataFrame]:
        for file in sorted(path.iterdir()):
            reader = pq.ParquetFile(file, memory_map=True)
            for group in range(reader.num_row_groups):
                yield reader.read_row_group(group).to_pandas()

    def fit() -> None:
        means, scaler = StandardScaler(), StandardScaler()
        counts: dict[str, pd.Series] = {}
        sampled = []
        share = min(1.0, 1_000_000 / pq.ParquetDataset(path).read(columns=["i0"]).num_rows)
        for frame in frames():
            means.partial_fit(frame[SCALED])
            sampled.append(frame[ROBUST].sample(frac=share, random_state=0))
            for name in CATEGORIES:
                found = frame[name].value_counts()
                counts[name] = found if name not in counts else counts[name].add(found, fill_value=0)
        sample = pd.concat(sampled)
        sample.fillna(sample.median()).quantile([0.25, 0.5, 0.75])
        fills = dict(zip(SCALED, means.mean_, strict=True))
        for frame in frames():
            scaler.partial_fit(frame[SCALED].fillna(fills))

    return seconds(fit)


DASK_ML_NOTE = "what works there of the same: imputers, scalers, categories; each reads the data anew"


def dask_ml_fit(path: Path) -> Callable[[], float]:
    """Fit dask-ml's transformers one after the other; its ColumnTransformer is broken."""
    import dask.dataframe as dd
    from dask_ml.impute import SimpleImputer
    from dask_ml.preprocessing import Categorizer, StandardScaler

    def fit() -> None:
        frame = dd.read_parquet(path)
        filled = SimpleImputer(strategy="mean").fit(frame[SCALED]).transform(frame[SCALED])
        StandardScaler().fit(filled)
        SimpleImputer(strategy="median").fit(frame[ROBUST])  # its RobustScaler needs NumPy 1
        Categorizer().fit(frame[CATEGORIES].astype("category"))

    return seconds(fit)
