"""What transforms of categories have in common: the categories seen at fit, and the position of values among them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dtk.errors import DataError
from dtk.preparation.schema import positional_names
from dtk.preparation.transforms.base import Columns, Need, Transform
from dtk.preparation.values import Value, check_type, lookup, vocabulary_keys
from dtk.statistics import Categories

__all__ = [
    "MISSING",
    "REFUSED",
    "UNSEEN",
    "CategoryEncoder",
    "TableEncoder",
    "array_of",
    "has_missing",
    "infrequent",
    "known_values",
    "positions_in",
]

MISSING: Final = -2
"""The position of a missing value: the last but one, after those of all categories."""
UNSEEN: Final = -1
"""The position of a value that was not seen at fit: the last one."""
REFUSED: Final = -3
"""The code of values that are refused."""

_COUNTS: Final = Need(Categories)
_EXACT_FLOATS: Final = 2**53


class CategoryEncoder(Transform):
    """A transform that looks values up among the categories seen at fit.

    ``categories_`` are arrays, in the order of their positions; the last one is NaN where values were missing at fit.
    """

    _kind = "category"
    _codes = True

    def _needs(self) -> Mapping[str, Need]:
        return {"counts": _COUNTS}

    def _check_again(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        for name, found, (keys, _) in zip(names, types, self._lookups, strict=True):
            check_type(name, found, "category", keys.type)

    @property
    def _names(self) -> Sequence[str]:
        return list(getattr(self, "feature_names_in_", positional_names(self.n_features_in_)))

    def _slots_of(self, column: int) -> NDArray[np.int64]:
        """Return the code of each position [categories + 2]: known values, missing ones, unseen ones."""
        return np.arange(len(known_values(self.categories_[column])) + 2)

    @property
    def _lookups(self) -> list[tuple[pa.Array, NDArray[np.int64]]]:
        """What values are compared with, and their codes: a pair a column."""
        found: list[tuple[pa.Array, NDArray[np.int64]]] | None = self.__dict__.get("_found_lookups")
        if found is None:
            keys = [vocabulary_keys(known_values(categories)) for categories in self.categories_]
            found = [(each, self._slots_of(column)) for column, each in enumerate(keys)]
            self._found_lookups = found
        return found

    def _settle(self) -> None:
        """Make the lookups anew, now and not in the first `transform`."""
        self.__dict__.pop("_found_lookups", None)
        assert len(self._lookups) == self.n_features_in_

    def _encode(self, names: Sequence[str], columns: Columns) -> NDArray[np.int64]:
        codes = np.empty((len(columns[0]) if columns else 0, len(names)), np.int64)
        for number, (name, column) in enumerate(zip(names, columns, strict=True)):
            keys, slots = self._lookups[number]
            positions = positions_in(name, column, keys)
            codes[:, number] = slots[positions]
            if slots[UNSEEN] == REFUSED or slots[MISSING] == REFUSED:
                _refuse_unseen(name, column, codes[:, number])
            self._note_unseen(name, positions)
        return codes

    def _note_unseen(self, name: str, positions: NDArray[np.int64]) -> None:
        """Say that values were not seen at fit, where the user wants to know."""

    def _warn_of_cuts(self, counts: Sequence[Categories]) -> None:
        """Keep, and say, which columns had more categories than are counted."""
        self.cut_ = [_cut(each) for each in counts]
        said = [f"column {name!r}: {text}" for name, text in zip(self._names, self.cut_, strict=True) if text]
        if said:
            warnings.warn("; ".join(said), UserWarning, stacklevel=2)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


class TableEncoder(CategoryEncoder):
    """An encoder that has one or more numbers for each category, for missing and for unseen values."""

    def _tables(self) -> list[NDArray[np.float64]]:
        """Return an array [categories + 2, width] a column, for known values, missing and unseen ones."""
        raise NotImplementedError

    def _parameters(self) -> dict[str, NDArray[Any]]:
        tables = self._tables()
        sizes = np.cumsum([0, *map(len, tables)], dtype=np.int64)
        return {"table": np.concatenate(tables) if tables else np.empty((0, 1)), "offset": sizes[:-1]}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        flat = xp.reshape(x + p["offset"], (-1,))
        return xp.reshape(xp.take(p["table"], flat, axis=0), (x.shape[0], x.shape[1] * p["table"].shape[1]))


def positions_in(name: str, column: pa.ChunkedArray, keys: pa.Array) -> NDArray[np.int64]:
    """Find the position of every value in a vocabulary, and tell missing from unseen ones.

    Parameters
    ----------
    name : str
        Of the column, for the error.
    column : pyarrow.ChunkedArray
        Shape [n].
    keys : pyarrow.Array
        The vocabulary, as `vocabulary_keys` returns it.

    Returns
    -------
    numpy.ndarray
        int64 [n]: positions, `MISSING` or `UNSEEN`.

    Raises
    ------
    DataError
        If the values are of another family than the vocabulary, such as strings instead of numbers.
    """
    if not len(keys):
        is_missing = _is_missing(column)
        return np.where(is_missing, MISSING, UNSEEN)
    positions = lookup(name, column, keys)
    unknown = np.flatnonzero(positions < 0)
    if len(unknown):
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())  # views can't be taken from
        is_missing = _is_missing(column.take(pa.array(unknown)))
        positions[unknown[is_missing]] = MISSING
    return positions


def _is_missing(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    missing = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
    return missing.to_numpy()  # type: ignore[no-any-return]


def _refuse_unseen(name: str, column: pa.ChunkedArray, codes: NDArray[np.int64]) -> None:
    refused = np.flatnonzero(codes == REFUSED)
    if len(refused):
        value = column[int(refused[0])].as_py()
        raise DataError(
            f"column {name!r} holds {value!r}, which was not seen at fit; give another handle_unknown, or fit on data "
            "that has it"
        )


def has_missing(categories: NDArray[Any]) -> bool:
    """Say whether the last one of an array of categories stands for missing values.

    Parameters
    ----------
    categories : numpy.ndarray
        Of one column.

    Returns
    -------
    bool
        True if it is NaN or None.
    """
    if not len(categories):
        return False
    last = categories[-1]
    return last is None or (isinstance(last, float | np.floating) and bool(np.isnan(last)))


def known_values(categories: NDArray[Any]) -> list[Value]:
    """Return the categories of a column without the one for missing values.

    Parameters
    ----------
    categories : numpy.ndarray
        Of one column.

    Returns
    -------
    list
        Plain values, in order.
    """
    values: list[Value] = categories[: len(categories) - has_missing(categories)].tolist()
    return values


def array_of(values: Sequence[Any], *, with_missing: bool) -> NDArray[Any]:
    """Return categories as an array of the type that scikit-learn would use.

    Parameters
    ----------
    values : sequence
        Strings, numbers or booleans.
    with_missing : bool
        Whether NaN comes last.

    Returns
    -------
    numpy.ndarray
        Of objects for strings, else of numbers or booleans where that keeps the values.
    """
    plain: Any = np.array(values)
    if not len(values) or plain.dtype.kind in "USO":
        plain = np.array(values, dtype=object)
    if not with_missing:
        return plain  # type: ignore[no-any-return]
    is_exact = plain.dtype.kind == "f" or (plain.dtype.kind in "iu" and abs(plain).max() < _EXACT_FLOATS)
    return np.append(plain.astype(np.float64 if is_exact else object), math.nan)


def infrequent(
    counts: NDArray[np.int64], num_rows: int, min_frequency: float | None, max_categories: int | None
) -> NDArray[np.bool_]:
    """Tell which categories are infrequent, by scikit-learn's rules.

    Parameters
    ----------
    counts : numpy.ndarray
        int64 [categories]: how often each occurs.
    num_rows : int
        In how many rows.
    min_frequency : float or int or None
        The smallest count that is frequent, or share of the rows.
    max_categories : int or None
        Most categories, that of all infrequent ones included.

    Returns
    -------
    numpy.ndarray
        bool [categories].
    """
    mask = np.zeros(len(counts), dtype=bool)
    if min_frequency is not None:
        is_share = isinstance(min_frequency, float | np.floating)
        mask = counts < (num_rows * min_frequency if is_share else min_frequency)
    if max_categories is not None and max_categories < len(counts) - mask.sum() + 1:
        num_kept = max_categories - 1
        smallest = np.argsort(counts, kind="stable")
        mask[smallest[: len(counts) - num_kept]] = True
    return mask


def _cut(counts: Categories) -> str:
    """Say what was cut, in words; empty where all is known."""
    if counts.is_exact:
        return ""
    return (
        f"{len(counts.counts):,} of at least {counts.num_distinct:,} categories are kept, their counts are too low by "
        f"at most {counts.max_error:,}, and those left out occur at most {counts.max_error:,} times each"
    )
