"""Words and their counts are those of scikit-learn's CountVectorizer, for every cut."""

from __future__ import annotations

import json
import pickle
import re
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from dtk.errors import ArgumentError, DataError
from dtk.statistics import Vocabulary, split_terms

letters = st.sampled_from([*"abcXYZéß01_ .,-'\n\t", "Ω", "я", "漢", "字", "²", "ﬁ", "e\u0301", "😀", "\u00a0"])
texts = st.lists(st.none() | st.lists(letters, max_size=15).map("".join), max_size=25)


def split(values: pa.Array, **rule: Any) -> list[list[str]]:
    """Return the words of each text."""
    words, row = split_terms(values, **rule)
    found: list[list[str]] = [[] for _ in range(len(values))]
    for word, at in zip(words.to_pylist(), row.tolist(), strict=True):
        found[at].append(word)
    return found


def of(values: list[str | None], **options: Any) -> Vocabulary:
    vocabulary = Vocabulary(**options)
    vocabulary.update(pa.array(values, pa.string()))
    return vocabulary


def expected(values: list[str | None]) -> tuple[dict[str, int], dict[str, int]]:
    words = [re.findall(r"(?u)\b\w\w+\b", value.lower()) for value in values if value is not None]
    counts, frequency = Counter(), Counter()
    for found in words:
        counts.update(found)
        frequency.update(set(found))
    return dict(counts), dict(frequency)


@given(texts, st.lists(st.integers(0, 25), max_size=3), st.booleans(), st.randoms())
@settings(deadline=None, max_examples=100)
def test_equal_to_counting_for_every_cut_and_order(
    values: list[str | None], cuts: list[int], encode: bool, random: Any
) -> None:
    bounds = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    parts = [of(values[start:stop]) for start, stop in zip(bounds, [*bounds[1:], len(values)], strict=True)]
    random.shuffle(parts)
    merged, encoded = Vocabulary(), Vocabulary()
    for part in parts:
        merged.merge(part)
    encoded.update(pa.chunked_array([pa.array(values, pa.large_string()).dictionary_encode()]))
    counts, frequency = expected(values)
    for vocabulary in (merged, encoded):
        assert vocabulary.words.counts == counts
        assert vocabulary.texts.counts == frequency
        assert (vocabulary.num_texts, vocabulary.missing) == (len(values) - values.count(None), values.count(None))
        assert vocabulary.note == ""


def test_words_are_scikit_learns() -> None:
    values = ["The quick brown fox, the lazy dog & 42 cafés.", "a b c", "Straße nach Köln; 東京 is far_away", ""]
    vectorizer = CountVectorizer()
    matrix = vectorizer.fit_transform(values).toarray()
    names = vectorizer.get_feature_names_out().tolist()
    vocabulary = of(values)
    assert vocabulary.words.counts == dict(zip(names, matrix.sum(0).tolist(), strict=True))
    assert vocabulary.texts.counts == dict(zip(names, (matrix > 0).sum(0).tolist(), strict=True))
    for text, row in zip(split(pa.array(values)), matrix, strict=True):
        assert Counter(text) == {name: count for name, count in zip(names, row.tolist(), strict=True) if count}


@given(texts)
@settings(deadline=None, max_examples=40)
def test_options_change_the_words(values: list[str | None]) -> None:
    words = split(pa.array(values, pa.string()), lowercase=False, normalize="NFKC", min_length=1)
    for found, value in zip(words, values, strict=True):
        assert found == re.findall(r"\w+", unicodedata.normalize("NFKC", value or ""))


@given(texts, st.integers(1, 3), st.integers(0, 2), st.lists(st.sampled_from(["a", "ab", "x"]), max_size=2))
@settings(deadline=None, max_examples=40)
def test_terms_of_several_words(values: list[str | None], least: int, more: int, stop_words: list[str]) -> None:
    rule = {"split": "spaces", "min_length": 1, "stop_words": stop_words, "ngram_range": (least, least + more)}
    vocabulary = of(values, **rule)
    counts: Counter[str] = Counter()
    frequency: Counter[str] = Counter()
    for value in values:
        words = [word for word in (value or "").lower().split() if word not in stop_words]
        sizes = range(least, least + more + 1)
        terms = [" ".join(words[at : at + size]) for size in sizes for at in range(len(words) - size + 1)]
        counts.update(terms)
        frequency.update(set(terms))
    assert vocabulary.words.counts == counts
    assert vocabulary.texts.counts == frequency
    assert of(values, with_texts=False, **rule).texts.counts == {}


def test_words_are_bounded_and_it_says_what_was_cut() -> None:
    values = [f"often word{number} " for number in range(20_000)]
    merged = Vocabulary(max_size=1000, max_bytes=2**17)
    for part in np.array_split(np.array(values), 7):
        merged.merge(of(part.tolist(), max_size=1000, max_bytes=2**17))
        assert merged.words.nbytes + merged.texts.nbytes <= 2**17
    assert merged.words.top(1)[0][0] == "often"
    assert 20_000 - merged.words.max_error <= merged.words.top(1)[0][1] <= 20_000
    assert merged.num_texts == 20_000
    assert "max_size=1,000" in merged.note


@pytest.mark.parametrize("values", [[], [None, None], ["One word; one more", None, "ß"]])
def test_round_trips(values: list[str | None]) -> None:
    vocabulary = of(values, normalize="NFC", min_length=1, stop_words=["more"], ngram_range=(1, 2))
    for again in (
        Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))),
        pickle.loads(pickle.dumps(vocabulary)),
    ):
        assert again.result() == vocabulary.result()
        again.update(pa.array(["one"]))
        assert again.words.counts["one"] == vocabulary.words.counts.get("one", 0) + 1


def test_columns_of_nulls_have_no_words() -> None:
    vocabulary = Vocabulary()
    vocabulary.update(pa.nulls(3))
    vocabulary.update(pa.DictionaryArray.from_arrays(pa.array([None], pa.int8()), pa.nulls(0)))  # a category of pandas
    assert (vocabulary.missing, vocabulary.words.counts) == (4, {})


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ArgumentError, match="normalize='NFX' must be"):
        Vocabulary(normalize="NFX")
    with pytest.raises(ArgumentError, match="split='lines' must be 'words' or 'spaces'"):
        Vocabulary(split="lines")
    with pytest.raises(ArgumentError, match="max_bytes=1 must be at least 8192"):
        Vocabulary(max_bytes=1)
    with pytest.raises(ArgumentError, match="only equal ones merge"):
        Vocabulary().merge(Vocabulary(lowercase=False))
    with pytest.raises(DataError, match="are no texts; cast the column to strings first"):
        Vocabulary().update(pa.array([1]))
