"""Preparing batches: the torch module, and both stages, beside scikit-learn's ColumnTransformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.harness import Ratio, benchmark, measure, rate

BATCH = 4096
BATCHES = 100
NUMBERS = [f"x{number}" for number in range(30)]
CATEGORIES = [f"s{number}" for number in range(10)]


@benchmark("transform-batch")
def transform_batch(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Rows a second of batches that are imputed, scaled and one-hot encoded, over scikit-learn's ColumnTransformer."""
    import torch

    torch.set_num_threads(1)
    frame = mixed(rows or BATCH)
    systems = {"module": dtk_module(frame), "both": dtk_both(frame), "sklearn": sklearn_columns(frame)}
    samples = measure(systems, rounds)
    case = f"30 numbers, 10 strings, {len(frame):,}"
    note = "a batch that is encoded, on one core"
    yield Ratio("transform-batch", case, "module/scikit-learn", samples.ratio("module", "sklearn"), ">= 5", note)
    note = "from Arrow columns to features, on one core"
    yield Ratio("transform-batch", case, "both stages/scikit-learn", samples.ratio("both", "sklearn"), "", note)


def mixed(rows: int) -> pd.DataFrame:
    """Make a batch with gaps."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for name in NUMBERS:
        values = rng.normal(3, 2, rows).astype(np.float32)
        columns[name] = np.where(rng.random(rows) < 0.05, np.nan, values)
    for name in CATEGORIES:
        columns[name] = np.array([f"value-{word}" for word in range(20)])[rng.integers(0, 20, rows)]
    return pd.DataFrame(columns)


def dtk_columns(frame: pd.DataFrame) -> Any:
    """Fit ours."""
    from dtk.preparation.transforms import ColumnTransformer, OneHotEncoder, SimpleImputer, StandardScaler

    groups = [("x", [SimpleImputer(), StandardScaler()], NUMBERS), ("s", OneHotEncoder(), CATEGORIES)]
    return ColumnTransformer(groups).fit(frame)


def dtk_module(frame: pd.DataFrame) -> Callable[[], float]:
    """Run the numeric stage."""
    import torch

    columns = dtk_columns(frame)
    module = columns.as_module()
    batch = {name: torch.from_numpy(array) for name, array in columns.encode(pa.table(frame)).items()}

    def run() -> int:
        with torch.no_grad():
            return sum(len(module(**batch)[0]) for _ in range(BATCHES))

    return lambda: rate(run)


def dtk_both(frame: pd.DataFrame) -> Callable[[], float]:
    """Run both stages."""
    import torch

    columns, table = dtk_columns(frame), pa.table(frame)
    module = columns.as_module()

    def run() -> int:
        rows = 0
        with torch.no_grad():
            for _ in range(BATCHES // 5):
                batch = {name: torch.from_numpy(array) for name, array in columns.encode(table).items()}
                rows += len(module(**batch)[0])
        return rows

    return lambda: rate(run)


def sklearn_columns(frame: pd.DataFrame) -> Callable[[], float]:
    """Transform the same batch."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("x", numbers, NUMBERS), ("s", OneHotEncoder(sparse_output=False), CATEGORIES)])
    columns.fit(frame)
    return lambda: rate(lambda: sum(len(columns.transform(frame)) for _ in range(BATCHES // 10)))
