"""The target in cells: one for each category and fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.statistics.key_counts import joined_keys
from dtk.statistics.serial import array_from_json, array_to_json, column_from_json, column_to_json

__all__ = ["MISSING", "NUM_OTHERS", "TargetCells", "pooled"]

MISSING: Final = 0
"""The row of cells where the category is missing."""
NUM_OTHERS: Final = 2
"""Rows of cells before those of the categories: where these are missing, and where they were let go."""
_REST: Final = 1

Floats = NDArray[np.float64]


@dataclass
class TargetCells:
    """Statistics of the target in cells [2 + categories, folds]; first missing categories, then those let go.

    Parameters
    ----------
    keys : pyarrow.Array
        The categories, all different.
    count, mean, squares : numpy.ndarray
        float64 [2 + categories, folds]: rows, their mean, and the sum of squared distances from it.
    classes : pyarrow.Array
        The values of the target, all different.
    class_counts : numpy.ndarray or None
        float64 [2 + categories, folds, classes]; None where there are too many classes.
    """

    keys: pa.Array
    count: Floats
    mean: Floats
    squares: Floats
    classes: pa.Array
    class_counts: Floats | None

    @classmethod
    def empty(cls, keys: pa.Array, num_folds: int, classes: pa.Array, *, has_classes: bool) -> Self:
        """Return cells of no rows.

        Parameters
        ----------
        keys : pyarrow.Array
            The categories.
        num_folds : int
            How many folds.
        classes : pyarrow.Array
            The values of the target.
        has_classes : bool
            Whether to count them.

        Returns
        -------
        TargetCells
            Zeros.
        """
        shape = (len(keys) + NUM_OTHERS, num_folds)
        class_counts = np.zeros((*shape, len(classes))) if has_classes else None
        return cls(keys, np.zeros(shape), np.zeros(shape), np.zeros(shape), classes, class_counts)

    def joined(self, other: TargetCells, max_classes: int) -> TargetCells:
        """Return the cells of both, by the union of their categories.

        Parameters
        ----------
        other : TargetCells
            Of other rows, in as many folds.
        max_classes : int
            Most classes to count.

        Returns
        -------
        TargetCells
            New ones.
        """
        keys, rows, other_rows = _union(self.keys, other.keys)
        classes, labels, other_labels = _union(self.classes, other.classes)
        rows, other_rows = (np.append([MISSING, _REST], found + NUM_OTHERS) for found in (rows, other_rows))
        has_classes = self.class_counts is not None and other.class_counts is not None and len(classes) <= max_classes
        if not has_classes:
            classes = classes[:0]
        found = TargetCells.empty(keys, self.count.shape[1], classes, has_classes=has_classes)
        both = {name: np.zeros((2, *found.count.shape)) for name in ("count", "mean", "squares")}
        for name, array in both.items():
            array[0, rows], array[1, other_rows] = getattr(self, name), getattr(other, name)
        found.count, found.mean, found.squares = pooled(**both, axis=0)
        if found.class_counts is not None:
            assert self.class_counts is not None
            assert other.class_counts is not None
            folds = np.arange(self.count.shape[1])
            found.class_counts[np.ix_(rows, folds, labels)] = self.class_counts
            found.class_counts[np.ix_(other_rows, folds, other_labels)] += other.class_counts
        return found

    def cut(self, num_kept: int) -> tuple[TargetCells, int]:
        """Let go of the rarest categories.

        Parameters
        ----------
        num_kept : int
            How many stay: fewer than there are.

        Returns
        -------
        cells : TargetCells
            New ones.
        max_rows : int
            In how many rows one of the others was at most.
        """
        totals = self.count.sum(axis=1)[NUM_OTHERS:]
        kept = np.sort(np.argsort(-totals, kind="stable")[:num_kept])
        gone = np.setdiff1d(np.arange(len(totals)), kept)
        stays, rest = np.append([MISSING, _REST], kept + NUM_OTHERS), np.append([_REST], gone + NUM_OTHERS)
        count, mean, squares = self.count[stays], self.mean[stays], self.squares[stays]
        of_rest = pooled(self.count[rest], self.mean[rest], self.squares[rest], axis=0)
        count[_REST], mean[_REST], squares[_REST] = of_rest
        class_counts = None
        if self.class_counts is not None:
            class_counts = self.class_counts[stays]
            class_counts[_REST] = self.class_counts[rest].sum(axis=0)
        cells = TargetCells(self.keys.take(pa.array(kept)), count, mean, squares, self.classes, class_counts)
        return cells, int(totals[gone].max())

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            Of all fields.
        """
        return {name: _to_json(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild them from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned.

        Returns
        -------
        TargetCells
            Equal to the first, to the last bit.
        """
        return cls(**{name: _from_json(value) for name, value in state.items()})


def _to_json(value: pa.Array | np.ndarray | None) -> dict[str, Any] | None:
    if isinstance(value, pa.Array):
        return column_to_json(value)
    return None if value is None else array_to_json(value)


def _from_json(state: dict[str, Any] | None) -> Any:
    if state is None:
        return None
    return column_from_json(state) if "arrow" in state else array_from_json(state)


def _union(mine: pa.Array, other: pa.Array) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.int64]]:
    """Return the union of two arrays of distinct keys, and the positions of both in it."""
    parts = [part for part in (mine, other) if len(part)]
    if not parts:
        return mine, np.empty(0, np.int64), np.empty(0, np.int64)
    encoded = joined_keys(parts).dictionary_encode()
    positions = encoded.indices.to_numpy().astype(np.int64)
    return encoded.dictionary, positions[: len(mine)], positions[len(mine) :]


def pooled(count: Floats, mean: Floats, squares: Floats, axis: int) -> tuple[Floats, Floats, Floats]:
    """Take several groups together.

    Parameters
    ----------
    count, mean, squares : numpy.ndarray
        float64: rows of each group, their mean, and the sum of squared distances from it.
    axis : int
        Along which the groups lie.

    Returns
    -------
    tuple of numpy.ndarray
        The same three, without that axis.
    """
    total = count.sum(axis=axis, keepdims=True)
    center = (count * mean).sum(axis=axis, keepdims=True) / np.maximum(total, 1)
    spread = squares + count * (mean - center) ** 2
    return total.squeeze(axis), center.squeeze(axis), spread.sum(axis=axis)
