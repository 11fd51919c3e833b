"""Tokens of words, and of pieces of words, beside the library that learns them."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DependencyError
from dtk.preparation.transforms import (
    BpeTokenizer,
    ColumnTransformer,
    StandardScaler,
    TextNormalizer,
    Transform,
    WordTokenizer,
    trim_to_bucket,
)
from dtk.preparation.transforms.tokens import _loaded
from tests.preparation.transforms.common import assert_transforms_alike, assert_two_stages_alike

TEXTS = ["the cat sat on the mat", "the  dog\tsat on a log", None, "", "Ünïcode the été", "cat's 日本語 cat"] * 5
LISTS = st.lists(st.one_of(st.none(), st.text("ab C_é.\n", max_size=15)), min_size=1, max_size=10)


def frame() -> pd.DataFrame:
    return pd.DataFrame({"title": TEXTS, "note": TEXTS[::-1]})


@settings(max_examples=60, deadline=None)
@given(texts=LISTS, length=st.integers(1, 6), vocab_size=st.integers(3, 8), min_count=st.integers(1, 3))
def test_words_are_numbered_by_falling_frequency(
    texts: list[str | None], length: int, vocab_size: int, min_count: int
) -> None:
    words = [(text or "").lower().replace(".", " ").split() for text in texts]
    counts = Counter(word for each in words for word in each)
    known = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
    numbers = {word: number for number, word in enumerate(known[: vocab_size - 2], 2)}
    expected = np.zeros((len(texts), length), np.int64)
    for row, each in zip(expected, words, strict=True):
        row[: len(each)] = [numbers.get(word, 1) for word in each][:length]
    tokens = WordTokenizer(length=length, vocab_size=vocab_size, min_count=min_count)
    found = tokens.fit_transform(pd.DataFrame({"x": texts}, dtype="str"))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    assert tokens.num_cut_ == len(counts) - len(tokens.words_)


def test_pieces_are_those_that_the_library_learns_from_the_texts() -> None:
    ours = BpeTokenizer(vocab_size=50, length=9).fit(frame())
    model = _loaded(ours.model_, 9)
    assert set(model.get_vocab()) > {"[PAD]", "[UNK]", "▁the", "▁sat"}
    theirs = tokenizers.Tokenizer.from_str(ours.model_)
    theirs.no_padding()
    theirs.no_truncation()
    theirs.model = tokenizers.models.BPE(unk_token="[UNK]")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=50, special_tokens=["[PAD]", "[UNK]"], limit_alphabet=1000, show_progress=False
    )
    theirs.train_from_iterator([text for text in TEXTS + TEXTS[::-1] if text is not None], trainer)
    assert theirs.to_str() == ours.model_
    assert ours.num_tokens == theirs.get_vocab_size() == 50


def test_pieces_are_cut_padded_and_can_be_read() -> None:
    ours = BpeTokenizer(vocab_size=60, length=8).fit(frame())
    data = pd.DataFrame(
        {"title": ["the cat", None, "the mat sat on the mat the mat", "Ω"], "note": ["the", "", "", ""]}
    )
    tokens = ours.transform(data)
    assert tokens.shape == (4, 16)
    assert tokens.dtype == np.int64
    model = tokenizers.Tokenizer.from_str(ours.model_)
    assert model.decode(tokens[0, :8]) == "the cat"
    assert not tokens[1].any()
    assert (tokens[2, :8] != 0).all()
    assert 1 in tokens[3, :8]


def test_lower_case_and_a_small_alphabet() -> None:
    data = pd.DataFrame({"x": ["THE the The", "ü the"]})
    low = BpeTokenizer(lowercase=True, length=3).fit(data)
    np.testing.assert_array_equal(low.transform(data)[0], [low.transform(data)[0, 0]] * 3)
    few = BpeTokenizer(max_alphabet=4, length=3).fit(data)
    assert "ü" not in _loaded(few.model_, 3).get_vocab()


def test_many_words_are_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    from dtk.preparation.transforms import tokens

    counts = [("often", 9_000), ("more", 1_000), ("rare", 1)]
    assert Counter(" ".join(tokens._repeated(counts)).split()) == dict(counts)
    monkeypatch.setattr(tokens, "_MOST_WORDS", 100)
    assert Counter(" ".join(tokens._repeated(counts)).split()) == {"often": 90, "more": 10}


@pytest.mark.parametrize("transform", [WordTokenizer(length=5), BpeTokenizer(vocab_size=50, length=5)], ids=repr)
def test_data_of_any_form_and_size_gives_the_same(transform: Transform) -> None:
    assert_transforms_alike(transform, frame())
    columns = ColumnTransformer([("text", [TextNormalizer(), transform], ["title"])])
    fitted = assert_two_stages_alike(columns, frame())
    assert {name: field.dtype for name, field in fitted.fields.items()} == {"codes": np.int64}


def test_tokens_beside_numbers_stay_whole_numbers() -> None:
    data = frame().assign(delay=np.arange(len(frame()), dtype=float))
    groups = [("text", WordTokenizer(length=5), ["title"]), ("number", StandardScaler(), ["delay"])]
    fitted = assert_two_stages_alike(ColumnTransformer(groups), data)
    encoded = fitted.encode(pa.Table.from_pandas(data, preserve_index=False))
    numbers, tokens = fitted.as_module()(**{name: torch.as_tensor(each) for name, each in encoded.items()})
    assert (numbers.dtype, numbers.shape[1]) == (torch.float32, 1)
    assert tokens.dtype == torch.int64
    np.testing.assert_array_equal(tokens, fitted.transform(data)[:, :5])


@pytest.mark.parametrize(("longest", "bucket"), [(0, 4), (4, 4), (5, 8), (8, 8), (9, 12)])
def test_a_batch_takes_the_smallest_bucket_that_holds_it(longest: int, bucket: int) -> None:
    tokens = np.zeros((3, 12), np.int64)
    tokens[1, :longest] = 7
    for kind in (np.asarray, torch.tensor):
        given_tokens: Any = kind(tokens)
        assert trim_to_bucket(given_tokens, [8, 4]).shape == (3, bucket)
    with pytest.raises(ArgumentError, match=r"buckets=\[0\] must be lengths of at least 1"):
        trim_to_bucket(tokens, [0])


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ArgumentError, match="vocab_size=2 must be at least 3"):
        WordTokenizer(vocab_size=2).fit(frame())
    with pytest.raises(ArgumentError, match="length=0 must be at least 1"):
        BpeTokenizer(length=0).fit(frame())


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DependencyError, match=r"pip install 'dask-dtk\[text\]', or take WordTokenizer"):
        BpeTokenizer().fit(frame())
