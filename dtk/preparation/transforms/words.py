"""Words of texts, and how often they occur, in one pass and in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.statistics import Categories
from dtk.statistics.kinds import plain_chunks

__all__ = ["TermCounts", "Terms", "check_text", "checked_share", "split_terms", "texts_of"]

Terms = tuple[pa.Array, NDArray[np.int64]]
"""large_string terms, one after the other, and the row of each, which never falls."""

_SLICE_ROWS: Final = 65_536
_SLICE_NBYTES: Final = 16 * 2**20  # of text whose terms are held at once
_SEPARATORS: Final = {"words": r"[^\p{L}\p{N}_]+", "spaces": r"[\s\p{Z}]+"}


def check_text(names: Sequence[str], types: Sequence[pa.DataType]) -> None:
    """Refuse columns that are no text.

    Parameters
    ----------
    names : sequence of str
        Of the columns.
    types : sequence of pyarrow.DataType
        Of their values.

    Raises
    ------
    DataError
        If one holds something else.
    """
    for name, found in zip(names, types, strict=True):
        plain = found.value_type if pa.types.is_dictionary(found) else found
        plain = plain.storage_type if isinstance(plain, pa.BaseExtensionType) else plain
        checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        if not any(check(plain) for check in checks):
            raise DataError(
                f"column {name!r} holds {found}, where text is expected; cast it with data.astype({{{name!r}: 'str'}})"
            )


def texts_of(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """Return a column's texts.

    Parameters
    ----------
    column : pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows], of text.

    Returns
    -------
    list of pyarrow.Array
        large_string, [rows] in all, null where missing.
    """
    return [chunk.cast(pa.large_string()) for chunk in plain_chunks(column)]


def split_terms(
    column: pa.Array | pa.ChunkedArray,
    *,
    split: str = "words",
    lowercase: bool = True,
    min_length: int = 1,
    stop_words: Sequence[str] = (),
    ngram_range: tuple[int, int] = (1, 1),
) -> Terms:
    r"""Split texts into terms.

    Parameters
    ----------
    column : pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows], of text; missing is empty.
    split : str
        ``"words"``: runs of letters, digits and underscores, as ``\w`` of Python's `re`; ``"spaces"``: what stands
        between white space.
    lowercase : bool
        Whether to put them in lower case first.
    min_length : int
        Shorter words are left out.
    stop_words : sequence of str
        Words that are left out.
    ngram_range : tuple of int
        How many words, at least and at most, make a term, joined by a space.

    Returns
    -------
    Terms
        In order of rows, shorter terms first within each.
    """
    parts, rows, start = [pa.array([], pa.large_string())], [np.empty(0, np.int64)], 0
    for text in texts_of(column):
        lists = pc.split_pattern_regex(pc.utf8_lower(text) if lowercase else text, _SEPARATORS[split])
        parts.append(pc.list_flatten(lists))
        rows.append(pc.list_parent_indices(lists).to_numpy() + start)
        start += len(text)
    words, row = pa.concat_arrays(parts), np.concatenate(rows)
    is_wanted = pc.greater_equal(pc.utf8_length(words), max(1, min_length))
    if stop_words:
        is_wanted = pc.and_not(is_wanted, pc.is_in(words, pa.array(stop_words, pa.large_string())))
    words, row = words.filter(is_wanted), row[is_wanted.to_numpy(zero_copy_only=False)]
    return (words, row) if tuple(ngram_range) == (1, 1) else _ngrams(words, row, ngram_range)


def _ngrams(words: pa.Array, row: NDArray[np.int64], ngram_range: tuple[int, int]) -> Terms:
    terms, rows, space = [words.slice(0, 0)], [row[:0]], pa.scalar(" ", pa.large_string())
    for size in range(ngram_range[0], min(ngram_range[1], len(words)) + 1):
        count = len(words) - size + 1
        is_whole = row[:count] == row[size - 1 :]  # all of them in one text
        joined = pc.binary_join_element_wise(*(words.slice(first, count) for first in range(size)), space)
        terms.append(joined.filter(pa.array(is_whole)))
        rows.append(row[:count][is_whole])
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return pa.concat_arrays(terms).take(pa.array(order)), row[order]


class TermCounts:
    """How often each term occurs in the texts of a column, and in how many of them.

    Exact up to `max_size` distinct terms; beyond that frequent ones stay, and a count is too low by at most
    ``counts.max_error`` or ``documents.max_error``.

    Parameters
    ----------
    max_size : int
        Most distinct terms to hold.
    with_documents : bool
        Whether to count documents, too.
    **options : object
        As for `split_terms`.

    Attributes
    ----------
    num_documents : int
        Texts seen, missing ones included.
    counts, documents : Categories
        How often each term occurs, and in how many texts.
    """

    def __init__(self, max_size: int = 1_000_000, with_documents: bool = True, **options: Any) -> None:
        self.options = options
        self.with_documents = with_documents
        self.num_documents = 0
        self.counts = Categories(max_size)
        self.documents = Categories(max_size)

    def update(self, values: pa.Array | pa.ChunkedArray, row: NDArray[np.int64] | None = None) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [rows], of text.
        row : numpy.ndarray, optional
            Not used.
        """
        self.num_documents += len(values)
        num_rows = max(1, min(_SLICE_ROWS, len(values) * _SLICE_NBYTES // max(1, values.nbytes)))
        for start in range(0, len(values), num_rows):
            self._add(*split_terms(values.slice(start, num_rows), **self.options))

    def _add(self, terms: pa.Array, row: NDArray[np.int64]) -> None:
        encoded = terms.dictionary_encode()
        self.counts.update(encoded)
        if self.with_documents and len(terms):
            codes = encoded.indices.to_numpy().astype(np.int64)
            pairs = np.unique(row * len(encoded.dictionary) + codes)
            once = pa.array((pairs % len(encoded.dictionary)).astype(np.int32))
            self.documents.update(pa.DictionaryArray.from_arrays(once, encoded.dictionary))

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : TermCounts
            Left as it is; of the same options.
        """
        self.num_documents += other.num_documents
        self.counts.merge(other.counts)
        self.documents.merge(other.documents)


def checked_share(name: str, value: float, num_documents: int) -> float:
    """Return a number of documents from a number, or a share of them.

    Parameters
    ----------
    name : str
        Of the parameter, for the error.
    value : int or float
        A number of documents, or a share of them.
    num_documents : int
        How many there are.

    Returns
    -------
    float
        A number of documents.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    if isinstance(value, float) and not 0 <= value <= 1:
        raise ArgumentError(f"{name}={value!r} must be a share from 0 to 1, or a number of documents as an int")
    if value < 0:
        raise ArgumentError(f"{name}={value!r} must be at least 0")
    return value * num_documents if isinstance(value, float) else value
