"""What comes out of a transform goes back to what it was made of, as scikit-learn has it."""

from __future__ import annotations

import warnings
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import sklearn.preprocessing as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

from dtk.errors import ArgumentError
from dtk.preparation.transforms import (
    EmbeddingCodes,
    FrequencyEncoder,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)
from tests.preparation.transforms.common import assert_same, refuse
from tests.preparation.transforms.test_categories import ONE_HOT, ORDINAL, VALUES, theirs_of

DTYPES = {"words": "str", "whole": "int64", "floats": "float64", "booleans": "bool"}


@st.composite
def frames(draw: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return some rows of two columns, and others."""
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=2, max_size=2))
    sizes = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    seen, other = (
        pd.DataFrame(
            {
                name: pd.Series(draw(st.lists(VALUES[kind], min_size=size, max_size=size)), dtype=DTYPES[kind])
                for name, kind in zip("ab", kinds, strict=True)
            }
        )
        for size in sizes
    )
    return seen, other


def have_same_types(fitted: Any, encoder: Any) -> bool:
    """Whether the categories have the types of scikit-learn's; a column without a value has no type here."""
    pairs = zip(fitted.categories_, encoder.categories_, strict=True)
    return all(ours.dtype == other.dtype for ours, other in pairs)


@pytest.mark.parametrize("options", [*ONE_HOT, {}, {"drop": "first"}, {"drop": "if_binary"}])
@settings(max_examples=15, deadline=None)
@given(both=frames())
@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_one_hot_as_scikit_learn(options, both):
    seen, other = both
    encoder = theirs_of("OneHotEncoder", options).fit(seen)
    fitted = OneHotEncoder(**options).fit(seen)
    for frame in (seen, other if "handle_unknown" in options else seen):
        encoded = fitted.transform(frame)
        if not encoded.shape[1]:  # which scikit-learn refuses
            assert fitted.inverse_transform(encoded).shape == frame.shape
            continue
        try:
            expected = encoder.inverse_transform(encoded)
        except ValueError:
            with pytest.raises(ArgumentError, match="all zeros for column '[ab]', which stands for no category"):
                fitted.inverse_transform(encoded)
            continue
        found = fitted.inverse_transform(encoded)
        # scikit-learn takes the position of the dropped group for that of a category, and the two can differ
        dropped = encoder.drop_idx_ if options.get("drop") else [None, None]
        infrequent = getattr(encoder, "_infrequent_indices", [None, None])
        for column in range(2):
            if dropped[column] is None or infrequent[column] is None:
                assert_same(found[:, [column]], expected[:, [column]])
        assert not have_same_types(fitted, encoder) or found.dtype == expected.dtype


def test_one_hot_takes_scores_and_what_is_left_out():
    fitted = OneHotEncoder(drop="first", min_frequency=2, handle_unknown="ignore")
    fitted.fit(pd.DataFrame({"a": ["rare", "u", "u", "v", "v", "v", "odd"]}))
    assert fitted.get_feature_names_out().tolist() == ["a_v", "a_infrequent_sklearn"]
    found = fitted.inverse_transform(np.array([[0.0, 0.0], [0.2, 0.7], [0.9, 0.1]]))
    assert found.ravel().tolist() == ["u", "infrequent_sklearn", "v"]


@pytest.mark.parametrize("options", [*ORDINAL, {}, {"encoded_missing_value": -3}])
@settings(max_examples=15, deadline=None)
@given(both=frames())
def test_ordinal_as_scikit_learn(options, both):
    seen, other = both
    encoder = theirs_of("OrdinalEncoder", options).fit(seen)
    fitted = OrdinalEncoder(**options).fit(seen)
    infrequent = getattr(encoder, "_infrequent_indices", [None, None])
    for frame in (seen, other if "handle_unknown" in options else seen):
        encoded = fitted.transform(frame)
        found = fitted.inverse_transform(encoded)
        if any(infrequent[column] is not None for column in encoder._missing_indices):
            continue  # scikit-learn counts the missing value among the frequent ones, and fails or errs
        expected = encoder.inverse_transform(encoded.copy())
        assert_same(found, expected)
        assert not have_same_types(fitted, encoder) or found.dtype == expected.dtype


def test_ordinal_with_infrequent_and_missing_values():
    fitted = OrdinalEncoder(min_frequency=2).fit(pd.DataFrame({"a": ["u", "u", "v", "v", "rare", None]}))
    found = fitted.inverse_transform(np.array([[1.0], [2.0], [0.0], [np.nan]])).ravel()
    assert found[:3].tolist() == ["v", "infrequent_sklearn", "u"]
    assert pd.isna(found[3])


@settings(max_examples=30, deadline=None)
@given(both=frames())
def test_codes_and_frequencies_go_back_to_their_categories(both):
    seen, other = both
    codes = EmbeddingCodes().fit(seen)
    expected = other.astype(object).where(other.notna(), None)
    for column, categories in zip(seen.columns, codes.categories_, strict=True):
        known = expected[column].isin(categories.tolist())
        expected[column] = expected[column].where(known, None)
    assert_same(codes.inverse_transform(codes.transform(other)), expected.to_numpy(object))
    counts = FrequencyEncoder().fit(seen)
    encoded = counts.transform(seen)
    if any(len(set(each)) < len(each) for each in map(np.ndarray.tolist, counts.frequencies_)):
        with pytest.raises(ArgumentError, match="frequency of several categories of column '[ab]'; take"):
            counts.inverse_transform(encoded)
    else:
        for dtype in (np.float64, np.float32):
            assert_same(counts.inverse_transform(encoded.astype(dtype)), seen.astype(object))


@pytest.mark.parametrize("encode", ["ordinal", "onehot-dense"])
@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
@settings(max_examples=15, deadline=None)
@given(values=st.lists(st.tuples(*[st.integers(-4, 9)] * 2), min_size=1, max_size=20))
def test_bins_as_scikit_learn(encode, strategy, values):
    x = np.array(values, np.float64)
    method = {"quantile_method": "linear"} if strategy == "quantile" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are fewer bins
        fitted = KBinsDiscretizer(3, encode=encode, strategy=strategy, **method).fit(x)
        encoder = theirs.KBinsDiscretizer(3, encode=encode, strategy=strategy, **method).fit(x)
        expected = encoder.inverse_transform(fitted.transform(x))
    assert_same(fitted.inverse_transform(fitted.transform(x)), expected)


NUMBERS = [StandardScaler(), MinMaxScaler(), MaxAbsScaler(), RobustScaler(), KBinsDiscretizer(2, encode="ordinal")]
CATEGORIES = [OneHotEncoder(), OrdinalEncoder(), EmbeddingCodes(), FrequencyEncoder()]


@pytest.mark.parametrize("transform", NUMBERS + CATEGORIES, ids=lambda each: type(each).__name__)
def test_what_cannot_come_out_is_refused(transform):
    with pytest.raises(NotFittedError):
        transform.inverse_transform(np.ones((2, 3)))
    x = np.array([[1.0, 2.0, 5.0], [3.0, 3.0, 6.0]])
    fitted = transform.fit(x)
    with pytest.raises(ArgumentError, match=r"X has the shape \(2, 1\), and what comes out of transform has [36] col"):
        fitted.inverse_transform(np.ones((2, 1)))


def test_what_is_lazy_is_not_computed_behind_the_back():
    x = np.arange(12.0).reshape(6, 2)
    scaler = StandardScaler().fit(x)
    lazy = da.from_array(scaler.transform(x), chunks=(2, 2))
    with dask.config.set(scheduler=refuse), pytest.raises(ArgumentError, match=r"X is lazy, .* X\.map_blocks\("):
        scaler.inverse_transform(lazy)
    found = lazy.map_blocks(scaler.inverse_transform, dtype=np.float64)
    np.testing.assert_allclose(found.compute(scheduler="sync"), x)


def test_numbers_that_no_category_has_are_refused():
    frame = pd.DataFrame({"carrier": ["UA", "AA", "UA"]})
    for transform, codes in ((OrdinalEncoder(), "0 to 1"), (EmbeddingCodes(), "0 to 2")):
        with pytest.raises(ArgumentError, match=f"X holds 7.0, and the codes of column 'carrier' are {codes}"):
            transform.fit(frame).inverse_transform(np.array([[7.0]]))
    with pytest.raises(ArgumentError, match=r"X holds 0.5, the frequency of no category of column 'carrier'"):
        FrequencyEncoder().fit(frame).inverse_transform(np.array([[0.5]]))
