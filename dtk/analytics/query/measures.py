"""Aggregate functions in parts: what a task finds out of its rows, how that merges, and what it says in the end.

In the SQL here, ``rows`` are the rows that count, with keys ``k0, k1, ...``, values ``v0, v1, ...`` (NaN is missing
there) and, where wanted, the number of each row; ``base`` is the table of the first stage.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.sources.columns import close_to

__all__ = ["FUNCTIONS", "Column", "Measure", "Parts", "parse_measure"]


@dataclass(frozen=True)
class Column:
    """A value in the SQL.

    Parameters
    ----------
    name : str
        What the user calls it.
    sql : str
        ``v0`` and so on.
    kind : pa.DataType
        Of its values.
    """

    name: str
    sql: str
    kind: pa.DataType

    @property
    def is_number(self) -> bool:
        """Whether it can be summed."""
        kind = self.kind
        is_plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        return bool(is_plain or pa.types.is_decimal(kind))

    @property
    def number(self) -> str:
        """SQL of it as a number: a boolean is 0 or 1."""
        return f"{self.sql}::INTEGER" if pa.types.is_boolean(self.kind) else self.sql

    @property
    def float(self) -> str:
        """SQL of it as a float."""
        return f"{self.number}::DOUBLE"


@dataclass
class Parts:
    """The columns of the first stage, collected from all measures; what two of them need is there once.

    Parameters
    ----------
    partial : dict of str to str
        SQL over ``rows``, by column.
    merge : dict of str to str
        SQL over ``parts``, by column.
    centres : dict of str to str
        SQL over ``parts`` by groups, as a window, by the name by which `merge` uses it: a mean to measure from.
    """

    partial: dict[str, str] = field(default_factory=dict)
    merge: dict[str, str] = field(default_factory=dict)
    centres: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, partial: str, merge: str) -> str:
        """Add a column.

        Parameters
        ----------
        name : str
            Says what it is, with the value's name.
        partial : str
            SQL over ``rows``.
        merge : str
            SQL over ``parts``, with ``{}`` for the column.

        Returns
        -------
        str
            SQL of it over ``base``.
        """
        self.partial[name] = partial
        self.merge[name] = merge.format(name)
        return f"base.{name}"

    def count(self, value: Column) -> str:
        """Add how many values there are.

        Parameters
        ----------
        value : Column
            Of these.

        Returns
        -------
        str
            SQL over ``base``.
        """
        return self.add(f"{value.sql}_count", f"count({value.sql})", "sum({})::BIGINT")

    def sum(self, value: Column) -> str:
        """Add the sum: exact for integers and decimals.

        Parameters
        ----------
        value : Column
            Of these.

        Returns
        -------
        str
            SQL over ``base``.
        """
        number = value.float if pa.types.is_floating(value.kind) else value.number
        return self.add(f"{value.sql}_sum", f"sum({number})", "sum({})")

    def spread(self, value: Column) -> tuple[str, str]:
        """Add the mean, and the sum of squares of what differs from it, which merges without cancellation.

        Parameters
        ----------
        value : Column
            Of these.

        Returns
        -------
        (str, str)
            SQL over ``base`` of the number of values, and of that sum.
        """
        count = f"{value.sql}_count"
        return self._centred(value.sql, value.float, count, self.count(value))

    def _centred(self, name: str, number: str, count: str, counted: str, where: str = "") -> tuple[str, str]:
        mean, squares, centre = f"{name}_mean", f"{name}_squares", f"{name}_centre"
        self.centres[centre] = f"sum({count} * {mean}) OVER of_group / nullif(sum({count}) OVER of_group, 0)"
        self.add(mean, f"avg({number}){where}", f"any_value({centre})")
        of_chunk = f"coalesce(var_pop({number}){where}, 0) * count({number}){where}"
        self.add(squares, of_chunk, f"sum({{}} + coalesce({count} * ({mean} - {centre}) ** 2, 0))")
        return counted, f"base.{squares}"

    def together(self, value: Column, other: Column) -> tuple[str, str, str, str]:
        """Add what a correlation is made of, of the rows that have both values.

        Parameters
        ----------
        value, other : Column
            Two values.

        Returns
        -------
        (str, str, str, str)
            SQL over ``base``: number of rows, squares of both, and the sum of products.
        """
        where = f" FILTER (WHERE {value.sql} IS NOT NULL AND {other.sql} IS NOT NULL)"
        both, name = f"{value.sql}_{other.sql}", f"{value.sql}_{other.sql}_count"
        count = self.add(name, f"count(*){where}", "sum({})::BIGINT")
        _, of_value = self._centred(f"{both}_x", value.float, name, count, where)
        _, of_other = self._centred(f"{both}_y", other.float, name, count, where)
        x, y = (f"({both}_{axis}_mean - {both}_{axis}_centre)" for axis in "xy")
        of_chunk = f"coalesce(covar_pop({value.float}, {other.float}){where}, 0) * count(*){where}"
        products = self.add(f"{both}_products", of_chunk, f"sum({{}} + coalesce({name} * {x} * {y}, 0))")
        return count, of_value, of_other, products


@dataclass(frozen=True)
class Measure:
    """One function of one column.

    Parameters
    ----------
    column : str
        Which; ``*`` for rows.
    function : str
        One of `FUNCTIONS`.
    arguments : tuple of str
        In its parentheses.
    """

    column: str
    function: str
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the column of the result, such as ``arr_delay_mean``."""
        told = () if self.function == "histogram" else self.arguments
        return "_".join([*([self.column] if self.column != "*" else []), self.function, *told])

    @property
    def others(self) -> tuple[str, ...]:
        """Other columns that it looks at."""
        return self.arguments if self.function in ("corr", "weighted_mean") else ()

    def numbers(self) -> list[float]:
        """Read the arguments as numbers.

        Returns
        -------
        list of float
            In order.

        Raises
        ------
        ArgumentError
            If one is no number.
        """
        try:
            return [float(argument) for argument in self.arguments]
        except ValueError:
            raise ArgumentError(f"agg: {self} takes numbers, such as {FUNCTIONS[self.function].example}") from None

    def __str__(self) -> str:
        return f"{self.function}({', '.join(self.arguments)})" if self.arguments else self.function


@dataclass(frozen=True)
class Function:
    """What can be asked of a column.

    Parameters
    ----------
    example : str
        How it is written.
    num_arguments : tuple of int
        At least, and at most.
    is_of_numbers : bool
        Whether it needs numbers.
    """

    example: str
    num_arguments: tuple[int, int] = (0, 0)
    is_of_numbers: bool = True


FUNCTIONS: Final[Mapping[str, Function]] = {
    "count": Function("count", is_of_numbers=False),
    "sum": Function("sum"),
    "mean": Function("mean"),
    "min": Function("min", is_of_numbers=False),
    "max": Function("max", is_of_numbers=False),
    "var": Function("var"),
    "std": Function("std"),
    "skew": Function("skew"),
    "median": Function("median"),
    "quantile": Function("quantile(0.95)", (1, 1)),
    "distinct": Function("distinct", is_of_numbers=False),
    "first": Function("first", is_of_numbers=False),
    "last": Function("last", is_of_numbers=False),
    "mode": Function("mode", is_of_numbers=False),
    "top": Function("top(3)", (1, 1), is_of_numbers=False),
    "weighted_mean": Function("weighted_mean(distance)", (1, 1)),
    "corr": Function("corr(distance)", (1, 1)),
    "histogram": Function("histogram(0, 10, 20)", (2, 1000)),
}


def parse_measure(column: str, text: str) -> Measure:
    """Read what is asked of a column.

    Parameters
    ----------
    column : str
        Its name, or ``*``.
    text : str
        A function, with its arguments in parentheses if it takes any.

    Returns
    -------
    Measure
        With a known function and the right number of arguments.

    Raises
    ------
    ArgumentError
        If it is no such thing.

    Examples
    --------
    >>> parse_measure("delay", "quantile(0.95)").name
    'delay_quantile_0.95'
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text, flags=re.DOTALL) if isinstance(text, str) else None
    if match is None or match[1] not in FUNCTIONS:
        name = text if match is None else match[1]
        raise ArgumentError(f"agg: {name!r} of {column!r} is no aggregate function; {close_to(name, list(FUNCTIONS))}")
    inside = match[2]
    arguments = tuple(part.strip() for part in inside.split(",")) if inside and inside.strip() else ()
    function = FUNCTIONS[match[1]]
    least, most = function.num_arguments
    if not least <= len(arguments) <= most:
        raise ArgumentError(f"agg: {text!r} of {column!r} is not understood; write {function.example}")
    if column == "*" and match[1] != "count":
        raise ArgumentError(f"agg: {text!r} needs a column; of '*' there is only count")
    return Measure(column, match[1], arguments)


def finish_sql(measure: Measure, value: Column, others: Sequence[Column], parts: Parts) -> str | None:
    """Say how a measure follows from the first stage, whose columns are added to `parts`.

    Parameters
    ----------
    measure : Measure
        What is asked.
    value : Column
        Of this value.
    others : sequence of Column
        The other columns that it looks at.
    parts : Parts
        Takes the columns that are needed.

    Returns
    -------
    str or None
        SQL over ``base``; None for a measure that takes another stage.
    """
    plain = _PLAIN.get(measure.function)
    if plain is not None:
        return plain(value, parts)
    if measure.function == "histogram":
        return _histogram(measure, value, parts)
    if measure.function == "weighted_mean":
        return _weighted_mean(value, others[0], parts)
    if measure.function == "corr":
        _, of_value, of_other, products = parts.together(value, others[0])
        return f"{products} / nullif(sqrt({of_value}) * sqrt({of_other}), 0)"
    return None


def _sum(value: Column, parts: Parts) -> str:
    total = f"coalesce({parts.sum(value)}, 0)"
    return f"{total}::BIGINT" if pa.types.is_integer(value.kind) or pa.types.is_boolean(value.kind) else total


def _mean(value: Column, parts: Parts) -> str:
    return f"{parts.sum(value)}::DOUBLE / nullif({parts.count(value)}, 0)"


def _var(value: Column, parts: Parts) -> str:
    count, squares = parts.spread(value)
    return f"CASE WHEN {count} > 1 THEN {squares} / ({count} - 1) END"


def _std(value: Column, parts: Parts) -> str:
    return f"sqrt({_var(value, parts)})"


def _first(value: Column, parts: Parts, function: str = "min") -> str:
    where = f" FILTER (WHERE {value.sql} IS NOT NULL)"
    row = f"{value.sql}_{function}_row"
    parts.add(row, f"{function}(row){where}", f"{function}({{}})")
    return parts.add(
        f"{value.sql}_at_{function}", f"arg_{function}({value.sql}, row){where}", f"arg_{function}({{}}, {row})"
    )


def _last(value: Column, parts: Parts) -> str:
    return _first(value, parts, "max")


def _histogram(measure: Measure, value: Column, parts: Parts) -> str:
    edges = measure.numbers()
    if any(low >= high for low, high in itertools.pairwise(edges)):
        raise ArgumentError(f"agg: {measure} of {value.name!r} needs edges that rise, such as histogram(0, 10, 20)")
    bins = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        end = "<=" if number == len(edges) - 2 else "<"
        where = f"{value.float} >= {low!r} AND {value.float} {end} {high!r}"
        name = f"{value.sql}_from_{_name_of(low)}_to_{_name_of(high)}_{number == len(edges) - 2}"
        bins.append(f"coalesce({parts.add(name, f'count(*) FILTER (WHERE {where})', 'sum({})::BIGINT')}, 0)")
    return f"[{', '.join(bins)}]"


def _name_of(number: float) -> str:
    return re.sub(r"\W", lambda found: f"_{ord(found[0])}_", repr(number))


def _weighted_mean(value: Column, weight: Column, parts: Parts) -> str:
    both = f"{value.sql}_by_{weight.sql}"
    products = parts.add(f"{both}_sum", f"sum({value.float} * {weight.float})", "sum({})")
    where = f" FILTER (WHERE {value.sql} IS NOT NULL)"
    weights = parts.add(f"{both}_weight", f"sum({weight.float}){where}", "sum({})")
    return f"{products} / nullif({weights}, 0)"


_PLAIN: Final[Mapping[str, Callable[[Column, Parts], str]]] = {
    "count": lambda value, parts: f"coalesce({parts.count(value)}, 0)",
    "sum": _sum,
    "mean": _mean,
    "min": lambda value, parts: parts.add(f"{value.sql}_min", f"min({value.sql})", "min({})"),
    "max": lambda value, parts: parts.add(f"{value.sql}_max", f"max({value.sql})", "max({})"),
    "var": _var,
    "std": _std,
    "first": _first,
    "last": _last,
}
