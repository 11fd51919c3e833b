"""Hashes of categories: scikit-learn's, and the same everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction import FeatureHasher

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import ColumnTransformer, HashingEncoder, StandardScaler
from tests.preparation.transforms.common import assert_same, assert_transforms_alike, assert_two_stages_alike


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text(max_size=4), st.text(max_size=2)), min_size=1, max_size=10),
    n_features=st.integers(1, 40),
    alternate_sign=st.booleans(),
)
def test_words_are_hashed_as_scikit_learn_does(rows, n_features, alternate_sign):
    table = pa.table({"a": [row[0] for row in rows], "ü": [row[1] for row in rows]})
    hasher = FeatureHasher(n_features, alternate_sign=alternate_sign)
    expected = hasher.transform([{"a": first, "ü": second} for first, second in rows]).toarray()
    found = HashingEncoder(n_features, alternate_sign=alternate_sign).fit_transform(table)
    assert_same(found, expected)


@pytest.fixture
def mixed() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"word": rng.choice(["x", "ü", None], 40), "n": rng.integers(0, 3, 40), "b": rng.random(40) < 0.5}
    )
    return frame.astype({"word": "str"})


def test_every_way_gives_the_same(mixed):
    texts = [
        {name: str(value) for name, value in row.items() if not pd.isna(value)} for row in mixed.to_dict("records")
    ]
    expected = FeatureHasher(16).transform(texts).toarray()
    assert_transforms_alike(HashingEncoder(16), mixed, expected=expected)
    groups = [("hashed", HashingEncoder(16), ["word", "n"]), ("n", StandardScaler(), ["n"])]
    assert_two_stages_alike(ColumnTransformer(groups), mixed)


def test_whole_numbers_are_the_same_where_some_are_missing():
    encoder = HashingEncoder(32)
    whole, gaps = pa.table({"a": [1, 2, 3]}), pa.table({"a": pa.array([1.0, None, 3.0])})
    found = np.array(encoder.fit(whole).transform(gaps).to_pandas())
    assert_same(found[[0, 2]], np.array(encoder.transform(whole).to_pandas())[[0, 2]])
    assert not found[1].any()


def test_dictionaries_and_dates_are_hashed_as_their_text():
    days = pa.array([0, 1, None], pa.int32()).cast(pa.date32())
    texts = pa.array(["1970-01-01", "1970-01-02", None])
    encoder = HashingEncoder(64).fit(pa.table({"a": texts}))
    expected = encoder.transform(pa.table({"a": texts}))
    for values in (days, days.cast(pa.timestamp("ns")), texts.dictionary_encode()):
        assert_same(encoder.transform(pa.table({"a": values})), expected)


def test_nothing_is_learnt_from_the_data(mixed):
    assert ColumnTransformer([("h", HashingEncoder(8), ["word"])]).plan(mixed) == "fit needs 0 passes"
    with pytest.raises(ArgumentError, match="n_features=0 must be"):
        HashingEncoder(0).fit(mixed)
    with pytest.raises(DataError, match="column 'a' holds list"):
        HashingEncoder(8).fit(pa.table({"a": [[1]]}))
