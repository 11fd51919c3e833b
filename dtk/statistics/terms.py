"""The terms of texts: words, and runs of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dtk.errors import DataError
from dtk.statistics.kinds import is_text, plain_chunks, plain_type

__all__ = ["Normalization", "Terms", "split_terms", "texts_of"]

Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]
Terms = tuple[pa.Array, NDArray[np.int64]]
"""large_string terms, one after the other, and the row of each, which never falls."""

_SEPARATORS: Final = {"words": r"[^\p{L}\p{N}_]+", "spaces": r"[\s\p{Z}]+"}


def texts_of(values: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """Return the texts of a column, all of one type.

    Parameters
    ----------
    values : pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows]: strings, or a dictionary of them.

    Returns
    -------
    list of pyarrow.Array
        large_string, [rows] in all, null where missing.

    Raises
    ------
    DataError
        If the values are no texts.
    """
    if not (is_text(values.type) or pa.types.is_null(plain_type(values.type))):
        raise DataError(f"values of type {values.type} are no texts; cast the column to strings first")
    return [chunk.cast(pa.large_string()) for chunk in plain_chunks(values)]


def split_terms(
    values: pa.Array | pa.ChunkedArray,
    *,
    split: str = "words",
    normalize: Normalization | None = None,
    lowercase: bool = True,
    min_length: int = 2,
    stop_words: Sequence[str] = (),
    ngram_range: Sequence[int] = (1, 1),
) -> Terms:
    r"""Split texts into terms.

    Parameters
    ----------
    values : pyarrow.Array or pyarrow.ChunkedArray
        Shape [rows]: strings, or a dictionary of them; a missing text has no terms.
    split : str
        ``"words"``: as long runs of letters, digits and underscores of any script as there are, which is what the
        default pattern of scikit-learn's CountVectorizer finds, ``(?u)\b\w\w+\b``. ``"spaces"``: what stands between
        white space.
    normalize : str, optional
        A form of Unicode to bring the texts to first, such as ``"NFKC"``.
    lowercase : bool
        Whether to make all letters small, one by one: `str.lower` makes two of "İ", and minds where a
        Greek word ends.
    min_length : int
        Least characters of a word; shorter ones are left out.
    stop_words : sequence of str
        Words that are left out.
    ngram_range : sequence of int
        How many words, at least and at most, make a term, joined by a space.

    Returns
    -------
    Terms
        In order of rows, shorter terms first within each.

    Raises
    ------
    DataError
        If the values are no texts.

    Examples
    --------
    >>> terms, row = split_terms(pa.array(["The café, a café!", None, "Closed"]))
    >>> terms.to_pylist(), row.tolist()
    (['the', 'café', 'café', 'closed'], [0, 0, 0, 2])
    """
    parts, rows, start = [pa.array([], pa.large_string())], [np.empty(0, np.int64)], 0
    for text in texts_of(values):
        cleaned = text if normalize is None else pc.utf8_normalize(text, form=normalize)
        lists = pc.split_pattern_regex(pc.utf8_lower(cleaned) if lowercase else cleaned, _SEPARATORS[split])
        parts.append(pc.list_flatten(lists))
        rows.append(pc.list_parent_indices(lists).to_numpy() + start)
        start += len(text)
    words, row = pa.concat_arrays(parts), np.concatenate(rows)
    is_wanted = pc.greater_equal(pc.utf8_length(words), max(1, min_length))
    if stop_words:
        is_wanted = pc.and_not(is_wanted, pc.is_in(words, pa.array(stop_words, pa.large_string())))
    words, row = words.filter(is_wanted), row[is_wanted.to_numpy(zero_copy_only=False)]
    return (words, row) if tuple(ngram_range) == (1, 1) else _ngrams(words, row, *ngram_range)


def _ngrams(words: pa.Array, row: NDArray[np.int64], least: int, most: int) -> Terms:
    terms, rows, space = [words.slice(0, 0)], [row[:0]], pa.scalar(" ", pa.large_string())
    for size in range(least, min(most, len(words)) + 1):
        count = len(words) - size + 1
        is_whole = row[:count] == row[size - 1 :]  # all of them in one text
        joined = pc.binary_join_element_wise(*(words.slice(first, count) for first in range(size)), space)
        terms.append(joined.filter(pa.array(is_whole)))
        rows.append(row[:count][is_whole])
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return pa.concat_arrays(terms).take(pa.array(order)), row[order]
