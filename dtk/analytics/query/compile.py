"""An aggregation as a query in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from dtk.analytics.query.conditions import parse_condition
from dtk.analytics.query.engine import quoted, text_of
from dtk.analytics.query.measures import FUNCTIONS, Column, Measure, Parts, finish_sql, parse_measure
from dtk.analytics.query.plan import Query, Stage
from dtk.analytics.query.quantiles import QuantileSearch
from dtk.analytics.query.reading import ROW
from dtk.analytics.query.times import TimeWindow, part_sql
from dtk.analytics.query.values import (
    distinct_stage,
    sample_of_groups,
    skew_sql,
    skew_stage,
    values_sql,
    values_stage,
)
from dtk.errors import ArgumentError
from dtk.sources.columns import checked_columns

__all__ = ["Aggregation", "compiled", "keys_sql"]

_CASTS: Final = {
    "float32": ("FLOAT", pa.float32()), "float64": ("DOUBLE", pa.float64()),
    "int8": ("TINYINT", pa.int8()), "int16": ("SMALLINT", pa.int16()),
    "int32": ("INTEGER", pa.int32()), "int64": ("BIGINT", pa.int64()),
    "bool": ("BOOLEAN", pa.bool_()), "str": ("VARCHAR", pa.string()),
}  # fmt: skip
_RANKED: Final = ("median", "quantile")
_OF_VALUES: Final = ("distinct", "mode", "top")
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
            if name not in _CASTS:
                raise ArgumentError(f"cast={{{column!r}: {name!r}}} is no type; choose from {', '.join(_CASTS)}")
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
        if measure.function in _RANKED:
            return self.approx is None
        return measure.function in (*_OF_VALUES, "skew")

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
            kind = _CASTS[self.cast[name]][1]
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


def compiled(asked: Aggregation, num_rows: float, *, is_dealt: bool = False) -> Query:
    """Write the query.

    Parameters
    ----------
    asked : Aggregation
        What is asked.
    num_rows : float
        Of the data, about.
    is_dealt : bool
        Whether the result has several partitions, by the hash of the keys.

    Returns
    -------
    Query
        For `lazy_frame`.
    """
    return _Compiler(asked, num_rows, is_dealt).query()


def keys_sql(asked: Aggregation) -> str:
    """Write what finds the keys of rows, to count groups.

    Parameters
    ----------
    asked : Aggregation
        What is asked.

    Returns
    -------
    str
        SELECT over ``data``, with the columns ``k0, k1, ...``.
    """
    return _Compiler(asked, 0, False).rows(with_values=False)


class _Compiler:
    """Writes the query of an aggregation."""

    def __init__(self, asked: Aggregation, num_rows: float, is_dealt: bool) -> None:
        self.asked, self.num_rows, self.is_dealt = asked, num_rows, is_dealt
        self.key_columns = asked.keys()
        self.keys = [f"k{number}" for number in range(len(self.key_columns))] or ["k0"]
        names = [name for measure in asked.measures for name in (measure.column, *measure.others) if name != "*"]
        self.values = {name: asked.column(name, f"v{number}") for number, name in enumerate(dict.fromkeys(names))}
        self.needs_rows = any(
            measure.function in ("first", "last") or (asked.approx is not None and measure.function in _RANKED)
            for measure in asked.measures
        )
        self.means = [name for name, fill in asked.fill.items() if fill == "mean" and name in self.values]

    def query(self) -> Query:
        parts = Parts()
        if any(measure.column == "*" for measure in self.asked.measures):
            parts.add("num_rows", "count(*)", "sum({})::BIGINT")
        finishes, stages = self._measures(parts)
        keys = ", ".join(self.keys)
        first = self._first_stages(parts)
        before = [self._fills()] if self.means else []
        spread = self._spread() if self.is_dealt and (stages or self._is_cumulative) else None
        return Query(
            columns=tuple(self.asked.columns),
            stages=(*before, *first, *stages),
            finish=self._finish(finishes, [stage.name for stage in stages], keys),
            rows=self.needs_rows,
            keys=tuple(self.keys[: len(self.asked.by)] or self.keys),
            spread=spread,
            num_global=len(before),
        )

    @property
    def _is_cumulative(self) -> bool:
        return self.asked.window is not None and self.asked.window.is_cumulative

    def _first_stages(self, parts: Parts) -> list[Stage]:
        keys = ", ".join(self.keys)
        partial = ", ".join([keys, *(f"{sql} AS {name}" for name, sql in parts.partial.items())])
        centres = "".join(f", {sql} AS {name}" for name, sql in parts.centres.items())
        merged = ", ".join([keys, *(f"{sql} AS {name}" for name, sql in parts.merge.items())])

        def merge(source: str) -> str:
            if centres:
                source = f"(SELECT *{centres} FROM {source} WINDOW of_group AS (PARTITION BY {keys}))"
            return f"SELECT {merged} FROM {source} GROUP BY {keys}"

        grouped = f"SELECT {partial} FROM ({self.rows()}) GROUP BY {keys}"
        if not self._is_cumulative:
            return [Stage("base", grouped, merge("parts"))]
        *others, last = self.keys
        matched = " AND ".join([*(f"p.{key} IS NOT DISTINCT FROM w.{key}" for key in others), f"p.{last} <= w.{last}"])
        ends = f"(SELECT {keys} FROM panes) AS w"
        until = f"(SELECT p.* REPLACE (w.{last} AS {last}) FROM panes AS p JOIN {ends} ON {matched})"
        return [Stage("panes", grouped, merge("parts")), Stage("base", None, settle=merge(until))]

    def rows(self, *, with_values: bool = True) -> str:
        """Write what selects the rows that count, with their keys and values."""
        chosen = [f"{sql} AS k{number}" for number, (_, sql, _) in enumerate(self.key_columns)] or ["0 AS k0"]
        if with_values:
            chosen += [f"{self._value(name)} AS {value.sql}" for name, value in self.values.items()]
            chosen += [f"{quoted(ROW)} AS row"] * self.needs_rows
        source = f"({self._cleaned()})"
        if self.asked.where is not None:
            source = f"(SELECT * FROM {source} WHERE {parse_condition(self.asked.where, self.asked.schema.names)[0]})"
        if self.means and with_values:
            source = f"{source} CROSS JOIN fills"
        window = self.asked.window
        if window is not None and window.num_steps > 1:
            source = f"{source} CROSS JOIN (SELECT unnest(range({window.num_steps})) AS step)"
        rows = f"SELECT {', '.join(chosen)} FROM {source}"
        kept = self.keys if self.asked.dropna else self.keys[len(self.asked.by) :]  # a window needs a time
        if not self.key_columns or not kept:
            return rows
        return f"SELECT * FROM ({rows}) WHERE {' AND '.join(f'{key} IS NOT NULL' for key in kept)}"

    def _cleaned(self) -> str:
        """Select the columns that are needed, with NaN as what it is: missing."""
        cleaned = []
        for name in self.asked.columns:
            kind = self.asked.schema.field(name).type
            is_float = pa.types.is_floating(kind)
            plain = quoted(name)
            if is_float:
                plain = f"CASE WHEN isnan({plain}) THEN NULL ELSE {plain} END AS {plain}"
            cleaned.append(plain)
        cleaned += [quoted(ROW)] * self.needs_rows
        return f"SELECT {', '.join(cleaned) or '1 AS one'} FROM data"

    def _value(self, name: str) -> str:
        sql, fill = quoted(name), self.asked.fill.get(name)
        if fill == "mean":
            sql = f"coalesce({sql}::DOUBLE, fills.{self.values[name].sql}_fill)"
        elif fill is not None:
            sql = f"coalesce({sql}, {text_of(fill) if isinstance(fill, str) else repr(fill)})"
        if name in self.asked.cast:
            sql = f"CAST({sql} AS {_CASTS[self.asked.cast[name]][0]})"
        return sql

    def _fills(self) -> Stage:
        """Find the means that go in place of missing values."""
        columns = {name: f"{self.values[name].sql}_fill" for name in self.means}
        source = f"({self._cleaned()})"
        if self.asked.where is not None:
            source = f"{source} WHERE {parse_condition(self.asked.where, self.asked.schema.names)[0]}"
        partial = ", ".join(
            f"sum({quoted(name)}::DOUBLE) AS {fill}, count({quoted(name)}) AS {fill}_n"
            for name, fill in columns.items()
        )
        merge = ", ".join(f"sum({fill}) AS {fill}, sum({fill}_n)::BIGINT AS {fill}_n" for fill in columns.values())
        settle = ", ".join(f"{fill} / nullif({fill}_n, 0) AS {fill}" for fill in columns.values())
        return Stage(
            "fills", f"SELECT {partial} FROM {source}", f"SELECT {merge} FROM parts", f"SELECT {settle} FROM parts"
        )

    def _spread(self) -> str:
        """Select the rows to be dealt out, as they are, with the keys by which that is done."""
        chosen = [f"{sql} AS k{number}" for number, (_, sql, _) in enumerate(self.key_columns[: len(self.asked.by)])]
        columns = [quoted(name) for name in self.asked.columns] + [quoted(ROW)] * self.needs_rows
        where = ""
        if self.asked.where is not None:
            where = f" WHERE {parse_condition(self.asked.where, self.asked.schema.names)[0]}"
        return f"SELECT {', '.join([*columns, *chosen])} FROM ({self._cleaned()}){where}"

    def _measures(self, parts: Parts) -> tuple[list[str], list[Stage]]:
        """Write how each measure follows from the tables of stages, and the stages after the first."""
        asked, rows = self.asked, self.rows()
        finishes: dict[Measure, str] = {}
        stages: dict[str, Stage] = {}
        for measure in asked.measures:
            if measure.column == "*":
                finishes[measure] = "coalesce(base.num_rows, 0)"
                continue
            value = self.values[measure.column]
            others = [self.values[name] for name in measure.others]
            found = finish_sql(measure, value, others, parts)
            if found is not None:
                finishes[measure] = found
            elif measure.function == "skew":
                parts.spread(value)
                stage = skew_stage(value, rows, self.keys)
                finishes[measure], stages[stage.name] = skew_sql(value), stage
            elif measure.function == "distinct" and asked.approx is not None:
                stage = distinct_stage(value, asked.approx, rows, self.keys)
                finishes[measure], stages[stage.name] = f"coalesce({stage.name}.num_distinct, 0)", stage
        for value in self.values.values():
            mine = [measure for measure in asked.measures if measure.column == value.name and measure not in finishes]
            counted = [measure for measure in mine if measure.function in _OF_VALUES]
            if counted:
                stage = values_stage(value, counted, rows, self.keys)
                stages[stage.name] = stage
                finishes |= {measure: values_sql(measure, value) for measure in counted}
            ranked = [measure for measure in mine if measure.function in _RANKED]
            if ranked:
                finishes |= self._quantiles(value, ranked, parts, stages, rows)
        return [f"{finishes[measure]} AS {quoted(measure.name)}" for measure in asked.measures], list(stages.values())

    def _quantiles(
        self, value: Column, measures: Sequence[Measure], parts: Parts, stages: dict[str, Stage], rows: str
    ) -> dict[Measure, str]:
        shares = {measure: 0.5 if measure.function == "median" else measure.numbers()[0] for measure in measures}
        if self.asked.approx is not None:
            drawn = sample_of_groups(value, self.asked.approx, parts)
            return {
                measure: f"list_aggregate({drawn}, 'quantile_cont', {share!r})" for measure, share in shares.items()
            }
        wanted = tuple(dict.fromkeys(shares.values()))
        num_rows = 0 if self.is_dealt else self.num_rows  # a partition holds its rows
        if self.asked.window is not None:
            num_rows *= self.asked.window.num_steps
        search = QuantileSearch(value, wanted, tuple(self.keys), num_rows)
        search.add(parts)
        stages.update({stage.name: stage for stage in search.stages(rows)})
        return {measure: search.answer(wanted.index(share)) for measure, share in shares.items()}

    def _finish(self, finishes: Sequence[str], tables: Sequence[str], keys: str) -> str:
        named = [
            f"base.{key} AS {quoted(name)}" for key, (name, _, _) in zip(self.keys, self.key_columns, strict=False)
        ]
        used = [table for table in tables if any(f"{table}." in sql for sql in finishes)]
        source = "base" if self.key_columns else "(SELECT 0 AS k0) AS one LEFT JOIN base USING (k0)"
        for table in used:
            matched = " AND ".join(f"base.{key} IS NOT DISTINCT FROM {table}.{key}" for key in self.keys)
            source += f" LEFT JOIN {table} ON {matched}"
        order = ", ".join(f"base.{key} NULLS LAST" for key in self.keys)
        return f"SELECT {', '.join([*named, *finishes])} FROM {source} ORDER BY {order}"
