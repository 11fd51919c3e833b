"""Encode categories: by a column each, or a number each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms.base import Found, refuse
from dtk.preparation.transforms.vocabularies import (
    MISSING,
    REFUSED,
    UNSEEN,
    CategoryEncoder,
    TableEncoder,
    array_of,
    has_missing,
    infrequent,
    known_values,
)
from dtk.preparation.values import vocabulary_keys
from dtk.statistics import Categories

__all__ = ["OneHotEncoder", "OrdinalEncoder"]


class _GroupingEncoder(CategoryEncoder):
    """An encoder of sorted categories, of which the infrequent ones may be one."""

    _counts_missing: bool
    """Whether missing values may be infrequent, too."""

    categories: Any
    handle_unknown: str
    min_frequency: float | None
    max_categories: int | None

    def _check_grouping(self, policies: Sequence[str]) -> None:
        if self.handle_unknown not in policies:
            refuse("handle_unknown", self.handle_unknown, f"one of {', '.join(map(repr, policies))}")
        if self.max_categories is not None and not (isinstance(self.max_categories, Integral) and self.max_categories):
            refuse("max_categories", self.max_categories, "a whole number from 1 on")
        least = self.min_frequency
        is_count = isinstance(least, Integral) and least >= 1
        is_share = isinstance(least, Real) and not isinstance(least, Integral) and 0 < least < 1
        if least is not None and not (is_count or is_share):
            refuse("min_frequency", least, "a whole number from 1 on, or a share of the rows between 0 and 1")
        if isinstance(self.categories, str) and self.categories != "auto":
            refuse("categories", self.categories, "'auto' or a list of lists")

    def _learn(self, found: Found) -> None:
        counts: Sequence[Categories] = found["counts"]
        names = self._names
        if not isinstance(self.categories, str) and len(self.categories) != len(names):
            raise ArgumentError(f"categories has {len(self.categories)} lists for {len(names)} columns")
        self.categories_, self.infrequent_indices_ = [], []
        self._warn_of_cuts(counts)
        is_grouping = self.min_frequency is not None or self.max_categories is not None
        for number, (name, each) in enumerate(zip(names, counts, strict=True)):
            by_value = each.counts
            if isinstance(self.categories, str):
                if not (each.is_exact or is_grouping):
                    raise DataError(
                        f"column {name!r} has too many categories ({self.cut_[number]}); give max_categories= or "
                        "min_frequency=, or take HashingEncoder or EmbeddingCodes"
                    )
                categories = array_of(sorted(by_value), with_missing=each.missing > 0)
            else:
                categories = _given(name, self.categories[number])
                if self.handle_unknown == "error":
                    _refuse_others(name, categories, each)
            self.categories_.append(categories)
            self.infrequent_indices_.append(self._infrequent(categories, each))
        self._settle()

    def _infrequent(self, categories: NDArray[Any], counts: Categories) -> NDArray[np.int64] | None:
        by_value = counts.counts
        keys = vocabulary_keys(known_values(categories)).to_pylist() if len(known_values(categories)) else []
        found = [by_value.get(key, 0) for key in keys]
        if has_missing(categories) and self._counts_missing:
            found.append(counts.missing)
        num_rows = counts.count + counts.missing
        mask = infrequent(np.array(found, np.int64), num_rows, self.min_frequency, self.max_categories)
        return np.flatnonzero(mask) if mask.any() else None

    @property
    def infrequent_categories_(self) -> list[NDArray[Any] | None]:
        """The infrequent categories of each column; None where there are none."""
        pairs = zip(self.categories_, self.infrequent_indices_, strict=True)
        return [None if chosen is None else categories[chosen] for categories, chosen in pairs]

    def _groups(self, column: int) -> tuple[NDArray[np.int64], int | None]:
        """Return the group of each category that can be infrequent, and the infrequent one, which is the last."""
        size = len(self.categories_[column])
        if has_missing(self.categories_[column]) and not self._counts_missing:
            size -= 1
        chosen = self.infrequent_indices_[column]
        if chosen is None and not self.cut_[column]:
            return np.arange(size), None
        is_infrequent = np.zeros(size, dtype=bool)
        is_infrequent[[] if chosen is None else chosen] = True
        num_frequent = int((~is_infrequent).sum())
        return np.where(is_infrequent, num_frequent, np.cumsum(~is_infrequent) - 1), num_frequent


class OneHotEncoder(_GroupingEncoder):
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
        groups, rare = self._groups(column)
        values = self.categories_[column].tolist()
        labels = [value for value, group in zip(values, groups, strict=True) if group != rare]
        labels += [] if rare is None else ["infrequent_sklearn"]
        if self.drop_idx_ is not None and self.drop_idx_[column] is not None:
            del labels[int(groups[self.drop_idx_[column]])]
        return labels

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


class OrdinalEncoder(_GroupingEncoder, TableEncoder):
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


def _given(name: str, values: Sequence[Any]) -> NDArray[Any]:
    """Return the categories that a user gave for a column."""
    raw = np.array(values, dtype=object)
    with_missing = has_missing(raw)
    plain = raw[: len(raw) - with_missing].tolist()
    if any(has_missing(np.array([value], dtype=object)) for value in plain) or len(set(plain)) < len(plain):
        raise ArgumentError(f"categories of column {name!r} must differ, and NaN be the last one: {list(values)!r}")
    return array_of(plain, with_missing=with_missing)


def _refuse_others(name: str, categories: NDArray[Any], counts: Categories) -> None:
    known = set(vocabulary_keys(known_values(categories)).to_pylist())
    others = [value for value in counts.counts if value not in known]
    if counts.missing and not has_missing(categories):
        others.append(math.nan)
    if others:
        raise DataError(
            f"column {name!r} holds {others[0]!r}, which is none of its categories; give another handle_unknown"
        )
