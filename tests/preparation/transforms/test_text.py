"""Texts, cleaned and counted, beside Python's own functions and scikit-learn."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction import text as theirs

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import (
    ColumnTransformer,
    CountVectorizer,
    StandardScaler,
    TextNormalizer,
    TfidfVectorizer,
    Transform,
)
from tests.preparation.transforms.common import assert_same, assert_transforms_alike, assert_two_stages_alike

# letters with and without case or marks, digits, other numbers, marks alone, spaces of several kinds, punctuation
LETTERS = "abAB_éÉßñ\u0301日本ж٣½ⅷ²1 \t\n\u00a0.,-'#😀"
WORDS = st.one_of(st.text(LETTERS, max_size=12), st.sampled_from(["the", "red", "Red", "car", "red car", "a bus"]))
DOCUMENTS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=1, max_size=12)
VALUES = st.lists(st.one_of(st.none(), st.text(LETTERS, max_size=12)), min_size=1, max_size=8)


def titles() -> pd.DataFrame:
    title = ["The red car", "a red, red bus", None, "", "Été à la mer: 100 % red", "x_y car 3½", "日本語 ж"] * 3
    note = ["one two", "two three two", "three", "one", None, "four one two", "two"] * 3
    return pd.DataFrame({"title": title, "note": note})


@settings(max_examples=80, deadline=None)
@given(
    documents=DOCUMENTS,
    ngrams=st.sampled_from([(1, 1), (1, 2), (2, 3)]),
    options=st.fixed_dictionaries(
        {
            "lowercase": st.booleans(),
            "binary": st.booleans(),
            "stop_words": st.sampled_from([None, ["red", "bus"], "english"]),
            "min_df": st.sampled_from([1, 2, 0.3]),
            "max_df": st.sampled_from([1.0, 5, 0.8]),
        }
    ),
    weights=st.fixed_dictionaries(
        {
            "norm": st.sampled_from(["l1", "l2", None]),
            "use_idf": st.booleans(),
            "smooth_idf": st.booleans(),
            "sublinear_tf": st.booleans(),
        }
    ),
)
def test_counts_and_weights_equal_scikit_learns(
    documents: list[str], ngrams: tuple[int, int], options: dict[str, Any], weights: dict[str, Any]
) -> None:
    frame = pd.DataFrame({"x": documents}, dtype="str")
    for ours, other in (
        (CountVectorizer(ngram_range=ngrams, **options), theirs.CountVectorizer(ngram_range=ngrams, **options)),
        (
            TfidfVectorizer(ngram_range=ngrams, **options, **weights),
            theirs.TfidfVectorizer(ngram_range=ngrams, **options, **weights),
        ),
    ):
        try:
            expected = other.fit_transform(documents).toarray()
        except ValueError:  # there are no terms, or none are left
            with pytest.raises(ValueError, match="has no terms"):
                ours.fit(frame)
            continue
        assert_same(ours.fit_transform(frame), expected)
        assert ours.terms_ == [other.get_feature_names_out().tolist()]


def test_the_most_frequent_terms_are_kept_and_it_says_how_many_were_not() -> None:
    count = CountVectorizer(max_features=2).fit(titles()[["note"]])
    assert count.terms_ == [["one", "two"]]
    assert (count.num_cut_, count.max_error_) == ([2], 0)
    many = pd.DataFrame({"x": [f"word{number} often" for number in range(300)]})
    bounded = CountVectorizer(max_features=1, max_size=50).fit(many)
    assert bounded.terms_ == [["often"]]
    assert bounded.max_error_ > 0


TRANSFORMS = [
    CountVectorizer(),
    CountVectorizer(ngram_range=(1, 2), max_features=5, binary=True),
    TfidfVectorizer(),
    TfidfVectorizer(norm="l1", sublinear_tf=True, max_features=3),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_data_of_any_form_and_size_gives_the_same(transform: Transform) -> None:
    fitted = assert_transforms_alike(transform, titles())
    assert fitted.get_feature_names_out()[-1].startswith("note_")
    steps = [TextNormalizer(strip_accents=True), transform]
    columns = ColumnTransformer([("text", steps, ["title", "note"]), ("number", StandardScaler(), ["n"])])
    frame = titles().assign(n=np.arange(21.0))
    assert columns.plan(frame) == "fit needs 1 pass"
    assert_two_stages_alike(columns, frame)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(st.none(), st.text(LETTERS)), min_size=1, max_size=8),
    form=st.sampled_from(["NFC", "NFKC", "NFD"]),
)
def test_cleaning_equals_pythons(values: list[str | None], form: Any) -> None:
    def clean(value: str) -> str:
        lower = unicodedata.normalize(form, value).lower()
        bare = "".join(c for c in unicodedata.normalize("NFKD", lower) if not unicodedata.combining(c))
        return " ".join(unicodedata.normalize(form, bare).replace("a", "<a>").split())

    table = pa.table({"x": pa.array(values, pa.string())})
    transform = TextNormalizer(form=form, strip_accents=True, replace=[("(a)", r"<\1>")]).fit(table)
    expected = [None if value is None else clean(value) for value in values]
    assert transform.transform(table)["x"].to_pylist() == expected
    coded = table.set_column(0, "x", table["x"].dictionary_encode())
    assert transform.transform(coded)["x"].to_pylist() == expected


def test_cleaning_does_only_what_it_is_told() -> None:
    table = pa.table({"x": ["  ÉTÉ ﬁ "]})
    assert TextNormalizer(form=None, lowercase=False, collapse=False).fit_transform(table)["x"].to_pylist() == [
        "  ÉTÉ ﬁ "
    ]
    assert TextNormalizer().fit_transform(table)["x"].to_pylist() == ["été fi"]


def test_cleaning_data_of_any_form_and_size() -> None:
    assert_transforms_alike(TextNormalizer(), titles())


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (TextNormalizer(form="x"), "form='x' must be one of None, 'NFC'"),
        (TextNormalizer(replace=[("(", "")]), r"replace='\(': Invalid regular expression: missing \)"),
        (CountVectorizer(stop_words="german"), "stop_words='german' must be 'english', or a list of words"),
        (CountVectorizer(ngram_range=(2, 1)), "ngram_range="),
        (CountVectorizer(max_features=0), "max_features=0 must be at least 1"),
        (CountVectorizer(max_df=1.5), "max_df=1.5 must be a share from 0 to 1, or a number of documents as an int"),
        (CountVectorizer(min_df=-1), "min_df=-1 must be at least 0"),
        (TfidfVectorizer(norm="l3"), "norm='l3' must be 'l1', 'l2' or None"),
    ],
)
def test_wrong_parameters_are_refused(transform: Transform, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        transform.fit(titles())


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="column 'x' holds int64, where text is expected; cast it with data.astype"):
        CountVectorizer().fit(pd.DataFrame({"x": [1, 2]}))
    with pytest.raises(DataError, match="column 'x' has no terms that at least min_df=1"):
        CountVectorizer().fit(pd.DataFrame({"x": ["", "a"]}))
