"""The compiled kernel says what NumPy says, to the rounding of float64, and refuses what would read elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dtk.statistics import Categories, GridMoments, Moments, compiled_sums

pytestmark = pytest.mark.skipif(compiled_sums._sums is None, reason="the compiled kernel was not built")

DIMS = ("time", "level", "x")
unusual = st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
dtypes = st.sampled_from(["f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">f4", "f2", "?"])


def grid(values: np.ndarray, keep: list[str], *, cut: int = 0, is_compiled: bool = True) -> dict[str, np.ndarray]:
    with pytest.MonkeyPatch.context() as patch:
        if not is_compiled:
            patch.setattr(compiled_sums, "_sums", None)
        moments = GridMoments(dict(zip(DIMS, values.shape, strict=True)), keep)
        for part in (slice(cut), slice(cut, None)):
            at = {"time": slice(*part.indices(len(values))[:2])}
            moments.update(values[part], at=at)
        return moments.result()


def column(*chunks: pa.Array, is_compiled: bool = True) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        if not is_compiled:
            patch.setattr(compiled_sums, "_sums", None)
        moments = Moments()
        for chunk in chunks:
            moments.update(chunk)
        return moments.result()


def assert_equal(compiled: dict[str, Any], plain: dict[str, Any], largest: float) -> None:
    for name in ("count", "min", "max", *({"missing", "num_infinite"} & set(plain))):
        np.testing.assert_array_equal(compiled[name], plain[name])
    np.testing.assert_allclose(compiled["mean"], plain["mean"], rtol=1e-14, atol=4e-15 * largest)
    # a distance from the mean is rounded as the mean is, and so is its square, relative to the spread
    np.testing.assert_allclose(compiled["std"], plain["std"], rtol=1e-9, atol=1e-14 * largest)


@given(
    st.data(),
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=40),
    dtypes,
    st.lists(st.sampled_from(DIMS), unique=True),
    st.sampled_from([0.0, 1e9, 273.15]),
)
@settings(deadline=None, max_examples=150)
def test_grids(data: Any, shape: tuple[int, ...], dtype: str, keep: list[str], offset: float) -> None:
    kind = np.dtype(dtype)
    seed, share = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=shape) * 30 + (offset if kind.itemsize == 8 else 50)
    values = numbers.astype(dtype) if kind.kind != "u" else np.abs(numbers).astype(dtype)
    if kind.kind == "f":
        odd = data.draw(unusual)
        values[rng.random(shape) < share] = odd
    if data.draw(st.booleans()):
        values = np.asfortranarray(values)
    cut = data.draw(st.integers(0, shape[0]))
    finite = np.abs(values.astype(float)[np.isfinite(values.astype(float))]).max(initial=0)
    assert_equal(grid(values, keep, cut=cut), grid(values, keep, cut=cut, is_compiled=False), float(finite))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
@pytest.mark.parametrize("length", [2, 7, 2048, 2049, 10_001])
def test_long_rows(dtype: str, length: int) -> None:
    values = (np.random.default_rng(length).normal(size=(3, 2, length)) * 9 + 1000).astype(dtype)
    if dtype != "i4":
        values[1, :, ::3] = np.nan
        values[2, 1, -1] = 1e6  # far from the value that distances are counted from
        values[0, 1, 0] = -1e6
    assert_equal(grid(values, ["level"]), grid(values, ["level"], is_compiled=False), 1e6)
    floats = values.astype(float)
    np.testing.assert_allclose(grid(values, ["level"])["std"], np.nanstd(floats, axis=(0, 2)), rtol=1e-10)


@given(
    values=st.lists(st.none() | st.floats(-1e6, 1e6, width=32) | unusual, max_size=80),
    repeats=st.sampled_from([1, 1, 60]),
    cut=st.tuples(st.integers(0, 80), st.integers(0, 80)),
    offset=st.sampled_from([0.0, 1e9]),
    dtype=st.sampled_from([pa.float64(), pa.float32(), pa.float16()]),
)
@settings(deadline=None, max_examples=150)
def test_columns_of_floats(
    values: list[float | None], repeats: int, cut: tuple[int, int], offset: float, dtype: pa.DataType
) -> None:
    start, stop = sorted(cut)
    numbers = np.array([0.0 if value is None else value for value in values * repeats]) + offset
    with np.errstate(over="ignore"):
        numbers = numbers.astype(dtype.to_pandas_dtype())
    array = pa.array(numbers, mask=np.array([value is None for value in values * repeats], bool))
    chunks = [array[start:stop], array[:start], array[stop:]]
    largest = np.abs(numbers[np.isfinite(numbers)].astype(float)).max(initial=0)
    assert_equal(column(*chunks), column(*chunks, is_compiled=False), float(largest))


@given(
    values=st.lists(st.none() | st.integers(0, 100), max_size=80),
    dtype=st.sampled_from([pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]),
    offset=st.sampled_from([0, 2**53 - 50, 2**62]),
    start=st.integers(0, 80),
)
@settings(deadline=None, max_examples=100)
def test_columns_of_integers(values: list[int | None], dtype: pa.DataType, offset: int, start: int) -> None:
    offset = offset if dtype.bit_width == 64 else 0
    array = pa.array([None if value is None else value + offset for value in values], dtype)[start:]
    compiled, plain = column(array), column(array, is_compiled=False)
    assert_equal(compiled, plain, float(offset + 100))
    assert [type(compiled[name]) for name in ("min", "max")] == [type(plain[name]) for name in ("min", "max")]


@pytest.mark.parametrize("dtype", [pa.timestamp("ns"), pa.timestamp("us"), pa.duration("s"), pa.date32(), pa.null()])
def test_columns_of_times(dtype: pa.DataType) -> None:
    array = pa.array([1, None, 5_000, 40], pa.int64()) if not pa.types.is_null(dtype) else pa.nulls(3)
    array = array.cast(pa.int32()).cast(dtype) if pa.types.is_date32(dtype) else array.cast(dtype)
    assert_equal(column(array), column(array, is_compiled=False), 1e20)


def test_digits_at_a_large_offset() -> None:
    noise = np.random.default_rng(0).normal(size=100_000)
    found = column(pa.array(noise + 1e9))
    assert found["std"] == pytest.approx((noise + 1e9 - 1e9).std(), rel=1e-10)
    outlier = np.append(-1e9, noise)  # which distances are counted from first
    assert column(pa.array(outlier))["variance"] == pytest.approx(outlier.var(), rel=1e-12)


def test_a_constant_has_no_spread() -> None:
    found = column(pa.array([0.1] * 5_000, pa.float32()), pa.array([0.1, None] * 3_000, pa.float32()))
    assert (found["mean"], found["variance"]) == (float(np.float32(0.1)), 0.0)


def test_the_kernel_refuses_what_would_read_elsewhere() -> None:
    kernel = compiled_sums._sums
    values = np.zeros((2, 3, 4), "f4")
    cells = [np.zeros(3, np.int64), *(np.zeros(3) for _ in range(5))]
    kernel.add_rows(values, 0, 2, 3, 4, *cells)
    assert cells[0].tolist() == [8, 8, 8]
    for shape in ((2, 3, 5), (3, 3, 4), (2, 2, 4), (0, 3, 4), (-2, -3, 4), (2**62, 3, 4)):
        with pytest.raises(ValueError, match="bad values"):
            kernel.add_rows(values, 0, *shape, *cells)
    with pytest.raises(ValueError, match="bad cells"):
        kernel.add_rows(values, 0, 2, 3, 4, np.zeros(2, np.int64), *cells[1:])
    with pytest.raises(ValueError, match="bad kind"):
        kernel.add_rows(values, 10, 2, 3, 4, *cells)
    with pytest.raises((ValueError, BufferError)):
        kernel.add_rows(values[:, :, ::2], 0, 2, 3, 2, *cells)
    assert cells[0].tolist() == [8, 8, 8]
    bits = np.zeros(1, np.uint8)
    assert kernel.sum_numbers(values.reshape(-1)[:8], 0, bits, 0)[0] == 0
    for first in (1, -1, 2**62):
        with pytest.raises(ValueError, match="bad validity"):
            kernel.sum_numbers(values.reshape(-1)[:8], 0, bits, first)
    with pytest.raises(ValueError, match="bad kind"):
        kernel.sum_numbers(values, -1, None, 0)
    with pytest.raises(ValueError, match="bad values"):
        kernel.sum_numbers(np.zeros(7, np.uint8), 1, None, 0)


@given(
    codes=st.lists(st.none() | st.integers(0, 4), max_size=60),
    dtype=st.sampled_from([pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64()]),
    start=st.integers(0, 60),
    is_wide=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_codes_of_a_dictionary(codes: list[int | None], dtype: pa.DataType, start: int, is_wide: bool) -> None:
    words = pa.array([f"word {number}" for number in range(100 if is_wide else 5)])
    array = pa.DictionaryArray.from_arrays(pa.array(codes, dtype), words)[start:]
    found = Categories()
    found.update(array)
    plain = [value for value in array.to_pylist() if value is not None]
    assert found.counts == Counter(plain)
    assert found.missing == len(array) - len(plain)


def test_codes_that_are_none_are_refused() -> None:
    kernel = compiled_sums._sums
    counts = np.zeros((4, 3), np.int64)
    kernel.count_codes(np.array([0, 2, 2], np.int32), 6, None, 0, counts, 3)
    assert counts.sum(0).tolist() == [1, 0, 2]
    for codes in ([0, 3], [-1]):
        with pytest.raises(ValueError, match="bad codes"):
            kernel.count_codes(np.array(codes, np.int32), 6, None, 0, counts, 3)
    with pytest.raises(ValueError, match="bad counts"):
        kernel.count_codes(np.zeros(3, np.int32), 6, None, 0, counts, 4)
    with pytest.raises(ValueError, match="bad validity"):
        kernel.count_codes(np.zeros(9, np.int32), 6, np.zeros(1, np.uint8), 0, counts, 3)
    with pytest.raises(ValueError, match="bad kind"):
        kernel.count_codes(np.zeros(3, np.float32), 0, None, 0, counts, 3)
