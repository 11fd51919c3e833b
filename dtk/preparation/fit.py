"""What one pass over the data collects for preparation: a statistic a column, and one for the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from dtk.errors import DataError
from dtk.preparation.columns import (
    DATE_PARTS,
    BooleanColumn,
    CategoryColumn,
    Column,
    DateColumn,
    NumberColumn,
    is_wide,
)
from dtk.preparation.target import ClassTarget, NumberTarget, Target, refuse_missing
from dtk.preparation.target_transform import TransformFit
from dtk.preparation.values import as_booleans, as_dates, as_numbers, check_type, zone_of
from dtk.statistics import Categories, Moments

if TYPE_CHECKING:
    from dtk.preparation.transforms.base import Transform

__all__ = ["TableFit"]

_MAX_CLASSES: Final = 10_000
_MAX_COUNTS: Final = 1000


class _ColumnFit(Protocol):
    def update(self, values: pa.ChunkedArray) -> None: ...
    def merge(self, other: Self) -> None: ...
    def finish(self) -> Column | None: ...
    def seen(self) -> dict[str, Any]: ...


class _NumberFit:
    def __init__(self, name: str) -> None:
        self.name = name
        self.moments = Moments()

    def update(self, values: pa.ChunkedArray) -> None:
        self.moments.update(_finite(as_numbers(self.name, values)))

    def merge(self, other: Self) -> None:
        self.moments.merge(other.moments)

    def finish(self) -> NumberColumn | None:
        if self.moments.count == 0:
            return None
        mean, scale = _mean_and_scale(self.moments)
        low, high = float(self.moments.min), float(self.moments.max)
        return NumberColumn(self.name, mean, scale, is_wide=is_wide(mean, scale, low, high))

    def seen(self) -> dict[str, Any]:
        return _seen_numbers(self.name, self.moments)


class _BooleanFit:
    def __init__(self, name: str) -> None:
        self.name = name
        self.moments = Moments()

    def update(self, values: pa.ChunkedArray) -> None:
        self.moments.update(as_booleans(self.name, values))

    def merge(self, other: Self) -> None:
        self.moments.merge(other.moments)

    def finish(self) -> BooleanColumn | None:
        return BooleanColumn(self.name, float(self.moments.mean > 0.5)) if self.moments.count else None

    def seen(self) -> dict[str, Any]:
        num_true = round(self.moments.mean * self.moments.count) if self.moments.count else 0
        counts = [[True, num_true], [False, self.moments.count - num_true]]
        return _seen(self.name, "boolean", self.moments.count, self.moments.missing) | {"counts": counts}


class _DateFit:
    def __init__(self, name: str, zone: str | None) -> None:
        self.name = name
        self.zone = zone
        self.count = 0
        self.missing = 0
        self.varies = {part: np.zeros(period, dtype=bool) for part, (_, _, period) in DATE_PARTS.items()}

    def update(self, values: pa.ChunkedArray) -> None:
        dates = as_dates(self.name, values, self.zone).drop_null()
        self.count += len(dates)
        self.missing += len(values) - len(dates)
        for part, (read, first, _) in DATE_PARTS.items():
            self.varies[part][pc.unique(read(dates)).to_numpy(zero_copy_only=False) - first] = True

    def merge(self, other: Self) -> None:
        self.count += other.count
        self.missing += other.missing
        for part, varies in other.varies.items():
            self.varies[part] |= varies

    def finish(self) -> DateColumn | None:
        varying = tuple(part for part, varies in self.varies.items() if varies.sum() > 1)
        return DateColumn(self.name, varying, self.zone) if self.count else None

    def seen(self) -> dict[str, Any]:
        return _seen(self.name, "date", self.count, self.missing)


class _CategoryFit:
    def __init__(self, name: str, max_categories: int) -> None:
        self.name = name
        self.max_categories = max_categories
        self.categories = Categories()

    def update(self, values: pa.ChunkedArray) -> None:
        check_type(self.name, values.type, "category")
        self.categories.update(values)

    def merge(self, other: Self) -> None:
        self.categories.merge(other.categories)

    def finish(self) -> CategoryColumn | None:
        # infinite numbers have no place in JSON, and none in a model
        top = (value for value, _ in self.categories.top(self.max_categories))
        known = tuple(value for value in top if not isinstance(value, float) or math.isfinite(value))
        return CategoryColumn(self.name, known) if known else None

    def seen(self) -> dict[str, Any]:
        return _seen_categories(self.name, self.categories, self.max_categories)


class _ClassFit:
    """The classes of a target, each of which is known after the pass."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.categories = Categories()

    def update(self, values: pa.ChunkedArray, first_row: int) -> None:
        check_type(self.name, values.type, "category")
        self.categories.update(values)

    def merge(self, other: Self) -> None:
        self.categories.merge(other.categories)

    def finish(self) -> ClassTarget:
        refuse_missing(self.name, self.categories.missing)
        num_classes = self.categories.num_distinct
        if num_classes > _MAX_CLASSES or not self.categories.is_exact:
            raise DataError(
                f"target={self.name!r} has {num_classes} or more classes, and dtk takes up to {_MAX_CLASSES}; "
                "train a regression on a number, or choose another target"
            )
        counts = self.categories.counts
        values = sorted(counts)
        if any(isinstance(value, float) and not value.is_integer() for value in values):
            raise DataError(f"target={self.name!r} holds fractions, which are no classes; train a regression")
        if len(values) == 1:
            raise DataError(
                f"target={self.name!r} has one class ({values[0]!r}), and a classifier needs two; "
                "choose another target, or more data"
            )
        return ClassTarget(self.name, tuple(values), tuple(counts[value] for value in values))

    def seen(self) -> dict[str, Any]:
        return _seen_categories(self.name, self.categories, _MAX_CLASSES)


class _TargetNumberFit:
    """The mean and spread of a target that is a number."""

    def __init__(self, name: str, steps: Sequence[Transform] = ()) -> None:
        self.name = name
        self.moments = Moments()
        self.transform = TransformFit(name, steps) if steps else None

    def update(self, values: pa.ChunkedArray, first_row: int) -> None:
        numbers = as_numbers(self.name, values)
        self.moments.update(numbers)
        if self.transform is not None:
            self.transform.update(numbers, first_row)

    def merge(self, other: Self) -> None:
        self.moments.merge(other.moments)
        if self.transform is not None:
            assert other.transform is not None
            self.transform.merge(other.transform)

    def finish(self) -> NumberTarget:
        refuse_missing(self.name, self.moments.missing)
        if self.moments.num_infinite:
            raise DataError(
                f"target={self.name!r} holds {self.moments.num_infinite} infinite values; filter them out first"
            )
        if self.transform is None or not self.moments.count:
            return NumberTarget(self.name, *_mean_and_scale(self.moments))
        transform, moments = self.transform.finish(float(self.moments.min), float(self.moments.max))
        return NumberTarget(self.name, *_mean_and_scale(moments), transform)

    def seen(self) -> dict[str, Any]:
        return _seen_numbers(self.name, self.moments)


class TableFit:
    """The state that a scan fills for `TablePreparation`.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the data.
    kinds : mapping of str to str
        The kind of each input.
    max_categories : int
        Most categories of a column.
    target : str, optional
        The column of the target.
    task : str, optional
        ``"classification"`` or ``"regression"``, with a target.
    target_steps : sequence of Transform
        What a target of numbers goes through; not fitted.
    """

    def __init__(
        self,
        schema: pa.Schema,
        kinds: Mapping[str, str],
        max_categories: int,
        target: str | None = None,
        task: str | None = None,
        target_steps: Sequence[Transform] = (),
    ) -> None:
        self.num_rows = 0
        self.columns: dict[str, _ColumnFit] = {}
        for name, kind in kinds.items():
            if kind == "category":
                self.columns[name] = _CategoryFit(name, max_categories)
            elif kind == "date":
                self.columns[name] = _DateFit(name, zone_of(schema.field(name).type))
            else:
                self.columns[name] = _SIMPLE_FITS[kind](name)
        self.target: _ClassFit | _TargetNumberFit | None = None
        if target is not None:
            self.target = _ClassFit(target) if task == "classification" else _TargetNumberFit(target, target_steps)

    def update(self, table: pa.Table, first_row: int) -> None:
        """Take in one chunk.

        Parameters
        ----------
        table : pyarrow.Table
            Some rows of the data; there may be none.
        first_row : int
            The number of its first row in the whole data.
        """
        self.num_rows += table.num_rows
        for name, fit in self.columns.items():
            fit.update(table[name])
        if self.target is not None:
            self.target.update(table[self.target.name], first_row)

    def merge(self, other: TableFit) -> None:
        """Take in what another state has seen.

        Parameters
        ----------
        other : TableFit
            Of other rows; left as it is.
        """
        self.num_rows += other.num_rows
        for name, fit in self.columns.items():
            fit.merge(other.columns[name])
        if self.target is not None:
            self.target.merge(other.target)  # type: ignore[arg-type]  # of the same class as mine

    def finish_columns(self) -> dict[str, Column | None]:
        """Return the fitted columns.

        Returns
        -------
        dict
            By name; None for a column without any value.
        """
        return {name: fit.finish() for name, fit in self.columns.items()}

    def seen(self) -> list[dict[str, Any]]:
        """Say what was seen of each column that has values, and of the target: what new data can be compared with.

        Returns
        -------
        list of dict
            Plain JSON values by the names of `dtk.analytics.ColumnProfile`.
        """
        seen = [fit.seen() for fit in self.columns.values() if fit.finish() is not None]
        return seen if self.target is None else [*seen, self.target.seen() | {"is_target": True}]

    def finish_target(self) -> Target | None:
        """Return the fitted target.

        Returns
        -------
        ClassTarget, NumberTarget or None
            None without a target.

        Raises
        ------
        DataError
            If values of the target are missing, or it has fewer than two classes.
        """
        return None if self.target is None else self.target.finish()


_SIMPLE_FITS: Final[dict[str, Any]] = {"number": _NumberFit, "boolean": _BooleanFit}


def _finite(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Count infinite values as missing: one of them would make every mean infinite."""
    if not types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))


def _seen(name: str, kind: str, count: int, missing: int) -> dict[str, Any]:
    return {"name": name, "kind": kind, "num_rows": count + missing, "num_missing": missing}


def _seen_numbers(name: str, moments: Moments) -> dict[str, Any]:
    figures = {key: getattr(moments, key) for key in ("mean", "std", "min", "max")}
    finite = {key: value for key, value in figures.items() if math.isfinite(value)}
    return _seen(name, "number", moments.count, moments.missing) | finite


def _seen_categories(name: str, categories: Categories, max_categories: int) -> dict[str, Any]:
    """Keep what was seen of categories where they are few enough to be all known."""
    seen = _seen(name, "category", categories.count, categories.missing)
    if not categories.is_exact or categories.num_distinct > max_categories:
        return seen
    counts = [[value, count] for value, count in categories.top()]
    if any(isinstance(value, float) and not math.isfinite(value) for value, _ in counts):
        return seen
    if len(counts) > _MAX_COUNTS:
        return seen | {"categories": [value for value, _ in counts]}
    return seen | {"counts": counts}


def _mean_and_scale(moments: Moments) -> tuple[float, float]:
    """Return mean and standard deviation; the latter 1 where nothing varies, or the spread has no float64."""
    if moments.count and moments.min == moments.max:
        return float(moments.min), 1.0  # a mean of equal values may be off by its rounding
    scale = moments.std
    return float(moments.mean), float(scale) if scale > 0 and math.isfinite(scale) else 1.0
