"""Numbers are cut into bins as scikit-learn does it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.preprocessing as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dtk.errors import ArgumentError
from dtk.preparation.transforms import Binarizer, ColumnTransformer, KBinsDiscretizer, SimpleImputer, StandardScaler
from tests.preparation.transforms.common import assert_same, assert_transforms_alike, assert_two_stages_alike


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = rng.normal(5, 3, (200, 2)).astype(np.float32).astype(np.float64)  # as a module sees them
    return pd.DataFrame(values, columns=["a", "b"]).assign(c=rng.integers(0, 3, 200))


@pytest.mark.filterwarnings("ignore:.*bins.*:UserWarning", "ignore:Bins whose width:UserWarning")
@pytest.mark.parametrize("encode", ["onehot-dense", "ordinal"])
@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
@pytest.mark.parametrize("n_bins", [4, [2, 7, 5]])
def test_every_way_gives_what_scikit_learn_gives(frame, encode, strategy, n_bins):
    options = {"n_bins": n_bins, "encode": encode, "strategy": strategy}
    expected = theirs.KBinsDiscretizer(**options).fit(frame)
    fitted = assert_transforms_alike(KBinsDiscretizer(**options), frame, expected=expected.transform(frame))
    assert list(fitted.get_feature_names_out()) == list(expected.get_feature_names_out())
    assert fitted.n_bins_.tolist() == expected.n_bins_.tolist()
    cut = fitted.transform(frame)
    assert_same(fitted.inverse_transform(cut), expected.inverse_transform(cut))


# bins narrower than 1e-8 are none, and scikit-learn has no answer where there is no other
cell = st.floats(-1e3, 1e3).map(lambda value: round(value, 4)) | st.integers(-2, 2).map(float)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("encode", ["onehot-dense", "ordinal"])
@settings(max_examples=25, deadline=None)
@given(
    x=npst.arrays(np.float64, st.tuples(st.integers(1, 15), st.integers(1, 2)), elements=cell),
    strategy=st.sampled_from(["quantile", "uniform"]),
    method=st.sampled_from(["averaged_inverted_cdf", "linear", "hazen"]),
    n_bins=st.integers(2, 6),
)
def test_any_shape(encode, x, strategy, method, n_bins):
    options = {"n_bins": n_bins, "encode": encode, "strategy": strategy, "quantile_method": method}
    expected = theirs.KBinsDiscretizer(**options).fit(x)
    found = KBinsDiscretizer(**options).fit(x)
    assert_same(found.transform(x), expected.transform(x))
    beyond = np.concatenate([x - 1, x + 1, x * 1.5])
    assert_same(found.transform(beyond), expected.transform(beyond))


def test_missing_and_infinite_values():
    x = np.array([[1.0], [2.0], [np.nan], [3.0], [4.0], [np.inf], [-np.inf]])
    ordinal = KBinsDiscretizer(2, encode="ordinal").fit(x)
    assert_same(ordinal.transform(x), [[0], [0], [np.nan], [1], [1], [1], [0]])
    dense = KBinsDiscretizer(2).fit(x).transform(x)
    assert dense.sum(axis=1).tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert np.isnan(ordinal.inverse_transform(ordinal.transform(x))[2, 0])
    several = KBinsDiscretizer([2, 4], encode="ordinal").fit(np.hstack([x, x]))
    assert several.transform(np.array([[np.inf, np.inf]])).tolist() == [[1, 3]]


def test_constants_have_one_bin_and_narrow_bins_are_joined():
    x = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 5.0]])
    bins = KBinsDiscretizer(3, encode="ordinal")
    with (
        pytest.warns(UserWarning, match="column 'x0' is constant; it has one bin"),
        pytest.warns(UserWarning, match="column 'x1' has 1 bins"),
    ):
        bins.fit(x)
    assert not bins.transform(x).any()


def test_bins_of_what_was_filled_and_scaled_take_one_pass(frame):
    missing = frame.mask(np.random.default_rng(1).random(frame.shape) < 0.2)[["a", "b"]]
    steps = [SimpleImputer(), StandardScaler(), KBinsDiscretizer(3)]
    fitted = assert_two_stages_alike(ColumnTransformer([("bins", steps, ["a", "b"])]), missing)
    assert fitted.num_passes_ == 1
    theirs_filled = theirs.StandardScaler().fit_transform(missing.fillna(missing.mean()))
    expected = theirs.KBinsDiscretizer(3, encode="onehot-dense").fit_transform(theirs_filled)
    assert_same(fitted.transform(missing), expected)


def test_binarizer(frame):
    expected = theirs.Binarizer(threshold=4.0).fit_transform(frame.to_numpy())
    assert_transforms_alike(Binarizer(threshold=4.0), frame, expected=expected)
    assert_same(Binarizer().fit_transform(np.array([[np.nan, 1.0, -np.inf]])), [[np.nan, 1.0, 0.0]])
    assert ColumnTransformer([("b", Binarizer(), ["a"])]).plan(frame) == "fit needs 0 passes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "kmeans"}, "strategy='kmeans' needs many passes over the data; give 'quantile' or 'uniform'"),
        ({"strategy": "other"}, "strategy='other' must be"),
        ({"encode": "onehot"}, "encode='onehot' is sparse, and batches are dense; give 'onehot-dense'"),
        ({"encode": "other"}, "encode='other' must be"),
        ({"n_bins": 1}, "n_bins=1 must be 2 or more"),
        ({"n_bins": [2]}, "n_bins has 1 numbers for 3 columns"),
        ({"quantile_method": "other"}, "quantile_method='other' must be one of"),
    ],
)
def test_what_cannot_be_is_refused(frame, options, message):
    with pytest.raises(ArgumentError, match=message):
        KBinsDiscretizer(**options).fit(frame)
