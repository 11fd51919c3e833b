"""Quantiles by each method keep the rank error that they state."""

from __future__ import annotations

import json
import math
import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DependencyError
from dtk.statistics import QuantileSketch, quantiles


@pytest.mark.parametrize("method", ["sample", "sketch", "exact"])
def test_rank_errors_are_kept(method: str) -> None:
    numbers = np.random.default_rng(0).permutation(200_000).astype(float)
    q = np.linspace(0, 1, 21)
    found = quantiles({"x": numbers, "c": np.ones(200_000)}, ["x", "c"], q, method=method, size=50_000)
    error = found.rank_error["x"]
    assert error == 0 if method == "exact" else 0 < error < 0.01
    assert np.abs(found.values["x"] / 199_999 - q).max() <= error + 1e-9
    assert (found.values["c"] == 1).all()
    assert found.num_passes == 1  # the exact ones fit, too


def test_what_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="method='guess' must be 'sample', 'sketch' or 'exact'"):
        quantiles({"x": [1]}, ["x"], 0.5, method="guess")
    with pytest.raises(ArgumentError, match="k=1 must lie between 8 and 65535"):
        QuantileSketch(1)
    monkeypatch.setitem(sys.modules, "datasketches", None)
    with pytest.raises(DependencyError, match=r"pip install dask-dtk\[sketch\]"):
        quantiles({"x": [1]}, ["x"], 0.5, method="sketch")


def sketched(numbers: list[float | None]) -> QuantileSketch:
    sketch = QuantileSketch(8)
    sketch.update(pa.array(numbers, pa.float64()))
    return sketch


@given(st.lists(st.none() | st.floats(-1e9, 1e9), max_size=200), st.integers(0, 200))
@settings(deadline=None, max_examples=40)
def test_merged_sketches_keep_the_bound(numbers: list[float | None], cut: int) -> None:
    merged = sketched(numbers[:cut])
    merged.merge(sketched(numbers[cut:]))
    present = np.sort([number for number in numbers if number is not None])
    assert (merged.count, merged.missing) == (len(present), len(numbers) - len(present))
    if not len(present):
        assert math.isnan(merged.quantile(0.5))
        return
    median, bound = merged.quantile(0.5), merged.rank_error * len(present) + 1
    below, above = np.searchsorted(present, median), np.searchsorted(present, median, "right")
    assert below - 2 * bound <= len(present) / 2 <= above + 2 * bound  # the bound itself holds in 99 of 100
    assert merged.quantile([0, 1]).tolist() == [present[0], present[-1]]


@pytest.mark.parametrize("numbers", [[], [1.0], [None, math.inf, -1.0, math.nan] * 50])
def test_round_trips(numbers: list[float | None]) -> None:
    sketch = sketched(numbers)
    for again in (
        QuantileSketch.from_dict(json.loads(json.dumps(sketch.to_dict()))),
        pickle.loads(pickle.dumps(sketch)),
    ):
        np.testing.assert_equal(again.result(), sketch.result())
        again.merge(sketch)
        assert again.count == 2 * sketch.count
