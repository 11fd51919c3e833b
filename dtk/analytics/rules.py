"""Rules that a value by itself keeps or breaks, looked at a chunk at a time."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.analytics.columns import kind_of_column
from dtk.analytics.numbers import show_value
from dtk.analytics.schema import as_number
from dtk.analytics.values import is_ordered, is_present, judge_each
from dtk.statistics import category_keys, infer_kind, to_numbers
from dtk.statistics.kinds import is_text, stored_numbers

__all__ = ["HasKind", "HasType", "IsOneOf", "IsPresent", "IsWithin", "MatchesPattern", "Rule"]

_SHOWN_VALUES: Final = 8


class Rule(Protocol):
    """What a value keeps or breaks; picklable."""

    @property
    def name(self) -> str:
        """As a schema calls it."""

    @property
    def wanted(self) -> str:
        """What values should be like, in words."""

    def broken(self, values: pa.Array) -> np.ndarray | None:
        """Say which values break the rule.

        Parameters
        ----------
        values : pyarrow.Array
            Shape [rows].

        Returns
        -------
        numpy.ndarray or None
            bool [rows]; None where the rule does not apply to values of this type, or none breaks it.
        """


@dataclass(frozen=True)
class IsPresent:
    """No value is missing: null, or NaN."""

    name: str = "missing"
    wanted: str = "be there"

    def broken(self, values: pa.Array) -> np.ndarray | None:
        """Say which values are missing.

        Parameters
        ----------
        values : pyarrow.Array
            Shape [rows].

        Returns
        -------
        numpy.ndarray or None
            bool [rows].
        """
        return ~is_present(values)


@dataclass(frozen=True)
class HasKind:
    """Values are of a kind, whatever their exact type.

    Parameters
    ----------
    kinds : tuple of str
        Those that are right.
    needs_text : bool
        Whether categories must be strings.
    """

    kinds: tuple[str, ...]
    needs_text: bool = False
    name: str = "kind"

    @property
    def wanted(self) -> str:
        """What values should be like, in words."""
        return "be strings" if self.needs_text else f"be of kind {' or '.join(self.kinds)}"

    def accepts(self, dtype: pa.DataType) -> bool:
        """Tell whether values of a type are right.

        Parameters
        ----------
        dtype : pyarrow.DataType
            Of them.

        Returns
        -------
        bool
            True also for a type that holds nulls only.
        """
        if pa.types.is_null(dtype):
            return True
        if self.needs_text and not is_text(dtype):
            return False
        inner = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
        return kind_of_column(dtype) in self.kinds or kind_of_column(inner) in self.kinds

    def broken(self, values: pa.Array) -> np.ndarray | None:
        """Say which values are of another kind.

        Parameters
        ----------
        values : pyarrow.Array
            Shape [rows].

        Returns
        -------
        numpy.ndarray or None
            bool [rows]: all that are there, or none.
        """
        return None if self.accepts(values.type) else is_present(values)


@dataclass(frozen=True)
class HasType:
    """Values are of an Arrow type.

    Parameters
    ----------
    dtype : str
        Its name.
    """

    dtype: str
    name: str = "dtype"

    @property
    def wanted(self) -> str:
        """What values should be like, in words."""
        return f"be of type {self.dtype}"

    def broken(self, values: pa.Array) -> np.ndarray | None:
        """Say which values are of another type.

        Parameters
        ----------
        values : pyarrow.Array
            Shape [rows].

        Returns
        -------
        numpy.ndarray or None
            bool [rows]: all that are there, or none.
        """
        found = values.type
        # one type to all who don't look at bytes
        same = found == pa.large_string() and self.dtype == "string"
        return None if same or pa.types.is_null(found) or str(found) == self.dtype else is_present(values)


@dataclass(frozen=True)
class IsWithin:
    """Numbers and dates lie in a range, its ends included.

    Parameters
    ----------
    low, high : int, float or None
        The ends; of dates in nanoseconds since 1970.
    wanted : str
        What values should be like, in words.
    name : str
        As a schema calls it.
    """

    low: int | float | None
    high: int | float | None
    wanted: str
    name: str

    def broken(self, values: pa.Array) -> np.ndarray | None:
        """Say which values lie outside.

        Parameters
        ----------
        values : pyarrow.Array
            Shape [rows].

        Returns
        -------
        numpy.ndarray or None
            bool [rows].
        """
        return judge_each(values, self._outside) if is_ordered(values.type) else None

    def _outside(self, values: pa.Array) -> np.ndarray:
        numbers = to_numbers(values)
        outside = np.zeros(len(numbers), bool)
        for bound, compare, to_whole in (
            (self.low, np.less, math.ceil),
            (self.high, np.greater, math.floor),
        ):
            if bound is not None:
                # whole numbers compare with whole ones: as floats, large ones would lose digits
                exact = to_whole(bound) if numbers.dtype.kind in "iu" and math.isfinite(bound) else float(bound)
                outside |= compare(numbers, exact)
        return outside


@dataclass(frozen=True)
class IsOneOf:
    """Values are among some.

    Parameters
    ----------
    values : tuple
        All that are right: text, numbers, booleans and dates, also as text in ISO 8601.
    name : str
        As a schema calls it.
    """

    values: tuple[Any, ...]
    name: str = "values"

    @property
    def wanted(self) -> str:
        """What values should be like, in words."""
        shown = ", ".join(
            show_value(value) if isinstance(value, (int, float)) else repr(str(value))
            for value in self.values[:_SHOWN_VALUES]
        )
        more = len(self.values) - _SHOWN_VALUES
        return f"be one of {shown}" + (f" and {more:,} more" if more > 0 else "")

    def broken(self, values: pa.Array) -> np.ndarray | None:
        """Say which values are none of them.

        Parameters
        ----------
        values : pyarrow.Array
            Shape [rows].

        Returns
        -------
        numpy.ndarray or None
            bool [rows].
        """
        return None if kind_of_column(values.type) == "other" else judge_each(values, self._unknown)

    def _unknown(self, values: pa.Array) -> np.ndarray:
        if infer_kind(values.type) == "date":
            return self._unknown_times(values)
        keys = category_keys(values)
        known = pc.is_in(keys, value_set=self._known(keys.type))
        return np.asarray(~known.to_numpy(zero_copy_only=False))

    def _unknown_times(self, values: pa.Array) -> np.ndarray:
        """Compare dates as they are stored: in nanoseconds, those of far years would lose digits."""
        ticks, unit = stored_numbers(values)
        assert unit.ns_per_tick is not None
        known = [divmod(time, unit.ns_per_tick) for time in self._times]
        fitting = [tick for tick, rest in known if rest == 0 and -(2**63) <= tick < 2**63]
        return np.isin(ticks.astype(np.int64), np.array(fitting, np.int64), invert=True)

    def _known(self, dtype: pa.DataType) -> pa.Array:
        """Return the values as keys of a type, those left out that it can't hold."""
        if pa.types.is_large_string(dtype):
            return pa.array(self._texts, dtype)
        if pa.types.is_boolean(dtype):
            return pa.array([value for value in self.values if isinstance(value, bool)], dtype)
        numbers = [value for value in self.values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if pa.types.is_floating(dtype):
            return pa.array([float(value) for value in numbers], dtype)
        low, high = (0, 2**64) if dtype == pa.uint64() else (-(2**63), 2**63)
        return pa.array([int(value) for value in numbers if value == value // 1 and low <= value < high], dtype)

    @cached_property
    def _texts(self) -> list[str]:
        texts = []
        for value in self.values:
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):  # what a decimal would be
                text = f"{Decimal(repr(value)):f}"
                texts.append(text.rstrip("0").rstrip(".") if "." in text else text)
        return texts

    @cached_property
    def _times(self) -> list[int]:
        """Dates, also those that a file says as text, in nanoseconds since 1970."""
        times = []
        for value in self.values:
            if not isinstance(value, (int, float)):
                with suppress(ValueError):  # text that is no date is no value of a column of dates
                    times.append(int(as_number(value)))
        return times


@dataclass(frozen=True)
class MatchesPattern:
    """Strings match a pattern as a whole, or have so many characters.

    Parameters
    ----------
    pattern : str, optional
        Of RE2.
    least, most : int, optional
        Characters.
    name : str
        As a schema calls it.
    """

    pattern: str | None = None
    least: int | None = None
    most: int | None = None
    name: str = "pattern"

    @property
    def wanted(self) -> str:
        """What values should be like, in words."""
        if self.pattern is not None:
            return f"match {self.pattern!r}"
        return f"have at least {self.least} characters" if self.most is None else f"have at most {self.most} characters"

    def broken(self, values: pa.Array) -> np.ndarray | None:
        """Say which strings don't match.

        Parameters
        ----------
        values : pyarrow.Array
            Shape [rows].

        Returns
        -------
        numpy.ndarray or None
            bool [rows].
        """
        return judge_each(values, self._differs) if is_text(values.type) else None

    def _differs(self, values: pa.Array) -> np.ndarray:
        text = values.cast(pa.large_string())
        if self.pattern is not None:
            matches = pc.match_substring_regex(text, rf"\A(?:{self.pattern})\z").to_numpy(zero_copy_only=False)
            return np.asarray(~matches)
        lengths = pc.utf8_length(text).to_numpy()
        too_short = lengths < (0 if self.least is None else self.least)
        return np.asarray(too_short if self.most is None else too_short | (lengths > self.most))
