"""Fitted columns: what was learnt of each, and how its values become inputs or codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dtk.preparation.values import Value, as_booleans, as_dates, as_numbers, lookup, to_float32, vocabulary_keys

__all__ = [
    "DATE_PARTS",
    "BooleanColumn",
    "CategoryColumn",
    "Column",
    "DateColumn",
    "Feature",
    "InputColumn",
    "NumberColumn",
    "RawColumn",
    "column_from_dict",
    "column_to_dict",
    "is_wide",
]

CLIP: Final = 8.0
"""Standardised numbers are clipped to this many standard deviations, so that one outlier cannot spoil a step."""

_FLOAT32_EPSILON: Final = 2.0**-23
_FLOAT32_RANGE: Final = (1e-30, 1e30)


class Feature(NamedTuple):
    """How one column of the inputs is standardised: ``clip((x - mean) / scale)``, and `fill` where x is missing."""

    name: str
    mean: float = 0.0
    scale: float = 1.0
    fill: float = 0.0
    bound: float = float("inf")


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers: standardised, clipped to 8 standard deviations, the mean where missing.

    Parameters
    ----------
    name : str
        Of the column.
    mean : float
        Of the finite values.
    scale : float
        Their standard deviation (of the population); 1 where they are constant.
    is_wide : bool
        Whether float32 cannot hold the values well enough, so that they are standardised in float64 while encoding.
    """

    kind: ClassVar[str] = "number"
    name: str
    mean: float
    scale: float
    is_wide: bool = False

    @property
    def features(self) -> tuple[Feature, ...]:
        """The one input of this column."""
        if self.is_wide:
            return (Feature(self.name, bound=CLIP),)
        return (Feature(self.name, self.mean, self.scale, bound=CLIP),)

    def encode(self, values: pa.ChunkedArray) -> list[NDArray[np.float32]]:
        """Turn values into inputs.

        Parameters
        ----------
        values : pyarrow.ChunkedArray
            Shape [n].

        Returns
        -------
        list of numpy.ndarray
            One float32 [n], with NaN for missing values.
        """
        numbers = as_numbers(self.name, values)
        if not self.is_wide:
            return [to_float32(numbers)]
        with np.errstate(over="ignore", invalid="ignore"):
            wide = (numbers.to_numpy().astype(np.float64) - self.mean) / self.scale
            return [wide.astype(np.float32)]


def is_wide(mean: float, scale: float, low: float, high: float) -> bool:
    """Tell whether float32 is too coarse or too narrow for numbers.

    Parameters
    ----------
    mean, scale : float
        Mean and standard deviation.
    low, high : float
        The smallest and largest value.

    Returns
    -------
    bool
        True where rounding to float32 would move a value by more than a thousandth of `scale`.
    """
    largest = max(abs(low), abs(high), abs(mean))
    outside = not _FLOAT32_RANGE[0] < scale < _FLOAT32_RANGE[1] or largest > _FLOAT32_RANGE[1]
    return outside or largest * _FLOAT32_EPSILON > scale * 1e-3


@dataclass(frozen=True)
class RawColumn:
    """A column of numbers that passes as it is: not standardised, NaN where missing.

    Parameters
    ----------
    name : str
        Of the column.
    """

    kind: ClassVar[str] = "number"
    name: str

    @property
    def features(self) -> tuple[Feature, ...]:
        """The one input of this column."""
        return (Feature(self.name, fill=float("nan")),)

    def encode(self, values: pa.ChunkedArray) -> list[NDArray[np.float32]]:
        """Turn values into inputs.

        Parameters
        ----------
        values : pyarrow.ChunkedArray
            Shape [n].

        Returns
        -------
        list of numpy.ndarray
            One float32 [n], with NaN for missing values.
        """
        return [to_float32(as_numbers(self.name, values))]


@dataclass(frozen=True)
class BooleanColumn:
    """A column of booleans: 0 or 1, the more frequent one where missing.

    Parameters
    ----------
    name : str
        Of the column.
    most_frequent : float
        0 or 1.
    """

    kind: ClassVar[str] = "boolean"
    name: str
    most_frequent: float

    @property
    def features(self) -> tuple[Feature, ...]:
        """The one input of this column."""
        return (Feature(self.name, fill=self.most_frequent),)

    def encode(self, values: pa.ChunkedArray) -> list[NDArray[np.float32]]:
        """Turn values into inputs.

        Parameters
        ----------
        values : pyarrow.ChunkedArray
            Shape [n].

        Returns
        -------
        list of numpy.ndarray
            One float32 [n], with NaN for missing values.
        """
        return [to_float32(as_booleans(self.name, values))]


class DatePart(NamedTuple):
    """A cyclic part of a date: how it is read, the first of its values, and how many there are."""

    read: Callable[[pa.ChunkedArray], pa.ChunkedArray]
    first: int
    period: int


DATE_PARTS: Final = {
    "month": DatePart(pc.month, 1, 12),
    "weekday": DatePart(pc.day_of_week, 0, 7),
    "hour": DatePart(pc.hour, 0, 24),
}


@dataclass(frozen=True)
class DateColumn:
    """A column of dates: sine and cosine of month, weekday and hour, zero where missing.

    Parameters
    ----------
    name : str
        Of the column.
    parts : tuple of str
        Those of ``"month"``, ``"weekday"`` and ``"hour"`` that took more than one value at fit.
    zone : str or None
        The time zone at fit, in which they are read; None for dates without one.
    """

    kind: ClassVar[str] = "date"
    name: str
    parts: tuple[str, ...]
    zone: str | None = None

    @property
    def features(self) -> tuple[Feature, ...]:
        """Two inputs a part."""
        return tuple(Feature(f"{self.name}_{part}_{wave}") for part in self.parts for wave in ("sin", "cos"))

    def encode(self, values: pa.ChunkedArray) -> list[NDArray[np.float32]]:
        """Turn values into inputs.

        Parameters
        ----------
        values : pyarrow.ChunkedArray
            Shape [n].

        Returns
        -------
        list of numpy.ndarray
            Two float32 [n] a part, with NaN for missing values.
        """
        dates = as_dates(self.name, values, self.zone)
        columns = []
        for part in self.parts:
            read, first, period = DATE_PARTS[part]
            position = pc.fill_null(read(dates), first + period).to_numpy() - first
            angles = 2 * np.pi * np.append(np.arange(period), np.nan) / period  # the last one is for missing values
            columns += [wave(angles).astype(np.float32)[position] for wave in (np.sin, np.cos)]
        return columns


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories: a code each, by falling count at fit; 0 for missing, rare and unseen ones.

    Parameters
    ----------
    name : str
        Of the column.
    vocabulary : tuple
        Strings, integers, floats or booleans; the code of ``vocabulary[i]`` is ``i + 1``.
    """

    kind: ClassVar[str] = "category"
    name: str
    vocabulary: tuple[Value, ...]

    @cached_property
    def keys(self) -> pa.Array:
        """The vocabulary, as values are compared with it."""
        return vocabulary_keys(self.vocabulary)

    @property
    def cardinality(self) -> int:
        """Number of codes, that of unknown ones included."""
        return len(self.vocabulary) + 1

    def codes(self, values: pa.ChunkedArray) -> NDArray[np.int64]:
        """Turn values into codes.

        Parameters
        ----------
        values : pyarrow.ChunkedArray
            Shape [n].

        Returns
        -------
        numpy.ndarray
            int64 [n], from 0 to ``cardinality - 1``.
        """
        return lookup(self.name, values, self.keys) + 1


InputColumn = NumberColumn | RawColumn | BooleanColumn | DateColumn
Column = InputColumn | CategoryColumn

_CLASSES: Final[dict[str, type[Any]]] = {
    "number": NumberColumn,
    "raw": RawColumn,
    "boolean": BooleanColumn,
    "date": DateColumn,
    "category": CategoryColumn,
}


def column_to_dict(column: Column) -> dict[str, Any]:
    """Return a fitted column as plain JSON values.

    Parameters
    ----------
    column : Column
        Any of them.

    Returns
    -------
    dict
        Its fields, and its class as ``"as"``.
    """
    name = next(name for name, kind in _CLASSES.items() if isinstance(column, kind))
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(column).items()}
    return {"as": name, **fields}


def column_from_dict(state: dict[str, Any]) -> Column:
    """Rebuild a fitted column.

    Parameters
    ----------
    state : dict
        What `column_to_dict` returned, also after a round trip through JSON.

    Returns
    -------
    Column
        Equal to the first.
    """
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in state.items() if key != "as"}
    column: Column = _CLASSES[state["as"]](**fields)
    return column
