"""Higher moments equal SciPy's, and those of a mapped column are those that its values have."""

from __future__ import annotations

import json
import math
import pickle
from functools import reduce

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError
from dtk.statistics import Moments
from dtk.statistics.central_sums import CentralSums
from dtk.statistics.number_blocks import BLOCK_VALUES

usual = st.floats(-1e6, 1e6, allow_subnormal=False)
floats = st.lists(st.none() | usual | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=60)
cuts = st.lists(st.integers(0, 60), max_size=4).map(sorted)
NAMES = ("mean", "variance", "min", "max", "skewness", "kurtosis")


def of(*chunks: pa.Array, order: int = 4) -> Moments:
    moments = Moments(order)
    for chunk in chunks:
        moments.update(chunk)
    return moments


def merged(parts: list[Moments]) -> Moments:
    total = Moments(parts[0].order)
    for part in parts:
        total.merge(part)
    return total


def check_same(left: Moments, right: Moments, scale: float = 1.0) -> None:
    assert (left.count, left.missing, left.num_infinite) == (right.count, right.missing, right.num_infinite)
    assert left.mean == pytest.approx(right.mean, rel=1e-9, abs=1e-9 * scale, nan_ok=True)
    assert left.std == pytest.approx(right.std, rel=1e-6, abs=1e-7 * scale, nan_ok=True)
    assert left.min == pytest.approx(right.min, rel=1e-12, abs=1e-12 * scale, nan_ok=True)
    assert left.max == pytest.approx(right.max, rel=1e-12, abs=1e-12 * scale, nan_ok=True)
    if min(left.std, right.std) > 1e-6 * scale:
        assert left.skewness == pytest.approx(right.skewness, rel=1e-5, abs=1e-5)
        assert left.kurtosis == pytest.approx(right.kurtosis, rel=1e-5, abs=1e-5)


@given(floats, cuts, st.sampled_from([pa.float64(), pa.float32()]))
@settings(deadline=None, max_examples=100)
def test_equal_to_scipy_for_every_cut(values: list[float | None], edges: list[int], dtype: pa.DataType) -> None:
    array = pa.array(values, pa.float64()).cast(dtype)
    parts = [of(array[start:stop]) for start, stop in zip([0, *edges], [*edges, 60], strict=True)]
    present = pd.Series(array.to_numpy(zero_copy_only=False).astype(float)).dropna().to_numpy()
    for moments in (of(array), merged(parts[::-1]), of(*[array[start : start + 1] for start in range(len(array))])):
        assert (moments.count, moments.missing) == (len(present), len(array) - len(present))
        if not np.isfinite(present).all():
            assert math.isnan(moments.skewness)
            assert math.isnan(moments.kurtosis)
        elif len(present) and present.std() > 1e-3 * np.abs(present).max():
            assert moments.std == pytest.approx(present.std(), rel=1e-9)
            assert moments.skewness == pytest.approx(scipy.stats.skew(present), rel=1e-6, abs=1e-6)
            assert moments.kurtosis == pytest.approx(scipy.stats.kurtosis(present), rel=1e-6, abs=1e-6)


@given(floats, cuts, st.sampled_from([0.0, -3.0, 2.5, 1e-3]), usual, usual | st.sampled_from([math.inf, math.nan]))
@settings(deadline=None, max_examples=100)
def test_derived_moments_are_those_of_the_mapped_column(
    values: list[float | None], edges: list[int], scale: float, shift: float, constant: float
) -> None:
    array = pa.array(values, pa.float64())
    parts = [of(array[start:stop]) for start, stop in zip([0, *edges], [*edges, 60], strict=True)]
    series = pd.Series(values, dtype="float64")
    for moments in (of(array), merged(parts)):
        before = moments.to_dict()
        filled = series.fillna(constant) if not math.isnan(constant) else series
        check_same(moments.filled(constant), of(pa.array(filled)), 1e6)
        with np.errstate(invalid="ignore"):
            check_same(moments.affine(scale, shift), of(pa.array(scale * series + shift)), 1e6)
            both = moments.filled(constant).affine(scale, shift)
            check_same(both, of(pa.array(scale * filled + shift)), 1e6)
        assert moments.to_dict() == before


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "uint64", "float16"])
@pytest.mark.parametrize("null_share", [0.0, 0.001, 0.5, 0.999])
def test_blocks_of_every_type(dtype: str, null_share: float) -> None:
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, 50.0, size=2 * BLOCK_VALUES + 4099).astype(dtype)
    absent = rng.random(len(values)) < null_share
    array, present = pa.array(values, mask=absent), values[~absent].astype(np.float64)
    for chunk in (array, array[3:], pa.concat_arrays([array[:3], array[3:]])[3:]):
        moments, wanted = of(chunk), present[np.count_nonzero(~absent[: len(array) - len(chunk)]) :]
        assert moments.count == len(wanted)
        assert moments.missing == chunk.null_count
        assert moments.mean == pytest.approx(wanted.mean(), rel=1e-12)
        assert moments.std == pytest.approx(wanted.std(), rel=1e-12)
        assert (moments.min, moments.max) == (wanted.min(), wanted.max())
        assert moments.skewness == pytest.approx(scipy.stats.skew(wanted), rel=1e-9)
        assert moments.kurtosis == pytest.approx(scipy.stats.kurtosis(wanted), rel=1e-9)
        assert of(chunk, order=2).variance == pytest.approx(moments.variance, rel=1e-12)


def test_what_lies_under_nulls_is_not_read() -> None:
    values = np.array([math.nan, 1.0, math.inf, 3.0, -1e300])
    validity = pa.py_buffer(np.packbits([0, 1, 0, 1, 0], bitorder="little").tobytes())
    moments = of(pa.Array.from_buffers(pa.float64(), 5, [validity, pa.py_buffer(values.tobytes())]))
    assert (moments.count, moments.missing, moments.mean, moments.min, moments.max) == (2, 3, 2.0, 1.0, 3.0)


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("offset", [1e9, -1e9])
@pytest.mark.parametrize("null_share", [0.0, 0.3])
def test_keeps_its_digits_at_large_offsets(order: int, offset: float, null_share: float) -> None:
    rng = np.random.default_rng(2)
    values = rng.gamma(2.0, size=100_000) + offset
    absent = rng.random(len(values)) < null_share
    present = values[~absent]
    parts = [of(pa.array(values[k::7], mask=absent[k::7]), order=order) for k in range(7)]
    distances = present - offset  # exact
    for moments in (of(pa.array(values, mask=absent), order=order), merged(parts)):
        assert moments.std == pytest.approx(distances.std(), rel=1e-9)
        assert moments.mean - offset == pytest.approx(distances.mean(), abs=1e-6)
        if order == 4:
            assert moments.skewness == pytest.approx(scipy.stats.skew(distances), rel=1e-6)
            assert moments.kurtosis == pytest.approx(scipy.stats.kurtosis(distances), rel=1e-6)


def test_large_integers_keep_their_digits_across_chunks() -> None:
    values = 2**62 + np.arange(1_000, dtype=np.int64)
    parts = [of(pa.array(part)) for part in np.split(values, 10)]
    assert merged(parts).variance == pytest.approx(np.arange(1_000).var(), rel=1e-12)
    unsigned = merged([of(pa.array(part.astype(np.uint64) + np.uint64(2**63))) for part in np.split(values, 10)])
    assert unsigned.variance == pytest.approx(np.arange(1_000).var(), rel=1e-12)
    assert (unsigned.min, unsigned.max) == (2**63 + 2**62, 2**63 + 2**62 + 999)
    both = merged([of(pa.array([2**62 + 1, None, 2**62 + 3])).filled(2**62 + 2)])
    assert (both.variance, both.min) == (pytest.approx(2 / 3), 2**62 + 1)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_any_integers(values: list[int], cut: int) -> None:
    moments = merged([of(pa.array(part, pa.int64())) for part in (values[:cut], values[cut:])])
    mean = sum(values) / len(values)
    assert (moments.min, moments.max) == (min(values), max(values))
    assert moments.mean == pytest.approx(mean, rel=1e-9, abs=1e4)
    exact = math.sqrt(len(values) * sum(value**2 for value in values) - sum(values) ** 2) / len(values)
    assert moments.std == pytest.approx(exact, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, -7.3e-9])
def test_a_constant_has_no_spread(value: float) -> None:
    moments = merged([of(pa.array(np.full(size, value))) for size in (1, 70_000, 333)])
    assert (moments.mean, moments.variance, moments.min, moments.max) == (value, 0.0, value, value)
    assert math.isnan(moments.skewness)
    assert math.isnan(moments.kurtosis)
    coded = of(pa.array([value, None, value]).dictionary_encode())
    assert (coded.mean, coded.variance, coded.missing) == (value, 0.0, 1)


@given(st.lists(st.none() | st.sampled_from([1.5, -2.0, 7.0, math.nan, math.inf]), max_size=40), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_dictionaries_count_their_codes(values: list[float | None], offset: int) -> None:
    plain = pa.array(values, pa.float64())[offset:]
    coded = pa.array(values, pa.float64()).dictionary_encode()[offset:]
    check_same(of(coded), of(plain))
    holes = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 1, 2], pa.int8()), pa.array([1.0, None, 5.0]))
    assert (of(holes).count, of(holes).missing, of(holes).mean) == (2, 3, 3.0)


@given(st.lists(st.none() | st.booleans(), max_size=40), st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_booleans_are_counted(values: list[bool | None], offset: int) -> None:
    flags = pa.array(values, pa.bool_())[offset:]
    check_same(of(flags), of(flags.cast(pa.int8())))


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.timestamp("ns"), pa.date32(), pa.duration("ms"), pa.time32("s")]
)
def test_times_in_chunks(kind: pa.DataType) -> None:
    ticks = pa.array(np.random.default_rng(3).integers(0, 20_000, 5_000), mask=np.arange(5_000) % 3 == 0)
    ticks = ticks.cast(pa.int32()) if kind in (pa.date32(), pa.time32("s")) else ticks
    size = {pa.timestamp("us"): 1e3, pa.date32(): 86_400e9, pa.duration("ms"): 1e-3}.get(kind, 1)
    check_same(merged([of(part.cast(kind)) for part in (ticks[:7], ticks[7:])]), of(ticks).affine(size), 1e9 * size)


def test_results_by_name() -> None:
    moments = of(pa.array([1.0, 2.0, None, 6.0]))
    assert tuple(moments.result())[:3] == ("count", "missing", "num_infinite")
    assert tuple(moments.result())[-2:] == ("skewness", "kurtosis")
    assert Moments().result().keys() == moments.result().keys() - {"skewness", "kurtosis"}
    assert moments.result()["mean"] == 3.0


def test_round_trips() -> None:
    moments = of(pa.array([0.1, None, 7.0, math.inf]), pa.array([2**60 + 1]))
    restored = Moments.from_dict(json.loads(json.dumps(moments.to_dict(), allow_nan=False)))
    assert vars(restored) == vars(moments) == vars(pickle.loads(pickle.dumps(moments)))


def test_huge_values_do_not_raise() -> None:
    moments = of(pa.array([1e308, 1.5e308, 1.7e308]))
    assert moments.mean == pytest.approx(1.4e308)
    assert moments.std == math.inf
    assert of(pa.array([5e-324, 1e-320])).std >= 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError, match="order=3 must be 2 or 4"):
        Moments(3)
    with pytest.raises(ArgumentError, match=r"order=2 has no skewness; make it with Moments\(order=4\)"):
        _ = Moments().skewness
    with pytest.raises(ArgumentError, match="other has order=2 where this has order=4"):
        Moments(4).merge(Moments())
    with pytest.raises(ArgumentError, match="shift=inf must be finite"):
        Moments().affine(1.0, math.inf)


def test_sums_merge_in_any_order() -> None:
    values = np.random.default_rng(4).gamma(1.0, size=40)
    parts = [of(pa.array(part))._sums for part in np.split(values, 8)]
    left = reduce(CentralSums.merged, parts)
    right = reduce(lambda later, earlier: earlier.merged(later), reversed(parts))
    assert left.fourths == pytest.approx(right.fourths, rel=1e-12)
    assert left.cubes == pytest.approx(right.cubes, rel=1e-12)
