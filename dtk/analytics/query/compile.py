"""An aggregation as a query in parts."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dtk.analytics.query.asked import CASTS, OF_VALUES, RANKED, Aggregation
from dtk.analytics.query.conditions import parse_condition
from dtk.analytics.query.engine import quoted, text_of
from dtk.analytics.query.measures import Column, Measure, Parts, finish_sql
from dtk.analytics.query.plan import Query, Stage
from dtk.analytics.query.quantiles import QuantileSearch
from dtk.analytics.query.reading import ROW
from dtk.analytics.query.values import (
    distinct_stage,
    sample_of_groups,
    skew_sql,
    skew_stage,
    values_sql,
    values_stage,
)

__all__ = ["compiled", "keys_sql"]


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
            measure.function in ("first", "last") or (asked.approx is not None and measure.function in RANKED)
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
            sql = f"CAST({sql} AS {CASTS[self.asked.cast[name]][0]})"
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
            counted = [measure for measure in mine if measure.function in OF_VALUES]
            if counted:
                stage = values_stage(value, counted, rows, self.keys)
                stages[stage.name] = stage
                finishes |= {measure: values_sql(measure, value) for measure in counted}
            ranked = [measure for measure in mine if measure.function in RANKED]
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
