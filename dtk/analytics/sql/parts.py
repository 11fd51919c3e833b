"""Aggregate functions in parts: what is found of a group of chunks, how that merges, and what it says at last.

They are SQL's own, where NaN is a number above all others and only NULL is missing; `dtk.aggregate` has pandas'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlglot import exp

__all__ = ["MERGED_FUNCTIONS", "Measure", "distinct_value", "measure_of"]

MERGED_FUNCTIONS: Final = frozenset(
    {
        *("any_value", "avg", "bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "count", "count_if", "count_star"),
        *("countif", "max", "mean", "min", "stddev", "stddev_pop", "stddev_samp", "sum", "var_pop", "var_samp"),
        "variance",
    }
)
"""Names of DuckDB's aggregates that `measure_of` may know."""


@dataclass(frozen=True)
class Measure:
    """How an aggregate is put together.

    Parameters
    ----------
    parts : tuple of sqlglot.exp.Expr
        Aggregates over rows.
    merges : tuple of str
        For each part, SQL that merges it; ``{0}``, ``{1}``... stand for the parts, and ``{centre}``.
    finish : callable
        ``finish(columns) -> Expr``: the answer, of the merged parts.
    centre : str
        SQL of a window over the parts of a group, `{groups}`: a mean to measure from; "" where none is needed.
    """

    parts: tuple[exp.Expr, ...]
    merges: tuple[str, ...]
    finish: Callable[[list[exp.Expr]], exp.Expr]
    centre: str = ""


_SAME: Final[dict[type, str]] = {
    exp.Max: "max",
    exp.Min: "min",
    exp.AnyValue: "any_value",
    exp.LogicalAnd: "bool_and",
    exp.LogicalOr: "bool_or",
    exp.BitwiseAndAgg: "bit_and",
    exp.BitwiseOrAgg: "bit_or",
    exp.BitwiseXorAgg: "bit_xor",
    exp.Sum: "sum",
}
_COUNTS: Final[dict[type, tuple[str, bool]]] = {exp.Count: ("count", True), exp.CountIf: ("count_if", False)}
"""Their names, and whether no rows count 0; DuckDB has NULL for the second."""

_SPREADS: Final[dict[type, tuple[int, bool]]] = {  # what is taken off the count, and whether the root is taken
    exp.Stddev: (1, True),
    exp.StddevSamp: (1, True),
    exp.StddevPop: (0, True),
    exp.Variance: (1, False),
    exp.VariancePop: (0, False),
}


def distinct_value(node: exp.Expr) -> exp.Expr | None:
    """Return what a ``count(DISTINCT value)`` counts.

    Parameters
    ----------
    node : sqlglot.exp.Expr
        An aggregate, or a FILTER of one: of rows that don't pass, nothing is counted.

    Returns
    -------
    sqlglot.exp.Expr or None
        None for any other aggregate.
    """
    condition = None
    if isinstance(node, exp.Filter):
        condition, node = node.expression.this, node.this
    if not isinstance(node, exp.Count) or not isinstance(node.this, exp.Distinct):
        return None
    values = node.this.expressions
    if len(values) != 1 or node.this.args.get("on"):
        return None
    value: exp.Expr = values[0]
    return value if condition is None else exp.Case(ifs=[exp.If(this=condition.copy(), true=value.copy())])


def measure_of(node: exp.Expr, kind: str) -> Measure | None:
    """Tell how an aggregate is put together from parts.

    Parameters
    ----------
    node : sqlglot.exp.Expr
        An aggregate function, or a FILTER of one.
    kind : str
        DuckDB's type of its answer.

    Returns
    -------
    Measure or None
        None where it is not known how.
    """
    condition = None
    if isinstance(node, exp.Filter):
        condition, node = node.expression, node.this
    if isinstance(node, exp.IgnoreNulls) and isinstance(node.this, exp.AnyValue):
        node = node.this  # any value that is not null, by definition
    if any(value for key, value in node.args.items() if key not in ("this", "big_int")):
        return None
    value = node.this
    if isinstance(value, exp.Distinct) and isinstance(node, (exp.Max, exp.Min)) and len(value.expressions) == 1:
        value = value.expressions[0]
    if not isinstance(value, exp.Expr) or isinstance(value, (exp.Order, exp.HavingMax, exp.Distinct)):
        return None
    return _measure(type(node), value, condition, kind)


def _measure(function: type, value: exp.Expr, condition: exp.Expr | None, kind: str) -> Measure | None:
    if function in _COUNTS:
        name, has_zero = _COUNTS[function]
        parts = (_aggregate(name, value, condition),)
        zero = _zero_if_null if has_zero else _itself
        return Measure(parts, ("sum({0})",), lambda merged: _cast(zero(merged[0]), kind))
    if function in _SAME:
        name = _SAME[function]
        parts = (_aggregate(name, value, condition),)
        return Measure(parts, (f"{name}({{0}})",), lambda merged: _cast(merged[0], kind))
    if kind != "DOUBLE":  # means of dates
        return None
    if function is exp.Avg:
        both = (_aggregate("sum", value, condition), _aggregate("count", value, condition))
        return Measure(both, ("sum({0})", "sum({1})"), lambda merged: _quotient(_cast(merged[0], "DOUBLE"), merged[1]))
    if function in _SPREADS:
        return _spread(function, value, condition)
    return None


def _spread(function: type, value: exp.Expr, condition: exp.Expr | None) -> Measure:
    """Merge sums of squares around the parts' own means, so that nothing is lost where these are far from 0."""
    off, is_root = _SPREADS[function]
    value = _cast(value.copy(), "DOUBLE")
    count, mean = _aggregate("count", value, condition), _aggregate("avg", value, condition)
    squares = exp.Mul(this=_zero_if_null(_aggregate("var_pop", value, condition)), expression=count.copy())
    merges = ("sum({0})", "any_value({centre})", "sum({2} + coalesce({0} * ({1} - {centre}) ** 2, 0))")

    def finish(merged: list[exp.Expr]) -> exp.Expr:
        count = _cast(merged[0], "DOUBLE")
        if off:
            count = exp.Paren(this=exp.Sub(this=count, expression=exp.Literal.number(off)))
        above = exp.GT(this=count.copy(), expression=exp.Literal.number(0))
        spread = exp.Case(ifs=[exp.If(this=above, true=_quotient(merged[2], count))])
        return exp.Sqrt(this=spread) if is_root else spread

    centre = "sum({0} * {1}) OVER ({groups}) / nullif(sum({0}) OVER ({groups}), 0)"
    return Measure((count, mean, squares), merges, finish, centre)


def _aggregate(function: str, value: exp.Expr, condition: exp.Expr | None) -> exp.Expr:
    made: exp.Expr = exp.Anonymous(this=function, expressions=[value.copy()])
    return exp.Filter(this=made, expression=condition.copy()) if condition is not None else made


def _cast(value: exp.Expr, kind: str) -> exp.Expr:
    """Cast to a type in DuckDB's own words."""
    return exp.Cast(this=value, to=exp.DataType.build(kind, dialect="duckdb"))


def _zero_if_null(value: exp.Expr) -> exp.Expr:
    return exp.Coalesce(this=value, expressions=[exp.Literal.number(0)])


def _itself(value: exp.Expr) -> exp.Expr:
    return value


def _quotient(total: exp.Expr, count: exp.Expr) -> exp.Expr:
    """Divide, with NULL for no rows."""
    divisor = exp.Nullif(this=_cast(count, "DOUBLE"), expression=exp.Literal.number(0))
    return exp.Paren(this=exp.Div(this=total, expression=divisor, typed=False, safe=False))
