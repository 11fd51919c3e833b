"""The words of a column of text: how often each occurs, and in how many texts."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import ArgumentError, DataError
from dtk.statistics.categories import Categories
from dtk.statistics.kinds import category_keys, plain_chunks

__all__ = ["Normalization", "Vocabulary", "split_words"]

Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]
_NO_WORD: Final = r"[^\p{L}\p{N}_]+"
_SLICE_BYTES: Final = 16 * 2**20  # of text, so that its words' lists stay small


def split_words(
    texts: pa.Array, *, lowercase: bool = True, normalize: Normalization | None = None, min_length: int = 2
) -> pa.LargeListArray:
    r"""Split texts into words.

    A word is as long a run of letters, digits and underscores of any script as there is: what the default pattern of
    scikit-learn's CountVectorizer finds, ``(?u)\b\w\w+\b``.

    Parameters
    ----------
    texts : pyarrow.Array
        Shape [rows]: strings, or a dictionary of them.
    lowercase : bool
        Whether to make all letters small, one by one: `str.lower` makes two of "İ", and minds where a
        Greek word ends.
    normalize : str, optional
        A form of Unicode to bring the texts to first, such as ``"NFKC"``.
    min_length : int
        Least characters of a word; shorter ones are left out.

    Returns
    -------
    pyarrow.LargeListArray
        Shape [rows] of lists of large_string; null where the text is.

    Raises
    ------
    DataError
        If the values are no texts.

    Examples
    --------
    >>> split_words(pa.array(["The café, a café!", None])).to_pylist()
    [['the', 'café', 'café'], None]
    """
    (plain,) = plain_chunks(texts)
    if pa.types.is_null(plain.type):
        plain = plain.cast(pa.large_string())
    if not (
        pa.types.is_string(plain.type) or pa.types.is_large_string(plain.type) or pa.types.is_string_view(plain.type)
    ):
        raise DataError(f"values of type {texts.type} are no texts; cast the column to strings first")
    cleaned = category_keys(plain)
    if normalize is not None:
        cleaned = pc.utf8_normalize(cleaned, form=normalize)
    if lowercase:
        cleaned = pc.utf8_lower(cleaned)
    lists = pc.split_pattern_regex(cleaned, pattern=_NO_WORD)
    words, lengths = lists.values, pc.utf8_length(lists.values)
    stays = pc.greater_equal(lengths, max(1, min_length)).to_numpy(zero_copy_only=False)
    kept = np.concatenate([[0], np.cumsum(stays)])
    offsets = pa.array(kept[lists.offsets.to_numpy()], pa.int64())
    mask = cleaned.is_null() if cleaned.null_count else None
    return pa.LargeListArray.from_arrays(offsets, words.filter(pa.array(stays)).cast(pa.large_string()), mask=mask)


class Vocabulary:
    """How often each word of a column of text occurs, and in how many of the texts.

    Exact up to `max_size` words that fit into `max_bytes`; beyond, the frequent ones stay, see `Categories`.

    Parameters
    ----------
    max_size : int
        Most words to hold; at least 2.
    max_bytes : int
        Most bytes to hold, half of them for the words' counts, half for the counts of texts; at least 8,192.
    lowercase : bool
        Whether to make all letters small first, see `split_words`.
    normalize : str, optional
        A form of Unicode to bring the texts to first, such as ``"NFKC"``.
    min_length : int
        Least characters of a word.

    Attributes
    ----------
    num_texts : int
        Texts that are present, also those without a word.
    missing : int
        Nulls.
    words : Categories
        How often each word occurs.
    texts : Categories
        In how many texts each word occurs: its document frequency.

    Raises
    ------
    ArgumentError
        If a limit is too small, or there is no such form of Unicode.

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
        lowercase: bool = True,
        normalize: Normalization | None = None,
        min_length: int = 2,
    ) -> None:
        if normalize not in (None, "NFC", "NFD", "NFKC", "NFKD"):
            raise ArgumentError(f"normalize={normalize!r} must be 'NFC', 'NFD', 'NFKC', 'NFKD' or None")
        if max_bytes < 8192:
            raise ArgumentError(f"max_bytes={max_bytes!r} must be at least 8192")
        self.rule: dict[str, Any] = {"lowercase": lowercase, "normalize": normalize, "min_length": min_length}
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
        for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
            num_rows = max(1, int(len(chunk) * _SLICE_BYTES / max(1, chunk.nbytes)))
            for start in range(0, len(chunk), num_rows):
                self._add(split_words(chunk.slice(start, num_rows), **self.rule))

    def _add(self, lists: pa.LargeListArray) -> None:
        self.missing += lists.null_count
        self.num_texts += len(lists) - lists.null_count
        words = lists.flatten().dictionary_encode()
        codes = words.indices.to_numpy().astype(np.int64)
        texts = pc.list_parent_indices(lists).to_numpy()
        self.words.add(words.dictionary, np.bincount(codes, minlength=len(words.dictionary)))
        pairs = np.sort(texts * len(words.dictionary) + codes)  # np.unique would take ten times as long
        is_first = np.diff(pairs, prepend=-1) > 0
        self.texts.add(words.dictionary, np.bincount(pairs[is_first] % max(1, len(words.dictionary))))

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
        if self.rule != other.rule:
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
        vocabulary = cls(**state["rule"])
        vocabulary.num_texts, vocabulary.missing = state["num_texts"], state["missing"]
        vocabulary.words = Categories.from_dict(state["words"])
        vocabulary.texts = Categories.from_dict(state["texts"])
        return vocabulary
