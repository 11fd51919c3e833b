"""Histograms are NumPy's for given edges; those that grow depend on the values alone, and on no chunking."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import Histogram

values = st.lists(st.none() | st.floats() | st.sampled_from([0.0, 1.0, -1.0, 2.0, math.inf]), max_size=80)


def of(numbers: list[float | None], **options: Any) -> Histogram:
    histogram = Histogram(**options)
    histogram.update(pa.array(numbers, pa.float64()))
    return histogram


@given(values, st.integers(0, 80), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9, unique=True))
@settings(deadline=None, max_examples=100)
def test_given_edges_are_numpys(numbers: list[float | None], cut: int, edges: list[float]) -> None:
    edges = sorted(edges)
    merged = of(numbers[:cut], edges=edges)
    merged.merge(of(numbers[cut:], edges=edges))
    present = np.array([number for number in numbers if number is not None and number == number])
    expected, _ = np.histogram(present, edges)
    for histogram in (merged, of(numbers, edges=edges)):
        np.testing.assert_array_equal(histogram.counts, expected)
        assert histogram.num_below == (present < edges[0]).sum()
        assert histogram.num_above == (present > edges[-1]).sum()
        assert histogram.count + histogram.num_below + histogram.num_above + histogram.missing == len(numbers)


@given(values, st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 50), st.floats(0, 0.2))
@settings(deadline=None, max_examples=100)
def test_even_edges_are_numpys(
    numbers: list[float | None], low: float, width: float, num_bins: int, uneven: float
) -> None:
    edges = low + width * np.arange(num_bins + 1)
    edges[1::2] += uneven * width
    if not (np.diff(edges) > 0).all():
        return
    numbers = [*numbers, *edges.tolist(), *np.nextafter(edges, -math.inf).tolist(), *np.nextafter(edges, math.inf)]
    present = np.array([number for number in numbers if number is not None and number == number])
    np.testing.assert_array_equal(of(numbers, edges=edges).counts, np.histogram(present, edges)[0])


@given(values, st.lists(st.integers(0, 80), max_size=4), st.integers(2, 40), st.randoms())
@settings(deadline=None, max_examples=150)
def test_bins_that_grow_are_the_same_for_every_cut_and_order(
    numbers: list[float | None], cuts: list[int], max_bins: int, random: Any
) -> None:
    bounds = sorted({0, len(numbers), *(min(cut, len(numbers)) for cut in cuts)})
    parts = [
        of(numbers[start:stop], max_bins=max_bins)
        for start, stop in zip(bounds, [*bounds[1:], len(numbers)], strict=True)
    ]
    random.shuffle(parts)
    merged = Histogram(max_bins=max_bins)
    for part in parts:
        merged.merge(part)
    whole = of(numbers, max_bins=max_bins)
    assert merged.to_dict() == whole.to_dict()
    finite = np.array([number for number in numbers if number is not None and math.isfinite(number)])
    assert len(whole.counts) <= max_bins
    assert whole.count == len(finite)
    assert whole.num_below == numbers.count(-math.inf)
    assert whole.num_above == numbers.count(math.inf)
    if len(finite) and (np.diff(whole.edges) > 0).all():
        np.testing.assert_array_equal(whole.counts, np.histogram(finite, whole.edges)[0])


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e300])
def test_many_bins_come_out(scale: float) -> None:
    numbers = np.random.default_rng(0).uniform(-scale, scale, 10_000)
    histogram = Histogram()
    histogram.update(pa.array(numbers))
    assert 512 <= len(histogram.counts) <= 1024
    np.testing.assert_array_equal(histogram.counts, np.histogram(numbers, histogram.edges)[0])


def test_whole_numbers_have_a_bin_each_or_share_it_evenly() -> None:
    histogram = Histogram()
    histogram.update(pa.array(np.arange(1000).repeat(3)))
    assert set(histogram.counts.tolist()) == {3}
    assert histogram.edges[0] == 0


@pytest.mark.parametrize("numbers", [[], [None, math.nan], [5.0], [0.0, -0.0], [1e308, -1e308, 5e-324], [math.inf]])
@pytest.mark.parametrize("options", [{}, {"edges": [0.0, 1.0, 7.0]}])
def test_round_trips(numbers: list[float | None], options: dict[str, Any]) -> None:
    histogram = of(numbers, **options)
    for again in (
        Histogram.from_dict(json.loads(json.dumps(histogram.to_dict(), allow_nan=False))),
        pickle.loads(pickle.dumps(histogram)),
    ):
        np.testing.assert_equal(again.result(), histogram.result())
        again.update(pa.array([0.5, 6.0]))
        np.testing.assert_equal(again.result(), of([*numbers, 0.5, 6.0], **options).result())


def test_what_cannot_work_is_refused() -> None:
    for edges in ([1.0], [2.0, 1.0], [0.0, math.inf], [[0.0, 1.0]]):
        with pytest.raises(ArgumentError, match="must be two or more finite numbers that rise"):
            Histogram(edges)
    with pytest.raises(ArgumentError, match="max_bins=1 must be at least 2"):
        Histogram(max_bins=1)
    with pytest.raises(ArgumentError, match="only equal histograms merge"):
        Histogram().merge(Histogram([0, 1]))
    with pytest.raises(DataError):
        Histogram().update(pa.array(["a"]))
