"""The words of a column of text: how often each occurs, and in how many texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.statistics.categories import Categories
from dtk.statistics.terms import Normalization, split_terms, texts_of

__all__ = ["Vocabulary"]

_SLICE_ROWS: Final = 65_536
_SLICE_NBYTES: Final = 16 * 2**20  # of text whose terms are held at once


class Vocabulary:
    """How often each word of a column of text occurs, and in how many of the texts.

    Exact up to `max_size` words that fit into `max_bytes`; beyond, the frequent ones stay, see `Categories`.

    Parameters
    ----------
    max_size : int
        Most words to hold; at least 2.
    max_bytes : int
        Most bytes to hold, half of them for the words' counts, half for the counts of texts; at least 8,192.
    with_texts : bool
        Whether to count texts, too, which takes about as long again.
    split, normalize, lowercase, min_length, stop_words, ngram_range : object
        What a word is, or a term of several words: as for `split_terms`.

    Attributes
    ----------
    num_texts : int
        Texts that are present, also those without a word.
    missing : int
        Nulls.
    words : Categories
        How often each word occurs.
    texts : Categories
        In how many texts each word occurs: its document frequency. Empty without `with_texts`.

    Raises
    ------
    ArgumentError
        If a limit is too small, or there is no such form of Unicode or way to split.

    Examples
    --------
    >>> vocabulary = Vocabulary()
    >>> vocabulary.update(pa.array(["to be or not to be", "that is the question to be put"]))
    >>> vocabulary.words.top(2), vocabulary.texts.top(2)
    ([('be', 3), ('to', 3)], [('be', 2), ('to', 2)])
    """

    def __init__(
        self,
        max_size: int = 1_000_000,
        max_bytes: int = 128 * 2**20,
        *,
        with_texts: bool = True,
        split: str = "words",
        normalize: Normalization | None = None,
        lowercase: bool = True,
        min_length: int = 2,
        stop_words: Sequence[str] = (),
        ngram_range: Sequence[int] = (1, 1),
    ) -> None:
        if split not in ("words", "spaces"):
            raise ArgumentError(f"split={split!r} must be 'words' or 'spaces'")
        if normalize not in (None, "NFC", "NFD", "NFKC", "NFKD"):
            raise ArgumentError(f"normalize={normalize!r} must be 'NFC', 'NFD', 'NFKC', 'NFKD' or None")
        if max_bytes < 8192:
            raise ArgumentError(f"max_bytes={max_bytes!r} must be at least 8192")
        self.with_texts = with_texts
        self.rule: dict[str, Any] = {  # as JSON has it, so that it is equal to one that was saved
            "split": split,
            "normalize": normalize,
            "lowercase": lowercase,
            "min_length": min_length,
            "stop_words": list(stop_words),
            "ngram_range": list(ngram_range),
        }
        self.num_texts = 0
        self.missing = 0
        self.words = Categories(max_size, max_bytes // 2)
        self.texts = Categories(max_size, max_bytes // 2)

    def update(self, values: pa.Array | pa.ChunkedArray, row: np.ndarray | None = None) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [rows]: strings, or a dictionary of them.
        row : numpy.ndarray, optional
            Not used.

        Raises
        ------
        DataError
            If the values are no texts.
        """
        num_rows = max(1, min(_SLICE_ROWS, len(values) * _SLICE_NBYTES // max(1, values.nbytes)))
        for start in range(0, len(values), num_rows):
            for texts in texts_of(values.slice(start, num_rows)):
                self.missing += texts.null_count
                self.num_texts += len(texts) - texts.null_count
                self._add(*split_terms(texts, **self.rule))

    def _add(self, terms: pa.Array, row: np.ndarray) -> None:
        encoded = terms.dictionary_encode()
        size, codes = len(encoded.dictionary), encoded.indices.to_numpy().astype(np.int64)
        self.words.add(encoded.dictionary, np.bincount(codes, minlength=size))
        if self.with_texts:
            pairs = np.sort(row * size + codes)  # np.unique would take ten times as long
            is_first = np.diff(pairs, prepend=-1) > 0
            self.texts.add(encoded.dictionary, np.bincount(pairs[is_first] % max(1, size), minlength=size))

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Vocabulary
            Left as it is; of the same limits, and split by the same rule.

        Raises
        ------
        ArgumentError
            If the rules differ.
        """
        if (self.rule, self.with_texts) != (other.rule, other.with_texts):
            raise ArgumentError(f"other splits texts by {other.rule} and this by {self.rule}; only equal ones merge")
        self.num_texts += other.num_texts
        self.missing += other.missing
        self.words.merge(other.words)
        self.texts.merge(other.texts)

    @property
    def note(self) -> str:
        """What was cut, in words; empty while exact."""
        return self.words.note

    def result(self) -> dict[str, Any]:
        """Return what it says.

        Returns
        -------
        dict
            ``num_texts``, ``missing``, ``num_words`` (occurrences), by word ``word_counts`` and ``text_counts``, how
            much too low those can be as ``word_error`` and ``text_error``, and ``note``, which says what was cut.
        """
        return {
            "num_texts": self.num_texts,
            "missing": self.missing,
            "num_words": self.words.count,
            "word_counts": self.words.counts,
            "word_error": self.words.max_error,
            "text_counts": self.texts.counts,
            "text_error": self.texts.max_error,
            "note": self.note,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            With the states of both counts.
        """
        return {
            "with_texts": self.with_texts,
            "rule": self.rule,
            "num_texts": self.num_texts,
            "missing": self.missing,
            "words": self.words.to_dict(),
            "texts": self.texts.to_dict(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        Vocabulary
            With the same results as the first.
        """
        vocabulary = cls(with_texts=state["with_texts"], **state["rule"])
        vocabulary.num_texts, vocabulary.missing = state["num_texts"], state["missing"]
        vocabulary.words = Categories.from_dict(state["words"])
        vocabulary.texts = Categories.from_dict(state["texts"])
        return vocabulary
