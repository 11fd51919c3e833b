"""Encode categories: by a column each, or a number each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError
from dtk.preparation.transforms.base import Found, refuse
from dtk.preparation.transforms.grouping import GroupingEncoder
from dtk.preparation.transforms.inverses import checked_features, columns_as_array, positions_of
from dtk.preparation.transforms.vocabularies import MISSING, REFUSED, UNSEEN, TableEncoder, has_missing

__all__ = ["OneHotEncoder", "OrdinalEncoder"]


class OneHotEncoder(GroupingEncoder):
    """Give each category a column of 0 and 1, as `sklearn.preprocessing.OneHotEncoder`.

    Missing values are a category of their own where there were some at fit, named ``nan``. A column with more
    categories than can be counted (a million) is refused, unless infrequent ones are grouped.

    Parameters
    ----------
    categories : str or list of lists
        ``"auto"``: those seen at fit, sorted; or those of each column, NaN last.
    drop : str or list, optional
        The category of each column that is left out: ``"first"``, ``"if_binary"`` or a list of one a column.
    sparse_output : bool
        False: the output is dense.
    handle_unknown : str
        What becomes of values not seen at fit: ``"error"``, ``"ignore"`` (all zeros), ``"infrequent_if_exist"`` (the
        infrequent category), or ``"warn"``, which is the latter with a warning.
    min_frequency : int or float, optional
        Categories that occur in fewer rows, or in a smaller share of them, are one infrequent category.
    max_categories : int, optional
        Most output columns of a column, that of infrequent categories included.

    Attributes
    ----------
    categories_ : list of numpy.ndarray
        Of each column; the last one is NaN where values were missing.
    drop_idx_ : list of (int or None) or None
        Which of them is left out.
    infrequent_indices_ : list of (numpy.ndarray or None)
        Which of them are infrequent.
    cut_ : list of str
        What was not counted, in words; empty where all was.

    Examples
    --------
    >>> encoder = OneHotEncoder().fit(np.array([["UA"], ["AA"], ["UA"]]))
    >>> encoder.transform(np.array([["AA"]])), encoder.get_feature_names_out()
    (array([[1., 0.]]), array(['x0_AA', 'x0_UA'], dtype=object))
    """

    _counts_missing = True

    def __init__(
        self,
        *,
        categories: Any = "auto",
        drop: Any = None,
        sparse_output: bool = False,
        handle_unknown: str = "error",
        min_frequency: float | None = None,
        max_categories: int | None = None,
    ) -> None:
        self.categories = categories
        self.drop = drop
        self.sparse_output = sparse_output
        self.handle_unknown = handle_unknown
        self.min_frequency = min_frequency
        self.max_categories = max_categories

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        self._check_grouping(("error", "ignore", "infrequent_if_exist", "warn"))
        if self.sparse_output:
            raise ArgumentError(
                "sparse_output=True is not offered: batches are dense; leave it out, or take OrdinalEncoder or "
                "EmbeddingCodes, which have one column"
            )
        if isinstance(self.drop, str) and self.drop not in ("first", "if_binary"):
            refuse("drop", self.drop, "'first', 'if_binary' or a list of one category a column")

    def _learn(self, found: Found) -> None:
        self.drop_idx_ = None
        super()._learn(found)
        if self.drop is not None:
            if not isinstance(self.drop, str) and len(self.drop) != len(self.categories_):
                raise ArgumentError(f"drop has {len(self.drop)} categories for {len(self.categories_)} columns")
            self.drop_idx_ = [self._dropped(column) for column in range(len(self.categories_))]
            self._settle()

    def _dropped(self, column: int) -> int | None:
        """Return the category that is left out; the first infrequent one for all of them."""
        groups, rare = self._groups(column)
        size = len(groups) if rare is None else rare + 1
        if isinstance(self.drop, str):
            if self.drop == "if_binary" and size != 2:
                return None
            first = np.flatnonzero(groups == 0)
            return int(first[0]) if len(first) else None
        wanted, categories, name = self.drop[column], self.categories_[column], self._names[column]
        if wanted is None or (isinstance(wanted, float) and math.isnan(wanted)):
            at = [len(categories) - 1] if has_missing(categories) else []
        else:
            at = np.flatnonzero(categories == wanted).tolist()
        if not at:
            raise ArgumentError(f"drop: {wanted!r} is no category of column {name!r}")
        if groups[at[0]] == rare:
            raise ArgumentError(f"drop: {wanted!r} is infrequent in column {name!r}; drop another one")
        return int(at[0])

    def _slots_of(self, column: int) -> NDArray[np.int64]:
        groups, rare = self._groups(column)
        dropped = None if self.drop_idx_ is None else self.drop_idx_[column]
        slots = np.append(groups, [-1 if rare is None else rare])
        if dropped is not None:
            gone = slots[dropped]
            slots = np.where(slots == gone, -1, slots - (slots > gone))
        unseen = {"error": REFUSED, "ignore": -1}.get(self.handle_unknown, slots[-1])
        if self.cut_[column]:
            unseen = slots[-1]  # it may be one of those that were not kept
        return np.concatenate([slots[:-1], [] if has_missing(self.categories_[column]) else [unseen], [unseen]]).astype(
            np.int64
        )

    def _note_unseen(self, name: str, positions: NDArray[np.int64]) -> None:
        if self.handle_unknown == "warn" and (positions == UNSEEN).any():
            warnings.warn(
                f"column {name!r} holds values not seen at fit; they become the infrequent category, or zeros",
                UserWarning,
                stacklevel=2,
            )

    def _labels(self, column: int) -> list[Any]:
        """Name the output columns of a column."""
        labels: list[Any] = self._group_labels(column).tolist()
        dropped = self._dropped_group(column)
        return labels if dropped is None else labels[:dropped] + labels[dropped + 1 :]

    def _dropped_group(self, column: int) -> int | None:
        if self.drop_idx_ is None or self.drop_idx_[column] is None:
            return None
        return int(self._groups(column)[0][self.drop_idx_[column]])

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Return the category of the largest number in the output columns of each column.

        Parameters
        ----------
        X : array
            Shape [rows, features], in memory: what `transform` returns, or scores of each category.

        Returns
        -------
        numpy.ndarray
            Shape [rows, columns]; ``"infrequent_sklearn"`` for infrequent categories. Where all numbers are 0 it is the
            category that is left out, or None if there is none and values not seen at fit are all zeros.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If it has another number of columns than the output, or zeros that stand for nothing.
        """
        check_is_fitted(self)
        widths = [len(self._labels(column)) for column in range(len(self.categories_))]
        X = checked_features(X, sum(widths))
        stops = np.cumsum(widths)
        parts = [X[:, stop - width : stop] for stop, width in zip(stops, widths, strict=True)]
        return columns_as_array([self._inverted(column, part) for column, part in enumerate(parts)])

    def _inverted(self, column: int, X: NDArray[Any]) -> NDArray[Any]:
        """Return the categories [rows] of a column from its own output columns."""
        labels, dropped = self._group_labels(column), self._dropped_group(column)
        kept = np.array([group for group in range(len(labels)) if group != dropped], np.int64)
        groups = kept[X.argmax(axis=1)] if len(kept) else np.zeros(len(X), np.int64)
        is_zero = ~X.any(axis=1)
        if dropped is not None:
            groups[is_zero] = dropped
        if dropped is not None or not is_zero.any():
            found: NDArray[Any] = labels[groups]
            return found
        has_infrequent = self._groups(column)[1] is not None
        if self.handle_unknown == "error" or (self.handle_unknown != "ignore" and has_infrequent):
            raise ArgumentError(
                f"X: row {is_zero.argmax()} is all zeros for column {self._names[column]!r}, which stands for no "
                f"category with drop={self.drop!r} and handle_unknown={self.handle_unknown!r}"
            )
        found = np.full(len(X), None, object)
        found[~is_zero] = labels[groups[~is_zero]]
        return found

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        out = [f"{name}_{label}" for column, name in enumerate(names) for label in self._labels(column)]
        return np.array(out, dtype=object)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        widths = [len(self._labels(column)) for column in range(len(self.categories_))]
        starts = np.cumsum([0, *widths], dtype=np.int64)
        return {"start": starts[:-1], "none": starts[-1:], "one": np.ones(starts[-1])}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        (width,) = p["one"].shape
        ones = xp.zeros((x.shape[0], width + 1), dtype=p["one"].dtype, device=x.device)
        at = xp.where(x < 0, p["none"], x + p["start"])  # a column more for values that have none
        if hasattr(ones, "scatter_"):
            ones.scatter_(1, at, 1.0)
        else:
            np.put_along_axis(ones, at, 1.0, axis=1)
        return ones[:, :width]


class OrdinalEncoder(GroupingEncoder, TableEncoder):
    """Number the sorted categories, as `sklearn.preprocessing.OrdinalEncoder`.

    A column with more categories than can be counted (a million) is refused, unless infrequent ones are grouped.

    Parameters
    ----------
    categories : str or list of lists
        ``"auto"``: those seen at fit, sorted; or those of each column, NaN last.
    handle_unknown : str
        What becomes of values not seen at fit: ``"error"``, or ``"use_encoded_value"``.
    unknown_value : int or NaN, optional
        Their number, for ``"use_encoded_value"``.
    encoded_missing_value : int or NaN
        The number of missing values, where there were some at fit.
    min_frequency : int or float, optional
        Categories that occur in fewer rows, or in a smaller share of them, share the last number.
    max_categories : int, optional
        Most numbers of a column, that of infrequent categories included.

    Attributes
    ----------
    categories_ : list of numpy.ndarray
        Of each column; the last one is NaN where values were missing.
    infrequent_indices_ : list of (numpy.ndarray or None)
        Which of them are infrequent.
    cut_ : list of str
        What was not counted, in words; empty where all was.

    Examples
    --------
    >>> OrdinalEncoder().fit_transform(np.array([["UA"], ["AA"], ["UA"]])).ravel()
    array([1., 0., 1.])
    """

    _counts_missing = False

    def __init__(
        self,
        *,
        categories: Any = "auto",
        handle_unknown: str = "error",
        unknown_value: float | None = None,
        encoded_missing_value: float = math.nan,
        min_frequency: float | None = None,
        max_categories: int | None = None,
    ) -> None:
        self.categories = categories
        self.handle_unknown = handle_unknown
        self.unknown_value = unknown_value
        self.encoded_missing_value = encoded_missing_value
        self.min_frequency = min_frequency
        self.max_categories = max_categories

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        self._check_grouping(("error", "use_encoded_value"))
        if (self.unknown_value is not None) != (self.handle_unknown == "use_encoded_value"):
            refuse("unknown_value", self.unknown_value, "given with handle_unknown='use_encoded_value', and only then")

    def _learn(self, found: Found) -> None:
        super()._learn(found)
        for column, name in enumerate(self._names):
            groups, _ = self._groups(column)
            used = {"unknown_value": self.unknown_value}
            if has_missing(self.categories_[column]):
                used["encoded_missing_value"] = self.encoded_missing_value
            for argument, value in used.items():
                if value is not None and 0 <= value <= max(groups, default=-1):
                    raise ArgumentError(
                        f"{argument}={value!r} is the number of a category of column {name!r}; give a negative one"
                    )

    def _slots_of(self, column: int) -> NDArray[np.int64]:
        slots = super()._slots_of(column)
        if self.handle_unknown == "error" and not self.cut_[column]:
            slots[UNSEEN] = REFUSED
            slots[MISSING] = slots[MISSING] if has_missing(self.categories_[column]) else REFUSED
        return slots

    def _tables(self) -> list[NDArray[np.float64]]:
        tables = []
        for column, categories in enumerate(self.categories_):
            groups, rare = self._groups(column)
            unknown = math.nan if self.unknown_value is None else self.unknown_value
            unseen = rare if self.cut_[column] else unknown
            missing = self.encoded_missing_value if has_missing(categories) else unseen
            tables.append(np.append(groups.astype(np.float64), [missing, unseen])[:, None])
        return tables

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Return the categories that numbers stand for.

        Parameters
        ----------
        X : array
            Shape [rows, columns], in memory: what `transform` returns.

        Returns
        -------
        numpy.ndarray
            Shape [rows, columns]; ``"infrequent_sklearn"`` for infrequent categories, and None for values not seen at
            fit, where they have a number.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If it has another number of columns than the fit, or a number that no category has.
        """
        check_is_fitted(self)
        X = checked_features(X, len(self.categories_)).astype(np.float64)
        columns = [self._inverted(column, X[:, column]) for column in range(X.shape[1])]
        is_object = self.handle_unknown == "use_encoded_value"  # whatever is in them, as scikit-learn has it
        return columns_as_array([column.astype(object) for column in columns] if is_object else columns)

    def _inverted(self, column: int, numbers: NDArray[np.float64]) -> NDArray[Any]:
        """Return the categories [rows] of a column."""
        labels = self._group_labels(column)
        is_missing = np.zeros(len(numbers), dtype=bool)
        if has_missing(self.categories_[column]):
            is_missing = _equal(numbers, self.encoded_missing_value)
        is_unknown = ~is_missing & _equal(numbers, self.unknown_value)
        codes = np.where(is_missing, len(labels) - 1, numbers)
        found = np.empty(len(numbers), object if is_unknown.any() else labels.dtype)  # None, of objects
        found[~is_unknown] = labels[positions_of(self, column, codes[~is_unknown], len(labels))]
        return found


def _equal(numbers: NDArray[np.float64], value: float | None) -> NDArray[np.bool_]:
    """Compare with a number, which may be NaN, or none at all."""
    if value is None:
        return np.zeros(len(numbers), dtype=bool)
    return np.isnan(numbers) if math.isnan(value) else numbers == value
