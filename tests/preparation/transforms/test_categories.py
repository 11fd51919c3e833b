"""Categories are encoded as scikit-learn does it, whatever they are and however they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sklearn.preprocessing as theirs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import (
    ColumnTransformer,
    EmbeddingCodes,
    FrequencyEncoder,
    OneHotEncoder,
    OrdinalEncoder,
    SimpleImputer,
    StandardScaler,
)
from tests.preparation.transforms.common import as_array, assert_same, assert_transforms_alike, assert_two_stages_alike

ONE_HOT: list[dict[str, Any]] = [
    {"handle_unknown": "ignore"},
    {"handle_unknown": "ignore", "drop": "first"},
    {"handle_unknown": "ignore", "drop": "if_binary"},
    {"handle_unknown": "infrequent_if_exist", "min_frequency": 3},
    {"handle_unknown": "infrequent_if_exist", "min_frequency": 0.2, "max_categories": 3, "drop": "first"},
    {"handle_unknown": "ignore", "max_categories": 2, "drop": "if_binary"},
    {"handle_unknown": "infrequent_if_exist", "max_categories": 1},
    {"handle_unknown": "ignore", "min_frequency": 2},
]
ORDINAL: list[dict[str, Any]] = [
    {"handle_unknown": "use_encoded_value", "unknown_value": -1},
    {"handle_unknown": "use_encoded_value", "unknown_value": np.nan, "encoded_missing_value": -2},
    {"handle_unknown": "use_encoded_value", "unknown_value": -1, "min_frequency": 3},
    {"handle_unknown": "use_encoded_value", "unknown_value": -1, "max_categories": 2, "encoded_missing_value": -7},
    {"handle_unknown": "use_encoded_value", "unknown_value": -1, "min_frequency": 0.3},
]
BOTH = [("OneHotEncoder", each) for each in ONE_HOT] + [("OrdinalEncoder", each) for each in ORDINAL]
each_encoder = pytest.mark.parametrize(("name", "options"), BOTH)

VALUES: dict[str, Any] = {
    "words": st.sampled_from(["a", "b", "ü", "日本", "", "A", np.nan]),
    "whole": st.sampled_from([-3, 0, 1, 7]),
    "floats": st.sampled_from([-0.5, 0.0, 2.0, np.nan]),
    "booleans": st.booleans(),
}


def theirs_of(name: str, options: dict[str, Any]) -> Any:
    return getattr(theirs, name)(**options, **({"sparse_output": False} if name == "OneHotEncoder" else {}))


def ours_of(name: str, options: dict[str, Any]) -> Any:
    return {"OneHotEncoder": OneHotEncoder, "OrdinalEncoder": OrdinalEncoder}[name](**options)


@pytest.fixture
def mixed() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "word": rng.choice(["x", "y", "ü", "rare", None], 60, p=[0.5, 0.2, 0.15, 0.05, 0.1]),
            "whole": rng.choice([1, 2, 30], 60),
            "float": rng.choice([0.5, 1.5, np.nan], 60),
            "boolean": rng.random(60) < 0.5,
        }
    ).astype({"word": "str"})


@each_encoder
def test_every_way_gives_what_scikit_learn_gives(name, options, mixed):
    encoder = theirs_of(name, options).fit(mixed)
    fitted = assert_transforms_alike(ours_of(name, options), mixed, expected=encoder.transform(mixed))
    assert list(fitted.get_feature_names_out()) == list(encoder.get_feature_names_out())
    for found, expected in zip(fitted.categories_, encoder.categories_, strict=True):
        assert_same(found[:, None], expected[:, None])
    assert fitted.cut_ == [""] * 4


@each_encoder
@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_any_categories_and_unseen_ones(name, options, data):
    kind = data.draw(st.sampled_from(list(VALUES)))
    values = st.lists(VALUES[kind], min_size=1, max_size=12)
    dtype = {"words": "str", "whole": "int64", "floats": "float64", "booleans": "bool"}[kind]
    seen, other = (pd.DataFrame({"a": data.draw(values)}).astype(dtype) for _ in range(2))
    encoder = theirs_of(name, options).fit(seen)
    fitted = ours_of(name, options).fit(seen)
    assert list(fitted.get_feature_names_out()) == list(encoder.get_feature_names_out())
    assert_same(fitted.transform(seen), encoder.transform(seen))
    assert_same(fitted.transform(other), encoder.transform(other))
    assert_same(fitted.categories_[0][:, None], encoder.categories_[0][:, None])
    if name == "OneHotEncoder":
        expected = None if encoder.drop_idx_ is None else encoder.drop_idx_.tolist()
        assert fitted.drop_idx_ == expected
    if "min_frequency" in options or "max_categories" in options:
        for found, expected in zip(fitted.infrequent_categories_, encoder.infrequent_categories_, strict=True):
            assert (found is None) == (expected is None)
            if expected is not None:
                assert_same(found[:, None], expected[:, None])


@pytest.mark.parametrize("encoder", [OneHotEncoder, OrdinalEncoder])
def test_unseen_values_are_refused_by_name(encoder):
    fitted = encoder().fit(pa.table({"carrier": ["UA", "AA"]}))
    with pytest.raises(DataError, match="column 'carrier' holds 'ZZ', which was not seen at fit; give another handle_"):
        fitted.transform(pa.table({"carrier": ["UA", "ZZ"]}))
    with pytest.raises(DataError, match="column 'carrier' holds None, which was not seen at fit"):
        fitted.transform(pa.table({"carrier": ["UA", None]}))
    with pytest.raises(DataError, match="column 'carrier' holds int64, where categories of type text"):
        fitted.transform(pa.table({"carrier": [1, 2]}))


def test_a_warning_tells_of_unseen_values():
    fitted = OneHotEncoder(handle_unknown="warn").fit(pa.table({"carrier": ["UA", "AA"]}))
    with pytest.warns(UserWarning, match="column 'carrier' holds values not seen at fit"):
        assert as_array(fitted.transform(pa.table({"carrier": ["ZZ"]}))).tolist() == [[0, 0]]


@pytest.mark.parametrize("name", ["OneHotEncoder", "OrdinalEncoder"])
def test_categories_may_be_given(name, mixed):
    given = [["ü", "y", "x", "rare", np.nan], [1, 2, 3, 30]]
    chosen = mixed[["word", "whole"]]
    expected = theirs_of(name, {"categories": given}).fit(chosen)
    fitted = ours_of(name, {"categories": given}).fit(chosen)
    assert_same(fitted.transform(chosen), expected.transform(chosen))
    assert list(fitted.get_feature_names_out()) == list(expected.get_feature_names_out())
    with pytest.raises(DataError, match="column 'word' holds '.*', which is none of its categories"):
        ours_of(name, {"categories": [["y"], [1, 2, 30]]}).fit(chosen)
    for wrong, message in (
        ([["y", "y"], [1]], "must differ"),
        ([[np.nan, "y"], [1]], "must differ"),
        ([["y"]], "1 lists"),
    ):
        with pytest.raises(ArgumentError, match=message):
            ours_of(name, {"categories": wrong}).fit(chosen)


def test_one_category_a_column_may_be_dropped(mixed):
    chosen = mixed[["word", "whole", "boolean"]]
    drop = ["ü", 30, True]
    expected = theirs.OneHotEncoder(drop=drop, sparse_output=False).fit(chosen)
    fitted = assert_transforms_alike(OneHotEncoder(drop=drop), chosen, expected=expected.transform(chosen))
    assert list(fitted.get_feature_names_out()) == list(expected.get_feature_names_out())
    with pytest.raises(ArgumentError, match="drop: 'z' is no category of column 'word'"):
        OneHotEncoder(drop=["z", 30, True]).fit(chosen)
    with pytest.raises(ArgumentError, match="drop: 'rare' is infrequent in column 'word'"):
        OneHotEncoder(drop=["rare", 30, True], max_categories=2).fit(chosen)


@pytest.mark.parametrize("encoder", [OneHotEncoder(), OrdinalEncoder(), FrequencyEncoder(), EmbeddingCodes()])
@pytest.mark.parametrize(
    "dtype", [pa.date32(), pa.timestamp("ms"), pa.timestamp("us", "Europe/Berlin"), pa.bool_(), pa.uint64(), pa.int8()]
)
def test_dates_and_numbers_of_all_types_are_categories(encoder, dtype):
    days = pa.array([0, 1, 1, None, 7], pa.int32())
    values = days.cast(pa.date32()).cast(dtype) if pa.types.is_temporal(dtype) else days.cast(pa.int64()).cast(dtype)
    table = pa.table({"a": values})
    coded = pa.table({"a": values.dictionary_encode()})
    found = as_array(encoder.fit(table).transform(table))
    assert_same(encoder.transform(coded), found)
    assert_same(encoder.fit(coded).transform(table), found)
    words = pa.table({"a": pa.array([None if value is None else f"{value:03}" for value in days.to_pylist()])})
    if not pa.types.is_boolean(dtype):
        assert_same(encoder.fit(words).transform(words), found)


def test_dictionaries_of_other_chunks_have_other_codes():
    first = pa.array(["b", None, "a"]).dictionary_encode()
    second = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array(["a", "c"]))
    table = pa.table({"a": pa.chunked_array([first, second.cast(first.type)])})
    plain = pa.table({"a": pa.array(["b", None, "a", "a", "c", None, "a"])})
    for encoder in (OneHotEncoder(), FrequencyEncoder(normalize=False), EmbeddingCodes()):
        assert_same(encoder.fit(table).transform(table), type(encoder)(**encoder.get_params()).fit_transform(plain))


def test_frequencies(mixed):
    chosen = mixed[["word", "whole", "boolean"]]
    shares = pd.DataFrame({name: chosen[name].map(chosen[name].value_counts(dropna=False)) for name in chosen}) / 60
    expected = shares.to_numpy(np.float64, copy=True)
    expected[chosen["word"].isna().to_numpy(), 0] = chosen["word"].isna().mean()
    fitted = assert_transforms_alike(FrequencyEncoder(), chosen, expected=expected)
    assert_same(FrequencyEncoder(normalize=False).fit_transform(chosen), expected * 60)
    unseen = pd.DataFrame({"word": ["new"], "whole": [5], "boolean": [True]})
    assert fitted.transform(unseen)[0, :2].tolist() == [0.0, 0.0]


def test_codes_for_embeddings_stay_whole_numbers(mixed):
    fitted = assert_transforms_alike(EmbeddingCodes(), mixed)
    assert fitted.transform(mixed).dtype == np.int64
    assert fitted.cardinalities_ == [5, 4, 3, 3]
    x = fitted._encode(list(mixed), pa.Table.from_pandas(mixed).columns)
    assert fitted.as_module()(torch.as_tensor(x)).dtype == torch.int64
    frequent = EmbeddingCodes(max_categories=2, min_frequency=8).fit(mixed)
    assert frequent.cardinalities_[0] == 3
    assert frequent.cut_[0] == "2 of at least 4 categories have a code"
    by_count = mixed["word"].value_counts().index[:2].tolist()
    words = pd.DataFrame({"word": [*by_count, "rare", "new", None]}).assign(whole=1, float=0.5, boolean=True)
    assert frequent.transform(words)[:, 0].tolist() == [1, 2, 0, 0, 0]


def test_what_is_not_counted_is_said(monkeypatch):
    from dtk.preparation.transforms import vocabularies
    from dtk.preparation.transforms.base import Need
    from dtk.statistics import Categories

    monkeypatch.setattr(vocabularies, "_COUNTS", Need(Categories, (("max_size", 10),)))
    table = pa.table({"a": ["often"] * 500 + [f"word {number}" for number in range(200)]})
    with pytest.warns(UserWarning, match="column 'a': .* of at least .* categories are kept"):
        frequencies = FrequencyEncoder().fit(table)
    assert "those left out occur at most" in frequencies.cut_[0]
    with pytest.warns(UserWarning, match="categories are kept"):
        grouped = OneHotEncoder(max_categories=2).fit(table)
    assert as_array(grouped.transform(table)).sum(axis=0).tolist() == [500, 200]
    with pytest.warns(UserWarning, match="categories are kept"):
        grouped = OrdinalEncoder(max_categories=2).fit(table)
    assert as_array(grouped.transform(table)).sum() == 200
    with (
        pytest.warns(UserWarning, match="categories are kept"),
        pytest.raises(DataError, match="'a' has too many categories .*; give max_categories= or min_frequency="),
    ):
        OneHotEncoder().fit(table)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (OneHotEncoder(sparse_output=True), "sparse_output=True is not offered: batches are dense"),
        (OneHotEncoder(handle_unknown="zeros"), "handle_unknown='zeros' must be one of"),
        (OneHotEncoder(drop="last"), "drop='last' must be"),
        (OneHotEncoder(max_categories=0), "max_categories=0 must be"),
        (OneHotEncoder(min_frequency=1.5), "min_frequency=1.5 must be"),
        (OrdinalEncoder(unknown_value=-1), "unknown_value=-1 must be"),
        (OrdinalEncoder(handle_unknown="use_encoded_value"), "unknown_value=None must be"),
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=1), "unknown_value=1 is the number of"),
        (OrdinalEncoder(encoded_missing_value=0), "encoded_missing_value=0 is the number of"),
        (EmbeddingCodes(max_categories=0), "max_categories=0 must be"),
    ],
)
def test_parameters_out_of_range_are_refused(encoder, message):
    with pytest.raises(ArgumentError, match=message):
        encoder.fit(pa.table({"a": ["x", "y", None]}))


def test_columns_without_any_value(mixed):
    empty = pd.DataFrame({"a": pd.array([None, None], dtype="str")})
    assert OneHotEncoder().fit_transform(empty).tolist() == [[1.0], [1.0]]
    assert FrequencyEncoder().fit_transform(empty).tolist() == [[1.0], [1.0]]
    assert EmbeddingCodes().fit_transform(empty).tolist() == [[0], [0]]
    assert np.isnan(OrdinalEncoder().fit_transform(empty)).all()


def test_compositions_of_numbers_and_categories(mixed):
    groups = [
        ("number", [SimpleImputer(), StandardScaler()], ["whole", "float"]),
        ("one hot", OneHotEncoder(handle_unknown="ignore"), ["word", "boolean"]),
        ("code", EmbeddingCodes(), ["word"]),
        ("often", FrequencyEncoder(), ["word", "whole"]),
    ]
    fitted = assert_two_stages_alike(ColumnTransformer(groups), mixed)
    assert fitted.num_passes_ == 1
    assert {name: field.shape for name, field in fitted.fields.items()} == {"inputs": (2,), "codes": (5,)}
