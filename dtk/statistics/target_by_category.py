"""What the target is in each category of a column: counts and moments, by fold, within a bound on memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.statistics.hashed_rows import hash_rows
from dtk.statistics.key_counts import joined_keys
from dtk.statistics.kinds import category_keys, infer_kind, to_floats

__all__ = ["TargetByCategory", "coded_keys", "fold_of"]

_FOLD_SEED = 0x70F0
_MISSING, _REST, _NUM_OTHERS = 0, 1, 2


@dataclass
class _Cells:
    """Statistics of the target in cells [2 + categories, folds]; first missing categories, then those left out."""

    keys: pa.Array
    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    classes: pa.Array
    class_counts: NDArray[np.float64] | None
    """[2 + categories, folds, classes]; None where there are too many."""

    def arrays(self) -> dict[str, NDArray[np.float64] | None]:
        return {name: getattr(self, name) for name in ("count", "mean", "squares", "class_counts")}


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
    max_error : int
        In how many rows a category was seen at most that was left out; 0 while exact.

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
        self.max_error = 0
        self.num_distinct = 0
        self._cells = _zeros(pa.nulls(0), num_folds, pa.nulls(0), has_classes=True)

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
            If `row` is not given.
        DataError
            If a column has no categories, or the target is infinite.
        """
        if row is None:
            raise ArgumentError("row=None does not number the values; give one global row number for each")
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
        place = (np.where(codes < 0, _MISSING, codes + _NUM_OTHERS) * self.num_folds + fold)[present]
        shape = (len(keys) + _NUM_OTHERS, self.num_folds)
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
        self._absorb(_Cells(keys, count, mean, squares, classes, class_counts))

    def _absorb(self, other: _Cells) -> None:
        self._cells = _joined(self._cells, other, self.max_classes)
        self.num_distinct = max(self.num_distinct, len(self._cells.keys))
        if len(self._cells.keys) > self.max_size:
            self.max_error += _cut(self._cells, self.max_size // 2)

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
        self.max_error += other.max_error
        self.num_distinct = max(self.num_distinct, other.num_distinct)
        self._absorb(other._cells)

    @property
    def is_exact(self) -> bool:
        """Whether all categories are there, with all their rows."""
        return self.max_error == 0

    @property
    def keys(self) -> pa.Array:
        """The categories, see `category_keys`."""
        return self._cells.keys

    @property
    def classes(self) -> pa.Array | None:
        """The values of the target; None where there are more than `max_classes`, or fractions among them."""
        return None if self._cells.class_counts is None or self.has_fractions else self._cells.classes

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
        cells, kept = self._cells, np.arange(self.num_folds) != without_fold
        return _pooled(cells.count[:, kept], cells.mean[:, kept], cells.squares[:, kept], axis=1)

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
        assert self._cells.class_counts is not None
        kept = np.arange(self.num_folds) != without_fold
        summed: NDArray[np.float64] = self._cells.class_counts[:, kept].sum(axis=1)
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
            "count": count[_NUM_OTHERS:][order],
            "mean": mean[_NUM_OTHERS:][order],
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
        cells = self._cells
        arrays = {name: None if array is None else array.tolist() for name, array in cells.arrays().items()}
        state = {name: value for name, value in vars(self).items() if name != "_cells"}
        keys = {"keys": cells.keys.to_pylist(), "key_dtype": str(cells.keys.type)}
        classes = {"classes": cells.classes.to_pylist(), "class_dtype": str(cells.classes.type)}
        return {**state, **keys, **classes, **arrays}

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
        for name in vars(made):
            if name != "_cells":
                setattr(made, name, state[name])
        keys = pa.array(state["keys"], pa.type_for_alias(state["key_dtype"]))
        classes = pa.array(state["classes"], pa.type_for_alias(state["class_dtype"]))
        made._cells = _zeros(keys, made.num_folds, classes, has_classes=True)
        for name, empty in made._cells.arrays().items():
            assert empty is not None
            found = None if state[name] is None else np.array(state[name], np.float64).reshape(empty.shape)
            setattr(made._cells, name, found)
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


def _zeros(keys: pa.Array, num_folds: int, classes: pa.Array, *, has_classes: bool) -> _Cells:
    shape = (len(keys) + _NUM_OTHERS, num_folds)
    class_counts = np.zeros((*shape, len(classes))) if has_classes else None
    return _Cells(keys, np.zeros(shape), np.zeros(shape), np.zeros(shape), classes, class_counts)


def coded_keys(values: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return the distinct keys of values, and which one each value has.

    Parameters
    ----------
    values : pyarrow.Array
        Shape [rows]; quick for dictionaries.

    Returns
    -------
    keys : pyarrow.Array
        See `category_keys`; distinct, none of them missing.
    codes : numpy.ndarray
        int64 [rows]: the position of the key, -1 where the value is missing.

    Raises
    ------
    DataError
        If the type has no categories.
    """
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_null(values.type):
        return pa.nulls(0), np.full(len(values), -1)
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    encoded = category_keys(values.dictionary).dictionary_encode()  # two values may be one key
    keys = encoded.dictionary
    present = keys.is_valid()
    if pa.types.is_floating(keys.type):
        present = pc.and_(present, pc.invert(pc.fill_null(pc.is_nan(keys), True)))
    is_present = present.to_numpy(zero_copy_only=False)
    renumbered = np.where(is_present, np.cumsum(is_present) - 1, -1)
    of_value = np.append(renumbered, -1)[encoded.indices.fill_null(len(keys)).to_numpy()]
    codes: NDArray[np.int64] = np.append(of_value, -1)[values.indices.cast(pa.int64()).fill_null(-1).to_numpy()]
    return keys.filter(present), codes


def _joined(mine: _Cells, other: _Cells, max_classes: int) -> _Cells:
    """Return the sum of two tables of cells, by the union of their keys."""
    keys, rows, other_rows = _union(mine.keys, other.keys)
    classes, labels, other_labels = _union(mine.classes, other.classes)
    rows = np.append([_MISSING, _REST], rows + _NUM_OTHERS)
    other_rows = np.append([_MISSING, _REST], other_rows + _NUM_OTHERS)
    has_classes = mine.class_counts is not None and other.class_counts is not None and len(classes) <= max_classes
    if not has_classes:
        classes = classes[:0]
    joined = _zeros(keys, mine.count.shape[1], classes, has_classes=has_classes)
    both = {name: np.zeros((2, *joined.count.shape)) for name in ("count", "mean", "squares")}
    for name, array in both.items():
        array[0, rows], array[1, other_rows] = getattr(mine, name), getattr(other, name)
    joined.count, joined.mean, joined.squares = _pooled(**both, axis=0)
    if joined.class_counts is not None:
        for at, columns, counts in ((rows, labels, mine.class_counts), (other_rows, other_labels, other.class_counts)):
            assert counts is not None
            found = np.zeros((len(counts), *joined.class_counts.shape[1:]))
            found[:, :, columns] = counts
            joined.class_counts[at] += found
    return joined


def _union(mine: pa.Array, other: pa.Array) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.int64]]:
    """Return the union of two arrays of distinct keys, and the positions of both in it."""
    parts = [part for part in (mine, other) if len(part)]
    if not parts:
        return mine, np.empty(0, np.int64), np.empty(0, np.int64)
    encoded = joined_keys(parts).dictionary_encode()
    positions = encoded.indices.to_numpy().astype(np.int64)
    return encoded.dictionary, positions[: len(mine)], positions[len(mine) :]


def _pooled(
    count: NDArray[np.float64], mean: NDArray[np.float64], squares: NDArray[np.float64], axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return count, mean and squared distances of several groups taken together."""
    total = count.sum(axis=axis, keepdims=True)
    center = (count * mean).sum(axis=axis, keepdims=True) / np.maximum(total, 1)
    spread = squares + count * (mean - center) ** 2
    return total.squeeze(axis), center.squeeze(axis), spread.sum(axis=axis)


def _cut(cells: _Cells, num_kept: int) -> int:
    """Let go of the rarest categories, in place, and return how often one of them occurred at most."""
    totals = cells.count.sum(axis=1)[_NUM_OTHERS:]
    kept = np.sort(np.argsort(-totals, kind="stable")[:num_kept])
    is_kept = np.zeros(len(totals), dtype=bool)
    is_kept[kept] = True
    gone = np.append([_REST], np.flatnonzero(~is_kept) + _NUM_OTHERS)
    rest = _pooled(cells.count[gone], cells.mean[gone], cells.squares[gone], axis=0)
    cells.count[_REST], cells.mean[_REST], cells.squares[_REST] = rest
    if cells.class_counts is not None:
        cells.class_counts[_REST] = cells.class_counts[gone].sum(axis=0)
    stays = np.append([_MISSING, _REST], kept + _NUM_OTHERS)
    for name, array in cells.arrays().items():
        setattr(cells, name, None if array is None else array[stays])
    cells.keys = cells.keys.take(pa.array(kept))
    return int(totals[~is_kept].max())
