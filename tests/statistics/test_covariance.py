"""Covariances equal pandas', however the table is cut."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dtk.errors import ArgumentError, DataError
from dtk.statistics import Covariance

NAMES = ("a", "b", "c")


def table_of(values: np.ndarray) -> pa.Table:
    return pa.table({name: pa.array(column) for name, column in zip(NAMES, values.T, strict=True)})


def of(*tables: pa.Table) -> Covariance:
    covariance = Covariance(NAMES)
    for table in tables:
        covariance.update(table)
    return covariance


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.just(3)), elements=st.integers(-50, 50).map(float)),
    st.integers(0, 30),
    st.floats(0, 1),
    st.sampled_from([0.0, 1e9]),
)
@settings(deadline=None, max_examples=100)
def test_equal_to_pandas(values: np.ndarray, cut: int, share: float, offset: float) -> None:
    values = np.where(np.random.default_rng(len(values)).random(values.shape) < share, np.nan, values)
    frame, table = pd.DataFrame(values, columns=NAMES), table_of(values + offset)
    left, right = of(table.slice(0, cut)), of(table.slice(cut))
    right.merge(left)
    for covariance in (of(table), of(table.slice(0, cut), table.slice(cut)), right):
        present = frame.notna().to_numpy().astype(int)
        assert (covariance.count == present.T @ present).all()
        np.testing.assert_allclose(covariance.mean - offset, frame.mean(), rtol=1e-9, atol=1e-6)
        several = covariance.count > 1
        with warnings.catch_warnings(action="ignore"):  # of NumPy, where there are no rows
            theirs = frame.cov().to_numpy()
        np.testing.assert_allclose(covariance.covariance(ddof=1)[several], theirs[several], rtol=1e-9, atol=1e-4)
        ratio = ((covariance.count - 1) / np.maximum(covariance.count, 1))[several]  # pandas' own ddof is ignored
        np.testing.assert_allclose(covariance.covariance()[several], theirs[several] * ratio, rtol=1e-9, atol=1e-4)
        assert np.isnan(covariance.covariance(ddof=1)[~several]).all()
        correlation, theirs = covariance.correlation(), frame.corr().to_numpy()
        known = np.isfinite(theirs)
        np.testing.assert_allclose(correlation[known], theirs[known], atol=1e-6)


def test_keeps_its_digits_at_large_offsets() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200_000, 3)) @ rng.normal(size=(3, 3))
    covariance = of(table_of(values + 1e9))
    np.testing.assert_allclose(covariance.covariance(), np.cov(values.T, ddof=0), atol=1e-6)
    np.testing.assert_allclose(covariance.correlation(), np.corrcoef(values.T), atol=1e-7)


def test_columns_of_every_kind() -> None:
    table = pa.table(
        {
            "a": pa.array([1, 2, 3, None]),
            "b": pa.array([True, False, True, True]).dictionary_encode(),
            "c": pa.array([0, 1, 2, 3], pa.timestamp("ns")),
            "text": ["x"] * 4,
        }
    )
    assert of(table).count.tolist() == [[3, 3, 3], [3, 4, 4], [3, 4, 4]]
    with pytest.raises(DataError, match="no numbers"):
        Covariance(["a", "text"]).update(table)


def test_constants_and_infinite_values() -> None:
    covariance = of(table_of(np.array([[1.0, 5.0, math.inf], [2.0, 5.0, 3.0], [4.0, 5.0, 4.0]])))
    assert covariance.covariance()[1].tolist()[:2] == [0.0, 0.0]
    assert np.isnan(covariance.correlation()[1]).all()
    assert np.isnan(covariance.covariance()[2]).all()
    assert covariance.covariance()[0, 0] == pytest.approx(np.var([1, 2, 4]))


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e9 + 0.1])
def test_a_constant_that_floats_round_has_no_correlation(constant: float) -> None:
    values = np.random.default_rng(0).normal(size=(1000, 3))
    values[:, 1] = constant
    for covariance in (of(table_of(values)), of(*(table_of(part) for part in np.array_split(values, 7)))):
        assert np.isnan(covariance.correlation()[1]).all()
        assert np.isfinite(covariance.correlation()[0, [0, 2]]).all()


def test_infinite_values_leave_no_mean_however_the_table_is_cut() -> None:
    table = table_of(np.array([[1.0, 5.0, 1.0], [2.0, 5.0, math.inf], [4.0, 5.0, 4.0]]))
    for covariance in (of(table), of(*(table.slice(row, 1) for row in range(3)))):
        np.testing.assert_allclose(covariance.mean, [7 / 3, 5.0, np.nan])


def test_merge_leaves_the_other_as_it_is_and_round_trips() -> None:
    values = np.random.default_rng(1).normal(size=(50, 3))
    values[3, 1] = np.nan
    left, right = of(table_of(values[:20])), of(table_of(values[20:]))
    before = copy.deepcopy(right.to_dict())
    left.merge(right)
    left.merge(right)
    assert right.to_dict() == before
    assert left.count[0, 0] == 80
    restored = Covariance.from_dict(json.loads(json.dumps(left.to_dict(), allow_nan=False)))
    assert restored.to_dict() == left.to_dict() == pickle.loads(pickle.dumps(left)).to_dict()
    assert tuple(restored.result()) == ("count", "mean", "covariance", "correlation")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError, match="must name each column once"):
        Covariance(["a", "a"])
    with pytest.raises(ArgumentError, match="columns"):
        Covariance(["a", "d"]).update(table_of(np.zeros((2, 3))))
    with pytest.raises(ArgumentError, match="give both the same"):
        of().merge(Covariance(["a"]))
