"""Texts as token numbers: of words, or of pieces of words that are learnt from the texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError, DependencyError
from dtk.preparation.transforms.base import Columns, Found, Need, Transform, refuse
from dtk.preparation.transforms.words import check_text
from dtk.statistics import Categories, Vocabulary, split_terms
from dtk.statistics.terms import texts_of

__all__ = ["PAD", "UNKNOWN", "BpeTokenizer", "WordTokenizer", "trim_to_bucket"]

PAD: Final = 0
"""The token behind the end of a text."""
UNKNOWN: Final = 1
"""The token of what is not in the vocabulary."""

_MOST_WORDS: Final = 5_000_000  # that a trainer reads: the counts of more are scaled down
_WORDS_AT_ONCE: Final = 1000


class _Tokenizer(Transform):
    """Numbers of tokens, int64: `length` for each column of text, cut and padded at the end.

    In a composition they are codes for embeddings, and stay int64 beside columns of numbers.
    """

    _kind = "category"
    _codes: ClassVar[bool] = True
    _gives_codes: ClassVar[bool] = True

    vocab_size: int
    length: int
    max_size: int

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        check_text(names, types)
        if self.vocab_size < 3:
            refuse("vocab_size", self.vocab_size, "at least 3: padding, unknown, and a token")
        if self.length < 1:
            refuse("length", self.length, "at least 1")

    def _check_again(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        check_text(names, types)

    def _encode(self, names: Sequence[str], columns: Columns) -> NDArray[np.int64]:
        check_text(names, [column.type for column in columns])
        return np.concatenate([self._tokens(column) for column in columns], axis=1)

    def _tokens(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the tokens of a column's texts: [rows, length]."""
        raise NotImplementedError

    @property
    def _num_encoded(self) -> int:
        return int(self.n_features_in_) * self.length

    def _planned_encoded(self, num_columns: int) -> int:
        return num_columns * self.length

    @property
    def cardinalities_(self) -> list[int]:
        """How many tokens there are at each position: what an embedding needs."""
        return [self.vocab_size] * self._num_encoded

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        return x

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        return np.array([f"{name}_{position}" for name in names for position in range(self.length)], dtype=object)


class WordTokenizer(_Tokenizer):
    """Number the words of texts: 0 pads, 1 is unknown, and from 2 on they are numbered by falling frequency.

    Words are runs of letters, digits and underscores. All columns share one vocabulary. A missing text has no words.

    Parameters
    ----------
    vocab_size : int
        How many tokens there are, those of padding and of unknown words included.
    length : int
        How many tokens a text has in the output: the first ones.
    lowercase : bool
        Whether to put letters in lower case.
    min_count : int
        Words that are rarer are left out.
    max_size : int
        How many distinct words to hold during the fit. Beyond that frequent ones stay, and `max_error_` says by how
        much counts can be too low.

    Attributes
    ----------
    words_ : list of str
        The vocabulary; the first word has the token 2.
    num_cut_ : int
        How many words were left out, at least.
    max_error_ : int
        How much too low a count may have been; 0 if the fit was exact.

    Examples
    --------
    >>> import pandas as pd
    >>> tokens = WordTokenizer(length=4).fit(pd.DataFrame({"title": ["a red car", "a bus"]}))
    >>> tokens.transform(pd.DataFrame({"title": ["a blue bus"]})).tolist()
    [[2, 1, 3, 0]]
    """

    def __init__(
        self,
        *,
        vocab_size: int = 30_000,
        length: int = 128,
        lowercase: bool = True,
        min_count: int = 1,
        max_size: int = 1_000_000,
    ) -> None:
        self.vocab_size = vocab_size
        self.length = length
        self.lowercase = lowercase
        self.min_count = min_count
        self.max_size = max_size

    def _needs(self) -> Mapping[str, Need]:
        return {"words": _counts_of(self.max_size, lowercase=self.lowercase)}

    def _learn(self, found: Found) -> None:
        counts = _all_counts(found["words"], self.max_size)
        top = counts.top(self.vocab_size - 2)
        self.words_ = [word for word, count in top if count >= self.min_count]
        self.num_cut_ = counts.num_distinct - len(self.words_)
        self.max_error_ = counts.max_error

    def _tokens(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        words, row = split_terms(column, lowercase=self.lowercase, min_length=1)
        known = pc.index_in(words, value_set=pa.array(self.words_, pa.large_string()))
        tokens = pc.add(known, 2).fill_null(UNKNOWN).to_numpy()
        starts = np.searchsorted(row, np.arange(len(column)))
        position = np.arange(len(row)) - starts[row]
        is_kept = position < self.length
        result = np.full((len(column), self.length), PAD, np.int64)
        result[row[is_kept], position[is_kept]] = tokens[is_kept]
        return result


class BpeTokenizer(_Tokenizer):
    """Number pieces of words, learnt by byte pair encoding: 0 pads, and 1 is a letter that the fit did not keep.

    One scan counts the words of all columns, and the pieces are learnt from the counts, by the `tokenizers` library
    (``pip install dask-dtk[text]``). Words are what stands between white space. A missing text has no tokens.

    Parameters
    ----------
    vocab_size : int
        How many tokens there are at most, those of padding and of unknown letters included.
    length : int
        How many tokens a text has in the output: the first ones.
    lowercase : bool
        Whether to put letters in lower case.
    max_alphabet : int
        How many single letters to keep: the most frequent ones.
    max_size : int
        How many distinct words to hold during the fit. Beyond that frequent ones stay, and `max_error_` says by how
        much counts can be too low.

    Attributes
    ----------
    model_ : str
        The tokenizer as JSON: ``tokenizers.Tokenizer.from_str(model_)``.
    max_error_ : int
        How much too low a count may have been; 0 if the fit was exact.

    Notes
    -----
    The pieces are those that the library learns from the texts themselves, as long as there are no more than five
    million words; of more, the counts are scaled down to so many, and words that are rarer than that are left out.
    R. Sennrich, B. Haddow and A. Birch, "Neural machine translation of rare words with subword units" (2016).
    """

    def __init__(
        self,
        *,
        vocab_size: int = 30_000,
        length: int = 128,
        lowercase: bool = False,
        max_alphabet: int = 1000,
        max_size: int = 1_000_000,
    ) -> None:
        self.vocab_size = vocab_size
        self.length = length
        self.lowercase = lowercase
        self.max_alphabet = max_alphabet
        self.max_size = max_size

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        super()._check(names, types)
        _library()

    def _needs(self) -> Mapping[str, Need]:
        return {"words": _counts_of(self.max_size, lowercase=False, split="spaces")}

    def _learn(self, found: Found) -> None:
        counts = _all_counts(found["words"], self.max_size)
        self.max_error_ = counts.max_error
        self.model_ = _trained(counts.top(), self.vocab_size, self.max_alphabet, self.lowercase)

    def _tokens(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        model = _loaded(self.model_, self.length)
        texts = [text for chunk in texts_of(column) for text in chunk.fill_null("").to_pylist()]
        rows = [encoding.ids for encoding in model.encode_batch_fast(texts)]
        return np.array(rows, np.int64).reshape(len(texts), self.length)

    @property
    def num_tokens(self) -> int:
        """How many tokens there are."""
        return len(json.loads(self.model_)["model"]["vocab"])


def _counts_of(max_size: int, **rule: Any) -> Need:
    """Ask for the counts of all words, of one letter on."""
    return Need(Vocabulary, (("max_size", max_size), ("with_texts", False), ("min_length", 1), *rule.items()))


def _all_counts(parts: Sequence[Vocabulary], max_size: int) -> Categories:
    """Add up the counts of all columns."""
    counts = Categories(max_size)
    for each in parts:
        counts.merge(each.words)
    return counts


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise DependencyError(
            "BpeTokenizer needs the package 'tokenizers'; install it with pip install 'dask-dtk[text]', "
            "or take WordTokenizer"
        ) from None
    return tokenizers


def _trained(counts: Sequence[tuple[Any, int]], vocab_size: int, max_alphabet: int, lowercase: bool) -> str:
    library = _library()
    model = library.Tokenizer(library.models.BPE(unk_token="[UNK]"))
    case = [library.normalizers.Lowercase()] if lowercase else []
    model.normalizer = library.normalizers.Sequence([library.normalizers.NFC(), *case])
    # each word is learnt for itself, so that their counts are all that learning needs
    spaces, marks = library.pre_tokenizers.WhitespaceSplit(), library.pre_tokenizers.Metaspace(prepend_scheme="always")
    model.pre_tokenizer = library.pre_tokenizers.Sequence([spaces, marks])
    model.decoder = library.decoders.Metaspace(prepend_scheme="always")
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["[PAD]", "[UNK]"],
        limit_alphabet=max_alphabet,
        show_progress=False,
    )
    model.train_from_iterator(_repeated(counts), trainer)
    return str(model.to_str())


def _repeated(counts: Sequence[tuple[Any, int]]) -> Iterator[str]:
    """Yield texts in which each word is as frequent as it was, as far as there are not too many."""
    scale = min(1.0, _MOST_WORDS / max(1, sum(count for _, count in counts)))
    for word, count in counts:
        left = count if scale == 1 else round(count * scale)
        while left > 0:
            yield " ".join([word] * min(left, _WORDS_AT_ONCE))
            left -= _WORDS_AT_ONCE


@lru_cache(maxsize=8)
def _loaded(model: str, length: int) -> Any:
    loaded = _library().Tokenizer.from_str(model)
    loaded.enable_truncation(length)
    loaded.enable_padding(pad_id=PAD, pad_token="[PAD]", length=length)
    return loaded


def trim_to_bucket(tokens: Any, buckets: Sequence[int]) -> Any:
    """Cut the padding of a batch, to the smallest of a few lengths that holds its longest text.

    Few lengths mean few shapes, which compiled models and allocators like.

    Parameters
    ----------
    tokens : numpy.ndarray or torch.Tensor
        int64 [B, length] of one column of text, 0 behind the end.
    buckets : sequence of int
        Lengths; the whole length is one, too.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        int64 [B, bucket].

    Raises
    ------
    ArgumentError
        If a length is less than 1.

    Examples
    --------
    >>> trim_to_bucket(np.array([[5, 6, 7, 0, 0, 0], [5, 0, 0, 0, 0, 0]]), [2, 4]).shape
    (2, 4)
    """
    if any(bucket < 1 for bucket in buckets):
        raise ArgumentError(f"buckets={list(buckets)} must be lengths of at least 1")
    whole = tokens.shape[1]
    for bucket in sorted(buckets):
        if bucket < whole and not (tokens[:, bucket:] != PAD).any():
            return tokens[:, :bucket]
    return tokens
