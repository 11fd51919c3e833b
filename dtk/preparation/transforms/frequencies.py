"""Encode categories by how often they occur: as a number, or as codes for embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from dtk.errors import ArgumentError
from dtk.preparation.transforms.base import Found, refuse
from dtk.preparation.transforms.inverses import checked_features, columns_as_array, positions_of
from dtk.preparation.transforms.vocabularies import CategoryEncoder, TableEncoder, array_of, has_missing

__all__ = ["EmbeddingCodes", "FrequencyEncoder"]


class FrequencyEncoder(TableEncoder):
    """Replace each category by how frequent it was at fit; scikit-learn has none.

    Missing values are a category of their own. Values not seen at fit are 0, and so are those that were left out of a
    column with more categories than can be counted (a million), which is said.

    Parameters
    ----------
    normalize : bool
        Whether to give the share of the rows, and not their number.

    Attributes
    ----------
    categories_ : list of numpy.ndarray
        Of each column, by falling count; the last one is NaN where values were missing.
    frequencies_ : list of numpy.ndarray
        float64: of each of them.
    cut_ : list of str
        What was not counted, in words; empty where all was.

    Examples
    --------
    >>> FrequencyEncoder(normalize=False).fit_transform(np.array([["UA"], ["AA"], ["UA"]])).ravel()
    array([2., 1., 2.])
    """

    def __init__(self, *, normalize: bool = True) -> None:
        self.normalize = normalize

    def _learn(self, found: Found) -> None:
        self.categories_, self.frequencies_ = [], []
        self._warn_of_cuts(found["counts"])
        for each in found["counts"]:
            top = each.top()
            self.categories_.append(array_of([value for value, _ in top], with_missing=each.missing > 0))
            counts = [count for _, count in top] + ([each.missing] if each.missing else [])
            num_rows = max(each.count + each.missing, 1)
            self.frequencies_.append(np.array(counts, np.float64) / (num_rows if self.normalize else 1))
        self._settle()

    def inverse_transform(self, X: Any) -> NDArray[np.object_]:
        """Return the categories that frequencies stand for, which takes that no two of a column are equally frequent.

        Parameters
        ----------
        X : array
            Shape [rows, columns], in memory: what `transform` returns.

        Returns
        -------
        numpy.ndarray
            Of objects [rows, columns]; None for 0.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If it has another number of columns than the fit, or a frequency that no category has, or several have.
        """
        check_is_fitted(self)
        X = checked_features(X, len(self.categories_))
        return columns_as_array([self._inverted(column, X[:, column]) for column in range(X.shape[1])])

    def _inverted(self, column: int, given: NDArray[Any]) -> NDArray[np.object_]:
        """Return the categories [rows] of a column."""
        frequencies = np.append(0.0, self.frequencies_[column])
        known, first, counts = np.unique(
            frequencies.astype(given.dtype if given.dtype.kind == "f" else np.float64),
            return_index=True,
            return_counts=True,
        )
        at = np.minimum(np.searchsorted(known, given), len(known) - 1)
        is_unknown, is_shared = known[at] != given, counts[at] > 1
        if (is_unknown | is_shared).any():
            row = int((is_unknown | is_shared).argmax())
            owners = "no category" if is_unknown[row] else "several categories"
            raise ArgumentError(
                f"X holds {given[row]}, the frequency of {owners} of column {self._names[column]!r}; take "
                "OrdinalEncoder or EmbeddingCodes for an encoding that can be undone"
            )
        labels = np.append(np.array([None], object), self.categories_[column].astype(object))
        found: NDArray[np.object_] = labels[first[at]]
        return found

    def _tables(self) -> list[NDArray[np.float64]]:
        tables = []
        for categories, frequencies in zip(self.categories_, self.frequencies_, strict=True):
            rest = [0.0] if has_missing(categories) else [0.0, 0.0]
            tables.append(np.append(frequencies, rest)[:, None])
        return tables


class EmbeddingCodes(CategoryEncoder):
    """Number the categories by falling count, for embeddings: 0 for missing, rare and unseen values.

    The output are int64 codes, also in a module; scikit-learn has none.

    Parameters
    ----------
    max_categories : int
        Most categories of a column that get a code of their own.
    min_frequency : int
        The fewest rows in which such a category occurs.

    Attributes
    ----------
    categories_ : list of numpy.ndarray
        Of each column, by falling count; the code of the first one is 1.
    cardinalities_ : list of int
        How many codes each column has, 0 included: what an embedding needs.
    cut_ : list of str
        What was not counted, in words; empty where all was.

    Examples
    --------
    >>> codes = EmbeddingCodes().fit(np.array([["UA"], ["AA"], ["UA"]]))
    >>> codes.transform(np.array([["UA"], ["AA"], ["DL"]])).ravel(), codes.cardinalities_
    (array([1, 2, 0]), [3])
    """

    _gives_codes = True

    def __init__(self, *, max_categories: int = 10_000, min_frequency: int = 1) -> None:
        self.max_categories = max_categories
        self.min_frequency = min_frequency

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        if self.max_categories < 1:
            refuse("max_categories", self.max_categories, "at least 1")

    def _learn(self, found: Found) -> None:
        self.cut_ = ["" for _ in found["counts"]]
        self.categories_ = []
        for number, each in enumerate(found["counts"]):
            top = [value for value, count in each.top(self.max_categories) if count >= self.min_frequency]
            self.categories_.append(array_of(top, with_missing=False))
            if each.num_distinct > len(top):
                self.cut_[number] = f"{len(top):,} of at least {each.num_distinct:,} categories have a code"
        self.cardinalities_ = [len(categories) + 1 for categories in self.categories_]
        self._settle()

    def inverse_transform(self, X: Any) -> NDArray[np.object_]:
        """Return the categories that codes stand for.

        Parameters
        ----------
        X : array
            Shape [rows, columns], in memory: what `transform` returns.

        Returns
        -------
        numpy.ndarray
            Of objects [rows, columns]; None for the code 0.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If it has another number of columns than the fit, or a code that no category has.
        """
        check_is_fitted(self)
        X = checked_features(X, len(self.categories_))
        columns = []
        for column, categories in enumerate(self.categories_):
            labels = np.append(np.array([None], object), categories.astype(object))
            columns.append(labels[positions_of(self, column, X[:, column], len(labels))])
        return columns_as_array(columns)

    def _slots_of(self, column: int) -> NDArray[np.int64]:
        return np.append(np.arange(1, len(self.categories_[column]) + 1), [0, 0])

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        return x
