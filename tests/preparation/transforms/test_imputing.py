"""Missing values are filled in as scikit-learn does it, however the data comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sklearn.impute as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import SimpleImputer
from tests.preparation.transforms.common import assert_same, assert_transforms_alike

STRATEGIES = ("mean", "median", "most_frequent", "constant")
cell = st.integers(-3, 3).map(float) | st.just(np.nan)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("add_indicator", [False, True])
def test_every_way_gives_what_scikit_learn_gives(strategy, add_indicator):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.integers(0, 9, (60, 3)).astype(float), columns=["a", "b", "c"])
    frame[["a", "b"]] = frame[["a", "b"]].mask(rng.random((60, 2)) < 0.3)
    options: dict[str, Any] = {"strategy": strategy, "add_indicator": add_indicator}
    imputer = theirs.SimpleImputer(**options).fit(frame)
    fitted = assert_transforms_alike(SimpleImputer(**options), frame, expected=imputer.transform(frame))
    assert list(fitted.get_feature_names_out()) == list(imputer.get_feature_names_out())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("add_indicator", [False, True])
@pytest.mark.parametrize("keep_empty_features", [False, True])
@settings(max_examples=20, deadline=None)
@given(x=npst.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 3)), elements=cell))
@pytest.mark.filterwarnings("ignore:Skipping features without any observed values")
def test_any_shape_with_missing_values(strategy, add_indicator, keep_empty_features, x):
    options = {"strategy": strategy, "add_indicator": add_indicator, "keep_empty_features": keep_empty_features}
    expected = theirs.SimpleImputer(**options).fit(x)
    found = SimpleImputer(**options).fit(x)
    assert_same(found.transform(x), expected.transform(x))
    assert list(found.get_feature_names_out()) == list(expected.get_feature_names_out())


@pytest.mark.parametrize("strategy", ["most_frequent", "constant"])
@pytest.mark.parametrize("dtype", ["str", "object", "category"])
def test_categories(strategy, dtype):
    frame = pd.DataFrame({"a": ["x", "ü", None, "ü"] * 3, "b": ["q", None, None, "z"] * 3}).astype(dtype)
    plain = frame.astype(object).where(frame.notna(), np.nan)
    expected = theirs.SimpleImputer(strategy=strategy).fit_transform(plain)
    assert_transforms_alike(SimpleImputer(strategy=strategy), frame, expected=expected)


@pytest.mark.parametrize("fill_value", [-1, 2.5, None])
def test_the_constant_may_be_given(fill_value):
    x = np.array([[1.0, np.nan], [np.nan, 4.0]])
    options = {"strategy": "constant", "fill_value": fill_value}
    assert_same(SimpleImputer(**options).fit_transform(x), theirs.SimpleImputer(**options).fit_transform(x))


def test_a_category_without_any_value():
    frame = pd.DataFrame({"a": pd.array([None, None], dtype="str"), "b": ["x", None]})
    assert SimpleImputer(strategy="most_frequent").fit_transform(frame).tolist() == [["x"], ["x"]]
    kept = SimpleImputer(strategy="most_frequent", keep_empty_features=True).fit_transform(frame)
    assert kept.tolist() == [["missing_value", "x"], ["missing_value", "x"]]


def test_numbers_among_categories_are_refused_or_become_text_at_once():
    mixed = pa.table({"number": [1.0, None], "word": ["x", None]})
    with pytest.raises(DataError, match="column 'word' holds string, where numbers are expected"):
        SimpleImputer().fit(mixed)
    with pytest.raises(ArgumentError, match="strategy='mode' must be one of"):
        SimpleImputer(strategy="mode").fit(mixed)
    with pytest.raises(ArgumentError, match="fill_value='x' does not fit"):
        SimpleImputer(strategy="constant", fill_value="x").fit(mixed.select(["number"]))


def test_infinite_values_do_not_make_the_mean_infinite():
    x = np.array([[1.0], [np.inf], [3.0], [np.nan]])
    assert SimpleImputer().fit_transform(x).ravel().tolist() == [1.0, np.inf, 3.0, 2.0]


def test_numbers_beside_categories():
    mixed = pa.table({"number": [1.0, None], "word": ["x", None]})
    for fill_value in ("gone", 7, None):
        with pytest.raises(ArgumentError, match="fill_value=.* does not fit '(number|word)', which holds"):
            SimpleImputer(strategy="constant", fill_value=fill_value).fit(mixed)
    filled = SimpleImputer(strategy="most_frequent").fit(mixed).transform(mixed)
    assert filled.to_pydict() == {"number": [1.0, 1.0], "word": ["x", "x"]}


@pytest.mark.parametrize(
    "dtype", [pa.date32(), pa.timestamp("ms"), pa.timestamp("us", "Europe/Berlin"), pa.decimal128(24, 2), pa.bool_()]
)
def test_the_most_frequent_value_of_any_type(dtype):
    days = pa.array([0, 1, 1, None], pa.int32()).cast(pa.date32())
    values = days.cast(dtype) if pa.types.is_temporal(dtype) else pa.array([0, 1, 1, None]).cast(dtype)
    table = pa.table({"a": values, "word": ["x", "y", None, "y"]})
    filled = SimpleImputer(strategy="most_frequent").fit(table).transform(table)
    assert filled["a"].type == dtype
    assert filled["a"].to_pylist() == [*values.to_pylist()[:3], values.to_pylist()[2]]
