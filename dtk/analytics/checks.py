"""Checks of a table: planned from a schema, filled in the scan of the profile, and told as violations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from dtk.analytics.numbers import Value, show_count, show_share
from dtk.analytics.row_order import RowOrder
from dtk.analytics.rules import (
    HasKind,
    HasType,
    IsOneOf,
    IsPresent,
    IsWithin,
    MatchesPattern,
    Rule,
)
from dtk.analytics.schema import ColumnSchema, TableSchema, as_number, is_date
from dtk.analytics.values import is_ordered, plain_value
from dtk.analytics.violations import Violation
from dtk.errors import ArgumentError
from dtk.statistics import Uniqueness, infer_kind

__all__ = ["Check", "CheckPlan", "CheckState", "Tally", "plan_checks"]


@dataclass
class Tally:
    """How many values break a rule, and the first of them.

    Parameters
    ----------
    num_broken : int
        How many.
    row : int or None
        The number of the first one's row.
    value : str, int, float, bool or None
        The first one.
    """

    num_broken: int = 0
    row: int | None = None
    value: Value = None

    def merge(self, other: Tally) -> None:
        """Take in what another tally counted.

        Parameters
        ----------
        other : Tally
            Of other rows; left as it is.
        """
        self.num_broken += other.num_broken
        if other.row is not None and (self.row is None or other.row < self.row):
            self.row, self.value = other.row, other.value


@dataclass(frozen=True)
class Check:
    """One rule of one column.

    Parameters
    ----------
    column : str
        Which.
    rule : Rule
        What each value keeps or breaks.
    allowed : float
        The largest share of rows that may break it.
    origin : {"schema", "drift"}
        Who asks for it.
    kind : HasKind, optional
        What values must be for the rule to say anything of them; another check tells if they are not.
    """

    column: str
    rule: Rule
    allowed: float = 0.0
    origin: Literal["schema", "drift"] = "schema"
    kind: HasKind | None = None

    def count(self, chunk: pa.Array, first_row: int) -> Tally:
        """Look at some values.

        Parameters
        ----------
        chunk : pyarrow.Array
            Shape [rows].
        first_row : int
            The number of the first row.

        Returns
        -------
        Tally
            Of those that break the rule.
        """
        applies = self.kind is None or self.kind.accepts(chunk.type)
        broken = self.rule.broken(chunk) if applies else None
        if broken is None or not broken.any():
            return Tally()
        at = int(np.argmax(broken))
        return Tally(int(np.count_nonzero(broken)), first_row + at, plain_value(chunk.slice(at, 1)))


@dataclass(frozen=True)
class CheckPlan:
    """What is looked at in a scan.

    Parameters
    ----------
    checks : tuple of Check
        Of values by themselves.
    orders : tuple of (str, str)
        Columns and their order.
    keys : tuple of tuple of str
        Columns that are a key, alone or together.
    max_keys : int
        Most keys to look at, of each.
    absent, extra : tuple of str
        Columns that should be there, and that should not.
    """

    checks: tuple[Check, ...] = ()
    orders: tuple[tuple[str, str], ...] = ()
    keys: tuple[tuple[str, ...], ...] = ()
    max_keys: int = 8_000_000
    absent: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def num_rules(self) -> int:
        """How many rules are checked, those of columns that are absent included."""
        return len(self.checks) + len(self.orders) + len(self.keys) + len(self.absent) + len(self.extra)


def plan_checks(schema: TableSchema, found: pa.Schema) -> CheckPlan:
    """Say what to look at in a scan.

    Parameters
    ----------
    schema : TableSchema
        What the table must be like.
    found : pyarrow.Schema
        What it is by its metadata.

    Returns
    -------
    CheckPlan
        Only of columns that are there.

    Raises
    ------
    ArgumentError
        If a key is of a type that has no keys.
    """
    there = {name: column for name, column in schema.columns.items() if name in found.names}
    absent = [name for name, column in schema.columns.items() if column.required and name not in there]
    keys: list[tuple[str, ...]] = [(name,) for name, column in there.items() if column.unique]
    for key in map(tuple, schema.unique):
        missing = [name for name in key if name not in found.names]
        absent += [name for name in missing if name not in absent]
        keys += [] if missing else [key]
    for name in dict.fromkeys(name for key in keys for name in key):
        _check_key(name, found.field(name).type)
    return CheckPlan(
        checks=tuple(check for name, column in there.items() for check in _checks_of(name, column)),
        orders=tuple((name, column.order) for name, column in there.items() if column.order is not None),
        keys=tuple(dict.fromkeys(keys)),
        max_keys=schema.max_keys,
        absent=tuple(absent),
        extra=() if schema.extra else tuple(name for name in found.names if name not in schema.columns),
    )


def _check_key(name: str, dtype: pa.DataType) -> None:
    inner = dtype.storage_type if isinstance(dtype, pa.BaseExtensionType) else dtype
    if pa.types.is_nested(inner) or (pa.types.is_dictionary(inner) and infer_kind(inner) == "ignore"):
        raise ArgumentError(
            f"unique: column {name!r} holds {dtype}, which can't be a key; leave it out of the schema's keys"
        )


def _checks_of(name: str, column: ColumnSchema) -> Iterator[Check]:
    """Yield the rules of a column, those about its type first."""
    if column.missing is not None and column.missing < 1:
        yield Check(name, IsPresent(wanted=_wanted_presence(column.missing)), allowed=column.missing)
    kind = _wanted_kind(column)
    if kind is not None:
        yield Check(name, kind)
    if column.dtype is not None:
        yield Check(name, HasType(column.dtype))
    for rule in _rules_of(column):
        yield Check(name, rule, kind=kind)


def _rules_of(column: ColumnSchema) -> Iterator[Rule]:
    """Yield the rules about values."""
    if column.min is not None:
        yield IsWithin(as_number(column.min), None, f"be at least {column.min}", "min")
    if column.max is not None:
        yield IsWithin(None, as_number(column.max), f"be at most {column.max}", "max")
    if column.values is not None:
        yield IsOneOf(tuple(column.values))
    if column.pattern is not None:
        yield MatchesPattern(column.pattern)
    if column.min_length is not None:
        yield MatchesPattern(least=column.min_length, name="min_length")
    if column.max_length is not None:
        yield MatchesPattern(most=column.max_length, name="max_length")


def _wanted_presence(allowed: float) -> str:
    return "be there" if allowed == 0 else f"be there in all but {show_share(allowed)} of the rows"


def _wanted_kind(column: ColumnSchema) -> HasKind | None:
    """Return the kind that a column is said to be of, or that its other rules are for."""
    needs_text = column.kind == "text" or any(
        setting is not None for setting in (column.pattern, column.min_length, column.max_length)
    )
    bound = column.min if column.min is not None else column.max
    if column.kind is not None:
        return HasKind(("category",) if column.kind == "text" else (column.kind,), needs_text)
    if needs_text:
        return HasKind(("category",), needs_text)
    if bound is not None:
        return HasKind(("date",) if is_date(bound) else ("number",))
    return HasKind(("number", "date")) if column.order is not None else None


class CheckState:
    """What a scan finds of the checks.

    Parameters
    ----------
    plan : CheckPlan
        What to look at.
    total_rows : int, optional
        Rows of the whole table, where that is known.
    """

    def __init__(self, plan: CheckPlan, total_rows: int | None = None) -> None:
        self.plan = plan
        self.tallies = [Tally() for _ in plan.checks]
        self.orders = [RowOrder(order) for _, order in plan.orders]
        self.keys = [Uniqueness(plan.max_keys, total_rows=total_rows) for _ in plan.keys]

    def update(self, table: pa.Table, first_row: int) -> None:
        """Take in one chunk.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns of the checks.
        first_row : int
            The number of its first row.
        """
        for check, tally in zip(self.plan.checks, self.tallies, strict=True):
            row = first_row
            for chunk in table[check.column].chunks:
                tally.merge(check.count(chunk, row))
                row += len(chunk)
        for (name, _), order in zip(self.plan.orders, self.orders, strict=True):
            if is_ordered(table[name].type):
                order.update(table[name], first_row)
        if self.keys:
            rows = np.arange(first_row, first_row + table.num_rows)
            for names, keys in zip(self.plan.keys, self.keys, strict=True):
                keys.update(table[names[0]] if len(names) == 1 else table.select(names), rows)

    def merge(self, other: CheckState) -> None:
        """Take in what another state has seen.

        Parameters
        ----------
        other : CheckState
            Of the same plan; left as it is.
        """
        for mine, others in (
            (self.tallies, other.tallies),
            (self.orders, other.orders),
            (self.keys, other.keys),
        ):
            for one, its in zip(mine, others, strict=True):
                one.merge(its)  # type: ignore[attr-defined]  # of the same class as mine

    def violations(self, num_rows: int) -> Iterator[Violation]:
        """Say what the table should be and is not.

        Parameters
        ----------
        num_rows : int
            Of the whole table.

        Yields
        ------
        Violation
            Columns that are absent or too many first; rows numbered as in the scan. Where a key has an example, only
            its row is known.
        """
        for name in self.plan.absent:
            yield Violation((name,), "required", "be a column of the data", num_rows, 1.0)
        for name in self.plan.extra:
            yield Violation((name,), "extra", "be no column of the data", num_rows, 1.0)
        total = max(1, num_rows)
        for check, tally in zip(self.plan.checks, self.tallies, strict=True):
            found, rule = tally.num_broken, check.rule
            if check.origin == "schema" and found / total > check.allowed:
                yield Violation((check.column,), rule.name, rule.wanted, found, found / total, tally.value, tally.row)
        for (name, wanted), order in zip(self.plan.orders, self.orders, strict=True):
            broken_order = order.finish()
            if broken_order.num_rows:
                found, row, value = broken_order
                yield Violation((name,), "order", f"be {wanted}", found, found / total, value, row)
        for names, keys in zip(self.plan.keys, self.keys, strict=True):
            if keys.num_repeated:
                found, row = keys.num_repeated, keys.first_repeat
                yield Violation(names, "unique", "be unique", found, found / total, row=row, error=keys.error)

    def notes(self) -> Iterator[str]:
        """Say how far an answer can be off.

        Yields
        ------
        str
            A sentence for each key that was judged by a sample.
        """
        for names, keys in zip(self.plan.keys, self.keys, strict=True):
            if not keys.is_exact and not keys.num_repeated:
                yield (
                    f"{', '.join(names)}: no key is there twice among the {show_share(keys.share)} of them that were "
                    f"looked at; with 99% confidence at most {show_count(keys.error)} are (max_keys={keys.max_keys:,} "
                    "of the schema sets how many are)"
                )
