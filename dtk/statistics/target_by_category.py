"""What the target is in each category of a column: counts and moments, by fold, within a bound on memory."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.statistics.hashed_rows import checked_rows, hash_rows
from dtk.statistics.keys import coded_keys
from dtk.statistics.kinds import infer_kind, to_floats
from dtk.statistics.target_cells import MISSING, NUM_OTHERS, TargetCells, pooled

__all__ = ["TargetByCategory", "fold_of"]

_FOLD_SEED = 0x70F0
_COUNTED = ("num_rows", "missing_targets", "has_fractions", "is_number", "_max_error", "_num_distinct")


class TargetByCategory:
    """How often each category of a column occurs in each fold of the rows, and what the target is there.

    Exact while the column has at most `max_size` categories. Beyond that the frequent ones stay; one that is left out
    occurred at most `max_error` times before, and what is said of one that came back lacks as many rows at most.

    Parameters
    ----------
    num_folds : int
        In how many folds the rows are dealt, by a hash of their numbers.
    seed : int
        Another seed deals them otherwise.
    max_size : int
        Most categories to hold, at least 2; 8 bytes each for 3 numbers and the classes in every fold.
    max_classes : int
        Most values of the target that are counted one by one; of more, there are moments only.

    Attributes
    ----------
    num_rows : int
        Rows seen.
    missing_targets : int
        In how many of them the target is missing; these count nowhere else.
    has_fractions : bool
        Whether some value of the target is no whole number.
    is_number : bool
        Whether the target is a number, so that it has moments.

    Raises
    ------
    ArgumentError
        If a parameter is out of its range.

    Notes
    -----
    Moments merge by the method of Chan, Golub and LeVeque (1979), see `Moments`.

    Examples
    --------
    >>> statistic = TargetByCategory(num_folds=2)
    >>> table = pa.table({"value": ["a", "b", "a"], "target": [1.0, 2.0, 3.0]})
    >>> statistic.update(table, np.arange(3))
    >>> statistic.result()["categories"], statistic.result()["mean"].tolist()
    (['a', 'b'], [2.0, 2.0])
    """

    def __init__(self, num_folds: int = 5, *, seed: int = 0, max_size: int = 100_000, max_classes: int = 100) -> None:
        for name, value, least in (
            ("num_folds", num_folds, 2),
            ("max_size", max_size, 2),
            ("max_classes", max_classes, 2),
        ):
            if value < least:
                raise ArgumentError(f"{name}={value!r} must be at least {least}")
        self.num_folds = num_folds
        self.seed = seed
        self.max_size = max_size
        self.max_classes = max_classes
        self.num_rows = 0
        self.missing_targets = 0
        self.has_fractions = False
        self.is_number = True
        self._max_error = 0
        self._num_distinct = 0
        # each of more than twice as many categories as the next
        self._parts = [TargetCells.empty(pa.nulls(0), num_folds, pa.nulls(0), has_classes=True)]

    def update(self, values: pa.Table, row: np.ndarray | None = None) -> None:
        """Take in one chunk.

        Parameters
        ----------
        values : pyarrow.Table
            Shape [rows]: the columns ``"value"`` and ``"target"``.
        row : numpy.ndarray
            int64 [rows]: the number of each row in the whole data.

        Raises
        ------
        ArgumentError
            If `row` is not given, or has another length than `values`.
        DataError
            If a column has no categories, or the target is infinite.
        """
        row = checked_rows(row, len(values))
        start = 0
        for batch in values.to_batches():
            rows = row[start : start + len(batch)]
            start += len(batch)
            self._take_in(batch["value"], batch["target"], fold_of(rows, self.num_folds, self.seed))

    def _take_in(self, values: pa.Array, target: pa.Array, fold: NDArray[np.int64]) -> None:
        if not len(values):
            return
        self.num_rows += len(values)
        is_number = infer_kind(target.type) in ("number", "boolean")
        self.is_number &= is_number
        numbers = to_floats(target) if is_number else np.zeros(len(target))
        if np.isinf(numbers).any():
            raise DataError("the target holds infinite values; filter them out first")
        present = ~np.isnan(numbers)
        self.has_fractions = self.has_fractions or bool((numbers[present] != np.floor(numbers[present])).any())
        classes, labels = pa.nulls(0), np.empty(0, np.int64)
        if not self.has_fractions:  # or each row would be a class of its own
            classes, labels = coded_keys(target)
            present = labels >= 0
            labels = labels[present]
        numbers = numbers[present]
        self.missing_targets += int((~present).sum())
        keys, codes = coded_keys(values)
        place = (np.where(codes < 0, MISSING, codes + NUM_OTHERS) * self.num_folds + fold)[present]
        shape = (len(keys) + NUM_OTHERS, self.num_folds)
        size = shape[0] * shape[1]
        count = np.bincount(place, minlength=size).astype(np.float64)
        mean = np.bincount(place, weights=numbers, minlength=size) / np.maximum(count, 1)
        squares = np.bincount(place, weights=(numbers - mean[place]) ** 2, minlength=size).astype(np.float64)
        class_counts = None
        if not self.has_fractions and len(classes) <= self.max_classes:
            cells = place * len(classes) + labels
            class_counts = np.bincount(cells, minlength=size * len(classes)).astype(np.float64)
            class_counts = class_counts.reshape(*shape, len(classes))
        count, mean, squares = count.reshape(shape), mean.reshape(shape), squares.reshape(shape)
        self._absorb(TargetCells(keys, count, mean, squares, classes, class_counts))

    def _absorb(self, cells: TargetCells) -> None:
        self._parts.append(cells)
        self._cut()
        while len(self._parts) > 1 and len(self._parts[-2].keys) <= 2 * len(self._parts[-1].keys):
            self._join_last()  # parts stay few, and each category is copied a few times only

    def _join_last(self) -> None:
        self._parts[-2:] = [self._parts[-2].joined(self._parts[-1], self.max_classes)]
        self._cut()

    def _cut(self) -> None:
        """Hold no more categories than may be."""
        num_keys = len(self._parts[-1].keys)
        self._num_distinct = max(self._num_distinct, num_keys)
        if num_keys > self.max_size:
            self._parts[-1], most_rows = self._parts[-1].cut(self.max_size // 2)
            self._max_error += most_rows

    def _join(self) -> TargetCells:
        """Return all that was seen, which may cut some."""
        while len(self._parts) > 1:
            self._join_last()
        return self._parts[0]

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : TargetByCategory
            Left as it is; made with the same parameters.
        """
        self.num_rows += other.num_rows
        self.missing_targets += other.missing_targets
        self.has_fractions |= other.has_fractions
        self.is_number &= other.is_number
        self._max_error += other._max_error
        self._num_distinct = max(self._num_distinct, other._num_distinct)
        for cells in other._parts:
            self._absorb(cells)

    @property
    def is_exact(self) -> bool:
        """Whether all categories are there, with all their rows."""
        return self.max_error == 0

    @property
    def max_error(self) -> int:
        """In how many rows a category was seen at most that was left out; 0 while exact."""
        self._join()
        return self._max_error

    @property
    def num_distinct(self) -> int:
        """How many categories there are; a lower bound unless exact."""
        self._join()
        return self._num_distinct

    @property
    def keys(self) -> pa.Array:
        """The categories, see `category_keys`."""
        return self._join().keys

    @property
    def classes(self) -> pa.Array | None:
        """The values of the target; None where there are more than `max_classes`, or fractions among them."""
        cells = self._join()
        return None if cells.class_counts is None or self.has_fractions else cells.classes

    def moments(self, without_fold: int | None = None) -> tuple[NDArray[np.float64], ...]:
        """Return moments of the target in each category.

        Parameters
        ----------
        without_fold : int, optional
            The fold that is left out.

        Returns
        -------
        tuple of numpy.ndarray
            Three float64 [2 + categories]: count, mean and sum of squared distances from it; first where the category
            is missing, then for those left out, then by `keys`.
        """
        cells, kept = self._join(), np.arange(self.num_folds) != without_fold
        return pooled(cells.count[:, kept], cells.mean[:, kept], cells.squares[:, kept], axis=1)

    def class_counts(self, without_fold: int | None = None) -> NDArray[np.float64]:
        """Return how often each class occurs in each category.

        Parameters
        ----------
        without_fold : int, optional
            The fold that is left out.

        Returns
        -------
        numpy.ndarray
            float64 [2 + categories, classes], in the order of `moments` and of `classes`.
        """
        class_counts = self._join().class_counts
        assert class_counts is not None
        kept = np.arange(self.num_folds) != without_fold
        summed: NDArray[np.float64] = class_counts[:, kept].sum(axis=1)
        return summed

    def result(self) -> dict[str, Any]:
        """Return what was seen.

        Returns
        -------
        dict
            ``categories``, sorted; ``count`` and ``mean`` float64 [categories]; ``classes`` or None; ``max_error``.
        """
        count, mean, _ = self.moments()
        order = pc.sort_indices(self.keys).to_numpy()
        return {
            "categories": self.keys.take(pa.array(order)).to_pylist(),
            "count": count[NUM_OTHERS:][order],
            "mean": mean[NUM_OTHERS:][order],
            "classes": None if self.classes is None else self.classes.to_pylist(),
            "max_error": self.max_error,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            The whole state.
        """
        cells = self._join().to_dict()
        state = {name: value for name, value in vars(self).items() if name != "_parts"}
        return {**state, "cells": cells}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        TargetByCategory
            Equal to the first, to the last bit.
        """
        made = cls(state["num_folds"], seed=state["seed"], max_size=state["max_size"], max_classes=state["max_classes"])
        for name in _COUNTED:
            setattr(made, name, state[name])
        made._parts = [TargetCells.from_dict(state["cells"])]
        return made


def fold_of(row: np.ndarray, num_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Deal rows to folds by a hash of their numbers: any chunking of the same numbers gives the same folds.

    Parameters
    ----------
    row : numpy.ndarray
        int64 [rows].
    num_folds : int
        How many folds.
    seed : int
        Another seed deals them otherwise.

    Returns
    -------
    numpy.ndarray
        int64 [rows].
    """
    return (hash_rows(row, seed=_FOLD_SEED + seed) % np.uint64(num_folds)).astype(np.int64)
