"""Texts: cleaned, or counted word by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms.base import Columns, Found, Need, Transform, refuse
from dtk.preparation.transforms.words import check_text, checked_share
from dtk.statistics import Vocabulary, split_terms
from dtk.statistics.kinds import plain_chunks

__all__ = ["CountVectorizer", "TextNormalizer", "TfidfVectorizer"]

_FORMS: Final = (None, "NFC", "NFKC", "NFD", "NFKD")


class TextNormalizer(Transform):
    """Clean texts; nothing is learnt. Steps run in the order of the parameters; missing texts stay missing.

    Parameters
    ----------
    form : str, optional
        A normal form of Unicode: ``"NFKC"``, ``"NFC"``, ``"NFKD"`` or ``"NFD"``.
    lowercase : bool
        Whether to put letters in lower case.
    strip_accents : bool
        Whether to take accents and other marks off letters.
    replace : sequence of (str, str)
        Regular expressions (of RE2), and what to put in place of what they match, one after the other.
    collapse : bool
        Whether to make one space of white space, and none at both ends.

    Examples
    --------
    >>> clean = TextNormalizer(strip_accents=True, replace=[("[0-9]+", "#")])
    >>> clean.fit_transform(pa.table({"title": [" ÉTÉ  1998 ", None]}))["title"].to_pylist()
    ['ete #', None]
    """

    _kind = "category"
    _cleans: ClassVar[bool] = True  # type: ignore[misc]

    def __init__(
        self,
        *,
        form: str | None = "NFKC",
        lowercase: bool = True,
        strip_accents: bool = False,
        replace: Sequence[tuple[str, str]] = (),
        collapse: bool = True,
    ) -> None:
        self.form = form
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.replace = replace
        self.collapse = collapse

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        check_text(names, types)
        if self.form not in _FORMS:
            refuse("form", self.form, f"one of {', '.join(map(repr, _FORMS))}")
        for pattern, replacement in self.replace:
            try:
                pc.replace_substring_regex(pa.array([""]), pattern, replacement)
            except pa.ArrowInvalid as error:
                raise ArgumentError(f"replace={pattern!r}: {error}") from None

    def _check_again(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        check_text(names, types)

    def _clean(self, columns: Columns) -> list[pa.ChunkedArray]:
        return [
            pa.chunked_array([self._clean_chunk(chunk) for chunk in column.chunks], pa.large_string())
            for column in columns
        ]

    def _clean_chunk(self, chunk: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(chunk.type):  # distinct texts, each once
            return self._clean_chunk(chunk.dictionary).take(chunk.indices)
        (plain,) = plain_chunks(chunk)
        text = plain.cast(pa.large_string())
        if self.form is not None:
            text = pc.utf8_normalize(text, self.form)
        if self.lowercase:
            text = pc.utf8_lower(text)
        if self.strip_accents:
            bare = pc.replace_substring_regex(pc.utf8_normalize(text, "NFKD"), r"\p{M}+", "")
            text = pc.utf8_normalize(bare, self.form or "NFC")
        for pattern, replacement in self.replace:
            text = pc.replace_substring_regex(text, pattern, replacement)
        if self.collapse:
            text = pc.utf8_trim(pc.replace_substring_regex(text, r"[\s\p{Z}]+", " "), " ")
        return text


class CountVectorizer(Transform):
    r"""Count the terms of texts, as `sklearn.feature_extraction.text.CountVectorizer`, into dense columns.

    Words are runs of two or more letters, digits and underscores, which is scikit-learn's default. A missing text is an
    empty one. Each column of text has terms of its own.

    Parameters
    ----------
    lowercase : bool
        Whether to put letters in lower case.
    stop_words : str or sequence of str, optional
        Words to leave out; ``"english"`` for scikit-learn's list.
    ngram_range : tuple of int
        How many words, at least and at most, make a term.
    max_df, min_df : float or int
        Terms that occur in more, or fewer, texts are left out: a share of the texts, or a number of them.
    max_features : int
        How many terms to keep for each column: those that occur most often.
    binary : bool
        Whether to write 1 for every count above 0.
    max_size : int
        How many distinct terms to hold during the fit. Beyond that frequent ones stay, and `max_error_` says by how
        much counts can be too low.

    Attributes
    ----------
    terms_ : list of list of str
        For each column, its terms in alphabetical order: the features.
    num_cut_ : list of int
        For each column, how many terms were left out, at least.
    max_error_ : int
        How much too low a count may have been; 0 if the fit was exact.

    Examples
    --------
    >>> import pandas as pd
    >>> count = CountVectorizer().fit(pd.DataFrame({"title": ["red car", "red red bus"]}))
    >>> count.get_feature_names_out().tolist()
    ['title_bus', 'title_car', 'title_red']
    >>> count.transform(pd.DataFrame({"title": ["bus, red bus"]}))
    array([[2., 0., 1.]])
    """

    _kind = "category"

    def __init__(
        self,
        *,
        lowercase: bool = True,
        stop_words: str | Sequence[str] | None = None,
        ngram_range: tuple[int, int] = (1, 1),
        max_df: float = 1.0,
        min_df: float = 1,
        max_features: int = 1000,
        binary: bool = False,
        max_size: int = 1_000_000,
    ) -> None:
        self.lowercase = lowercase
        self.stop_words = stop_words
        self.ngram_range = ngram_range
        self.max_df = max_df
        self.min_df = min_df
        self.max_features = max_features
        self.binary = binary
        self.max_size = max_size

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        check_text(names, types)
        if isinstance(self.stop_words, str) and self.stop_words != "english":
            refuse("stop_words", self.stop_words, "'english', or a list of words")
        if not 1 <= self.ngram_range[0] <= self.ngram_range[1]:
            refuse("ngram_range", self.ngram_range, "two numbers from 1, the smaller first")
        if self.max_features is None or self.max_features < 1:
            refuse("max_features", self.max_features, "at least 1: the output is dense")
        for name in ("max_df", "min_df"):
            checked_share(name, getattr(self, name), 1)

    def _check_again(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        check_text(names, types)

    def _options(self) -> dict[str, Any]:
        words = ENGLISH_STOP_WORDS if isinstance(self.stop_words, str) else self.stop_words or ()
        options = {"lowercase": self.lowercase, "min_length": 2, "stop_words": tuple(sorted(words))}
        return {**options, "ngram_range": tuple(self.ngram_range)}

    def _needs(self) -> Mapping[str, Need]:
        return {"terms": Need(Vocabulary, (("max_size", self.max_size), *self._options().items()))}

    def _learn(self, found: Found) -> None:
        names = _check_feature_names_in(self, None)
        self.terms_, self.num_cut_, documents = [], [], []
        num_documents = [each.num_texts + each.missing for each in found["terms"]]
        for name, each, num_texts in zip(names, found["terms"], num_documents, strict=True):
            in_documents = each.texts.counts
            low = checked_share("min_df", self.min_df, num_texts)
            high = checked_share("max_df", self.max_df, num_texts)
            kept = [term for term, _ in each.words.top() if low <= in_documents.get(term, 0) <= high]
            if not kept:
                raise DataError(
                    f"column {name!r} has no terms that at least min_df={self.min_df} and at most max_df={self.max_df} "
                    "of its texts have; change these, or leave the column out"
                )
            terms = sorted(kept[: self.max_features])
            self.terms_.append(terms)
            self.num_cut_.append(each.words.num_distinct - len(terms))
            documents.append(np.array([in_documents[term] for term in terms], np.float64))
        errors = [max(each.words.max_error, each.texts.max_error) for each in found["terms"]]
        self.max_error_ = max(errors, default=0)
        self._weigh(documents, num_documents)

    def _weigh(self, documents: Sequence[NDArray[Any]], num_documents: Sequence[int]) -> None:
        """Learn from the numbers of texts that have each term."""

    def _encode(self, names: Sequence[str], columns: Columns) -> NDArray[Any]:
        check_text(names, [column.type for column in columns])
        counts = [_counted(column, terms, self._options()) for column, terms in zip(columns, self.terms_, strict=True)]
        return np.concatenate(counts, axis=1)

    @property
    def _num_encoded(self) -> int:
        return sum(map(len, self.terms_))

    def _planned_encoded(self, num_columns: int) -> int:
        return num_columns * self.max_features

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        return xp.astype(x > 0, x.dtype) if self.binary else x

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        out = [f"{name}_{term}" for name, terms in zip(names, self.terms_, strict=True) for term in terms]
        return np.array(out, dtype=object)


def _counted(column: pa.ChunkedArray, terms: Sequence[str], options: Mapping[str, Any]) -> NDArray[np.float64]:
    """Count known terms: [rows, terms]."""
    words, row = split_terms(column, **options)
    found = pc.index_in(words, value_set=pa.array(terms, pa.large_string())).fill_null(-1).to_numpy()
    is_known = found >= 0
    counts = np.zeros(len(column) * len(terms))
    np.add.at(counts, row[is_known] * len(terms) + found[is_known], 1)
    return counts.reshape(len(column), len(terms))


class TfidfVectorizer(CountVectorizer):
    """Weigh the counts of terms by how few texts have them, as `sklearn.feature_extraction.text.TfidfVectorizer`.

    Words are counted while encoding, and weighed on the device of the batch.

    Parameters
    ----------
    lowercase, stop_words, ngram_range, max_df, min_df, max_features, binary, max_size : object
        As for `CountVectorizer`.
    norm : str, optional
        ``"l2"`` or ``"l1"``: what the features that come from one text are scaled to.
    use_idf : bool
        Whether to weigh by the logarithm of the inverse share of texts that have the term.
    smooth_idf : bool
        Whether to do as if one more text had every term.
    sublinear_tf : bool
        Whether to replace counts by one plus their logarithm.

    Attributes
    ----------
    idf_ : numpy.ndarray
        float64 [features]: the weights.
    terms_, num_cut_, max_error_ : object
        As for `CountVectorizer`.

    Examples
    --------
    >>> import pandas as pd
    >>> TfidfVectorizer().fit_transform(pd.DataFrame({"title": ["red car", "red red bus"]})).round(2)
    array([[0.  , 0.81, 0.58],
           [0.57, 0.  , 0.82]])
    """

    def __init__(
        self,
        *,
        lowercase: bool = True,
        stop_words: str | Sequence[str] | None = None,
        ngram_range: tuple[int, int] = (1, 1),
        max_df: float = 1.0,
        min_df: float = 1,
        max_features: int = 1000,
        binary: bool = False,
        max_size: int = 1_000_000,
        norm: str | None = "l2",
        use_idf: bool = True,
        smooth_idf: bool = True,
        sublinear_tf: bool = False,
    ) -> None:
        super().__init__(
            lowercase=lowercase,
            stop_words=stop_words,
            ngram_range=ngram_range,
            max_df=max_df,
            min_df=min_df,
            max_features=max_features,
            binary=binary,
            max_size=max_size,
        )
        self.norm = norm
        self.use_idf = use_idf
        self.smooth_idf = smooth_idf
        self.sublinear_tf = sublinear_tf

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        super()._check(names, types)
        if self.norm not in ("l1", "l2", None):
            refuse("norm", self.norm, "'l1', 'l2' or None")

    def _weigh(self, documents: Sequence[NDArray[Any]], num_documents: Sequence[int]) -> None:
        extra = 1 if self.smooth_idf else 0
        weights = [np.log((n + extra) / (each + extra)) + 1 for each, n in zip(documents, num_documents, strict=True)]
        self.idf_ = np.concatenate(weights) if self.use_idf else np.ones(self._num_encoded)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {"idf": self.idf_}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        counts = super()._forward(x, p, xp)
        if self.sublinear_tf:
            counts = xp.where(counts > 0, xp.log(xp.where(counts > 0, counts, xp.ones_like(counts))) + 1, counts)
        weighed = counts * p["idf"]
        if self.norm is None:
            return weighed
        parts, start = [], 0
        for terms in self.terms_:
            parts.append(_scaled(weighed[:, start : start + len(terms)], self.norm, xp))
            start += len(terms)
        return xp.concat(parts, axis=1)


def _scaled(x: Any, norm: str, xp: Any) -> Any:
    """Scale rows to the norm 1; rows of zeros stay."""
    size = xp.sum(xp.abs(x) if norm == "l1" else x * x, axis=1, keepdims=True)
    size = size if norm == "l1" else xp.sqrt(size)
    return x / xp.where(size == 0, xp.ones_like(size), size)
