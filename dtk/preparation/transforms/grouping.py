"""Encoders of sorted categories, of which the infrequent ones may be one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms.base import Found, refuse
from dtk.preparation.transforms.vocabularies import (
    CategoryEncoder,
    array_of,
    has_missing,
    infrequent,
    known_values,
)
from dtk.preparation.values import vocabulary_keys
from dtk.statistics import Categories

__all__ = ["GroupingEncoder"]


class GroupingEncoder(CategoryEncoder):
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

    def _group_labels(self, column: int) -> NDArray[Any]:
        """Return what each group stands for, and NaN last where missing values are in no group."""
        groups, rare = self._groups(column)
        categories = self.categories_[column]
        if rare is None:
            return categories
        values = categories.tolist()
        labels = [value for value, group in zip(values, groups, strict=False) if group != rare]
        labels += ["infrequent_sklearn", *values[len(groups) :]]
        return np.fromiter(labels, object, len(labels))


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
