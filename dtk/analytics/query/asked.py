"""What an aggregation asks, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from dtk.analytics.query.conditions import parse_condition
from dtk.analytics.query.engine import quoted
from dtk.analytics.query.measures import FUNCTIONS, Column, Measure, parse_measure
from dtk.analytics.query.times import TimeWindow, part_sql
from dtk.errors import ArgumentError
from dtk.sources.columns import checked_columns

__all__ = ["CASTS", "OF_VALUES", "RANKED", "Aggregation"]

CASTS: Final = {
    "float32": ("FLOAT", pa.float32()), "float64": ("DOUBLE", pa.float64()),
    "int8": ("TINYINT", pa.int8()), "int16": ("SMALLINT", pa.int16()),
    "int32": ("INTEGER", pa.int32()), "int64": ("BIGINT", pa.int64()),
    "bool": ("BOOLEAN", pa.bool_()), "str": ("VARCHAR", pa.string()),
}  # fmt: skip
RANKED: Final = ("median", "quantile")
OF_VALUES: Final = ("distinct", "mode", "top")
_OF_COUNTS: Final = ("count", "distinct", "sum")


@dataclass(frozen=True)
class Aggregation:
    """What is asked, checked.

    Parameters
    ----------
    schema : pa.Schema
        Of the data.
    by : tuple of str
        Keys.
    measures : tuple of Measure
        What is asked of the groups.
    where : str, optional
        Condition.
    window : TimeWindow, optional
        Windows that are a key, too.
    fill : mapping of str to object
        What goes in place of missing values, by column.
    cast : mapping of str to str
        Types, by column.
    dropna : bool
        Whether rows with a missing key are left out.
    approx : float, optional
        The error that is allowed to quantiles and distinct counts.
    """

    schema: pa.Schema
    by: tuple[str, ...]
    measures: tuple[Measure, ...]
    where: str | None = None
    window: TimeWindow | None = None
    fill: Mapping[str, Any] = field(default_factory=dict)
    cast: Mapping[str, str] = field(default_factory=dict)
    dropna: bool = True
    approx: float | None = None

    @classmethod
    def checked(
        cls,
        schema: pa.Schema,
        by: str | Sequence[str],
        agg: Mapping[str, str | Sequence[str]],
        *,
        where: str | None = None,
        window: TimeWindow | None = None,
        fill: Any = None,
        cast: Any = None,
        dropna: bool = True,
        approx: float | None = None,
    ) -> Aggregation:
        """Check what a user asks.

        Parameters
        ----------
        schema : pa.Schema
            Of the data.
        by, agg, where, window, fill, cast, dropna, approx : object
            As for `dtk.aggregate`.

        Returns
        -------
        Aggregation
            What can be done.

        Raises
        ------
        ArgumentError
            If it cannot.
        """
        names = schema.names
        if not agg or not isinstance(agg, Mapping):
            raise ArgumentError(f"agg={agg!r} asks for nothing; give it as {{'delay': ['mean', 'max']}}")
        measures = []
        for column, asked in agg.items():
            if column != "*":
                checked_columns([column], names, argument="agg")
            for text in [asked] if isinstance(asked, str) else asked:
                measure = parse_measure(column, text)
                checked_columns(list(dict.fromkeys(measure.others)), names, argument=f"agg: {measure} of")
                measures.append(measure)
        filled = _by_column(fill, measures, "fill")
        casts = _by_column(cast, measures, "cast")
        for column, name in casts.items():
            if name not in CASTS:
                raise ArgumentError(f"cast={{{column!r}: {name!r}}} is no type; choose from {', '.join(CASTS)}")
        for argument, chosen in (("fill", filled), ("cast", casts)):
            checked_columns(list(chosen), names, argument=argument)
        if approx is not None and not (isinstance(approx, float) and 0 < approx < 0.5):
            raise ArgumentError(f"approx={approx!r} must be an error between 0 and 0.5, such as 0.01")
        if window is not None and not isinstance(window, TimeWindow):
            raise ArgumentError(
                f"window={window!r} must be a dtk.TimeWindow, such as dtk.TimeWindow('date', every='1d')"
            )
        keys = (by,) if isinstance(by, str) else tuple(by)
        made = cls(schema, keys, tuple(dict.fromkeys(measures)), where, window, filled, casts, dropna, approx)
        made._check()
        return made

    def _check(self) -> None:
        for measure in self.measures:
            if measure.column == "*":
                continue
            value = self.column(measure.column, "v")
            for other in (value, *(self.column(name, "v") for name in measure.others)):
                if FUNCTIONS[measure.function].is_of_numbers and not other.is_number:
                    held = f"{other.name!r} holds {other.kind}"
                    raise ArgumentError(f"agg: {measure} of {measure.column!r} needs numbers, and {held}; cast it")
            if measure.function == "quantile" and not 0 <= measure.numbers()[0] <= 1:
                raise ArgumentError(f"agg: {measure} of {measure.column!r} must be between 0 and 1")
            if measure.function == "top" and not (measure.numbers()[0].is_integer() and measure.numbers()[0] >= 1):
                raise ArgumentError(f"agg: {measure} of {measure.column!r} needs a whole number, such as top(3)")
            if self.window is not None and self.window.is_cumulative and self._has_own_stage(measure):
                raise ArgumentError(f"agg: {measure} of {measure.column!r} is not known for over='all'; give a length")
        self.keys()  # which refuses what is no key
        if self.where is not None:
            parse_condition(self.where, self.schema.names)
        named = [name for name, _, _ in self.keys()] + [measure.name for measure in self.measures]
        for name in named:
            if named.count(name) > 1:
                raise ArgumentError(f"two columns of the result would be called {name!r}; rename one in the data")
        lower = {name.lower() for name in self.columns}
        if len(lower) < len(self.columns):
            raise ArgumentError(f"columns {self.columns} differ in case alone; rename one")

    def _has_own_stage(self, measure: Measure) -> bool:
        if measure.function in RANKED:
            return self.approx is None
        return measure.function in (*OF_VALUES, "skew")

    def column(self, name: str, sql: str) -> Column:
        """Return a column as it is after filling and casting.

        Parameters
        ----------
        name : str
            Its name.
        sql : str
            What the SQL calls it.

        Returns
        -------
        Column
            With its type.
        """
        kind = self.schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if self.fill.get(name) == "mean":
            kind = pa.float64()
        if name in self.cast:
            kind = CASTS[self.cast[name]][1]
        return Column(name, sql, kind)

    def keys(self) -> list[tuple[str, str, pa.DataType | None]]:
        """List the keys: name in the result, SQL over cleaned columns, and type where it is the column's own.

        Returns
        -------
        list of (str, str, pa.DataType or None)
            The window last.

        Raises
        ------
        ArgumentError
            If one is no column, nor a part of a date.
        """
        found: list[tuple[str, str, pa.DataType | None]] = []
        for key in self.by:
            column, _, part = key.rpartition(".")
            if key not in self.schema.names and column in self.schema.names:
                kind = self.schema.field(column).type
                found.append((f"{column}_{part}", part_sql(quoted(column), kind, part, key=key), None))
            else:
                checked_columns([key], self.schema.names, argument="by")
                found.append((key, quoted(key), self.schema.field(key).type))
        if self.window is not None:
            on = self.window.on
            checked_columns([on], self.schema.names, argument="window: on")
            kind = self.schema.field(on).type
            if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
                raise ArgumentError(f"window: on={on!r} holds {kind}, no times; cast it before")
            zone = kind.tz if pa.types.is_timestamp(kind) else None
            found.append((on, self.window.label_sql(quoted(on), kind), pa.timestamp("us", zone)))
        return found

    @property
    def columns(self) -> list[str]:
        """The columns of the data that are needed."""
        names = [key if key in self.schema.names else key.rpartition(".")[0] for key in self.by]
        names += [self.window.on] if self.window is not None else []
        for measure in self.measures:
            names += [*([measure.column] if measure.column != "*" else []), *measure.others]
        if self.where is not None:
            names += parse_condition(self.where, self.schema.names)[1]
        return list(dict.fromkeys(names))

    @property
    def is_mergeable(self) -> bool:
        """Whether one row a group says all: nothing needs another stage."""
        return not any(self._has_own_stage(measure) for measure in self.measures)

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Types of columns of the result that DuckDB does not know: times with their zone."""
        found = {name: kind for name, _, kind in self.keys() if kind is not None}
        for measure in self.measures:
            if measure.function in ("min", "max", "first", "last", "mode"):
                found[measure.name] = self.column(measure.column, "v").kind
        return {name: kind for name, kind in found.items() if pa.types.is_timestamp(kind) and kind.tz}

    def never_missing(self, without_gaps: set[str]) -> set[str]:
        """List the columns of the result that have a value in every row.

        Parameters
        ----------
        without_gaps : set of str
            Columns of the data that have none.

        Returns
        -------
        set of str
            Names.
        """
        keys = {
            name for name, sql, _ in self.keys() if self.dropna or any(sql == quoted(known) for known in without_gaps)
        }
        return keys | {
            measure.name
            for measure in self.measures
            if measure.function in _OF_COUNTS or (self.by and measure.column in without_gaps)
        }


def _by_column(given: Any, measures: Sequence[Measure], argument: str) -> dict[str, Any]:
    """Spread one setting over all columns that are aggregated."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, str | int | float):
        raise ArgumentError(f"{argument}={given!r} must be one setting, or a mapping of columns to settings")
    return {measure.column: given for measure in measures if measure.column != "*"}
