"""Turn a block of a query into SQL for chunks, for merging, and for the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlglot
from sqlglot import exp

from dtk.analytics.sql.blocks import (
    RESULT,
    Block,
    NotInPartsError,
    outer_column,
    own_nodes,
    table_names,
    window_function,
    with_tables,
)
from dtk.analytics.sql.parts import Measure, distinct_value, measure_of

__all__ = ["PARTS", "Stage", "make_stage", "text_of"]

PARTS: Final = "__dtk_parts"
"""The table of parts that a merge reads."""

_KEY, _PART, _ORDER, _COUNT = "__dtk_key_", "__dtk_part_", "__dtk_order_", "__dtk_count"

DescribeTypes = Callable[[str, str, set[str]], list[str]]


@dataclass(frozen=True)
class Stage:
    """A block that runs chunk by chunk.

    Parameters
    ----------
    name : str
        Of its answer.
    table : str
        The table whose chunks it reads.
    kind : str
        As in `Block`.
    scan : str
        SQL for a group of chunks, which have the table's name.
    merge : str or None
        SQL for several parts, which are one table, `PARTS`; None where the rows are the answer.
    beside : tuple of str
        Tables, and answers of earlier stages, that every task gets whole.
    is_one_row : bool
        Whether the answer has a row at most.
    """

    name: str
    table: str
    kind: str
    scan: str
    merge: str | None
    beside: tuple[str, ...]
    is_one_row: bool = False


def make_stage(block: Block, tree: exp.Expr, number: int, types_of: DescribeTypes) -> tuple[Stage, exp.Expr]:
    """Put the answer of a block in its place.

    Parameters
    ----------
    block : Block
        Within the tree.
    tree : sqlglot.exp.Expr
        The query; changed in place.
    number : int
        Of the stage, from 0.
    types_of : callable
        ``types_of(sql, table, tables) -> list of str``: DuckDB's types of what a query gives.

    Returns
    -------
    stage : Stage
        What runs chunk by chunk.
    tree : sqlglot.exp.Expr
        What remains.

    Raises
    ------
    NotInPartsError
        If it cannot be put together from parts.
    """
    name, select = f"{RESULT}{number}", block.select
    counts_values = any(distinct_value(one) is not None for one in _aggregates(select).values())
    one_row = block.kind == "aggregate" and not select.args.get("group") and not counts_values
    beside = sorted(table_names(select, tree) - {block.table})
    withs = _withs(select, tree)
    if block.kind == "rows":
        scan, merge, after = _text(select.copy(), []), None, select
    elif block.kind == "first":
        scan, merge, after = _first_rows(select, name, withs)
    else:
        types = lambda query: types_of(_text(query, withs), block.table, {*beside})  # noqa: E731
        scan, merge, after = _grouped(select, name, withs, types, is_distinct=block.kind == "distinct")
    stage = Stage(name, block.table, block.kind, scan, merge, tuple(beside), is_one_row=one_row)
    if select is tree:
        if select is not after and tree.args.get("with_"):
            after.set("with_", tree.args["with_"].copy())
        return stage, after
    select.replace(after)
    return stage, tree


def text_of(tree: exp.Expr) -> str:
    """Write a tree as DuckDB's SQL, with all names in quotes.

    Parameters
    ----------
    tree : sqlglot.exp.Expr
        A query.

    Returns
    -------
    str
        SQL.
    """
    text: str = tree.sql("duckdb", identify=True)
    return text


def _withs(select: exp.Select, tree: exp.Expr) -> list[exp.CTE]:
    """List the WITH tables that a SELECT needs, in their order."""
    ctes, wanted = with_tables(tree), set()
    stack: list[exp.Expr] = [select]
    while stack:
        for table in stack.pop().find_all(exp.Table):
            if table.name in ctes and table.name not in wanted:
                wanted.add(table.name)
                stack.append(ctes[table.name].this)
    return [cte for name, cte in ctes.items() if name in wanted]


def _text(select: exp.Select, withs: Sequence[exp.CTE]) -> str:
    if withs:
        select.set("with_", exp.With(expressions=[cte.copy() for cte in withs]))
    return text_of(select)


def _first_rows(select: exp.Select, name: str, withs: Sequence[exp.CTE]) -> tuple[str, str, exp.Select]:
    """Keep the first rows of each group of chunks, and of these the first."""
    limit, offset = _number(select, "limit"), _number(select, "offset")
    orders = select.args["order"].expressions if select.args.get("order") else []
    outputs = select.expressions
    columns = [exp.alias_(_inner(one).copy(), f"{_KEY}{at}", quoted=True) for at, one in enumerate(outputs)]
    ordered = []
    for at, order in enumerate(orders):
        columns.append(exp.alias_(_meant(order.this, outputs).copy(), f"{_ORDER}{at}", quoted=True))
        ordered.append(_ordered_by(order, _column(f"{_ORDER}{at}")))
    scan = _over_same(select, columns)
    merge = exp.Select(expressions=[exp.Star()]).from_(exp.to_table(PARTS))
    after = exp.Select(
        expressions=[
            exp.alias_(_column(f"{_KEY}{at}"), one.alias_or_name, quoted=True) for at, one in enumerate(outputs)
        ]
    ).from_(exp.to_table(name))
    for query in (scan, merge, after):
        if ordered:
            query.set("order", exp.Order(expressions=[one.copy() for one in ordered]))
    for query in (scan, merge):
        query.set("limit", exp.Limit(expression=exp.Literal.number(limit + offset)))
    after.set("limit", exp.Limit(expression=exp.Literal.number(limit)))
    if offset:
        after.set("offset", exp.Offset(expression=exp.Literal.number(offset)))
    return _text(scan, withs), text_of(merge), after


def _number(select: exp.Select, clause: str) -> int:
    given = select.args.get(clause)
    if given is None:
        return 0
    number = given.expression
    if given.args.get("limit_options") or not isinstance(number, exp.Literal) or number.is_string:
        raise NotInPartsError(f"{clause.upper()} that is no whole number")
    if not number.this.isdigit():
        raise NotInPartsError(f"{clause.upper()} that is no whole number")
    return int(number.this)


def _meant(expression: exp.Expr, outputs: Sequence[exp.Expr]) -> exp.Expr:
    """Return what an ORDER BY names: an output by its number or alias, or the expression itself."""
    if isinstance(expression, exp.Literal) and not expression.is_string:
        return _inner(outputs[int(expression.this) - 1])
    if isinstance(expression, exp.Column) and not expression.table:
        for one in outputs:
            if one.alias_or_name == expression.name:
                return _inner(one)
    if isinstance(expression, exp.Var) or any(not column.table for column in expression.find_all(exp.Column)):
        raise NotInPartsError(f"ORDER BY {expression.sql('duckdb')}")
    return expression


def _ordered_by(order: exp.Expr, column: exp.Expr) -> exp.Expr:
    copied = order.copy()
    copied.set("this", column)
    return copied


def _inner(output: exp.Expr) -> exp.Expr:
    return output.this if isinstance(output, exp.Alias) else output


def _column(name: str) -> exp.Column:
    return exp.column(exp.to_identifier(name, quoted=True))


def _over_same(select: exp.Select, columns: Sequence[exp.Expr]) -> exp.Select:
    """Select other expressions of the same rows."""
    made = exp.Select(expressions=list(columns))
    for clause in ("from_", "joins", "where"):
        given = select.args.get(clause)
        if given:
            made.set(clause, [one.copy() for one in given] if isinstance(given, list) else given.copy())
    return made


def _grouped(
    select: exp.Select, name: str, withs: Sequence[exp.CTE], types_of: Any, *, is_distinct: bool
) -> tuple[str, str, exp.Select]:
    """Aggregate each group of chunks, merge by key, and compute the outputs of that."""
    keys = [_inner(one) for one in select.expressions] if is_distinct else _keys(select)
    keys = list({text_of(key): key for key in keys}.values())
    aggregates = _aggregates(select)
    outputs = [*keys, *aggregates.values()]
    named = [exp.alias_(one.copy(), f"{_KEY}{at}", quoted=True) for at, one in enumerate(outputs)]
    kinds = types_of(_by_keys(_over_same(select, named), len(keys)))
    columns = _Columns(len(keys))
    answers: dict[str, exp.Expr] = {text_of(key): _column(f"{_KEY}{at}") for at, key in enumerate(keys)}
    for (text, aggregate), kind in zip(aggregates.items(), kinds[len(keys) :], strict=True):
        value = distinct_value(aggregate)
        answers[text] = columns.add(measure_of(aggregate, kind), aggregate) if value is None else columns.count(value)
    counted = columns.counted
    by = [*keys, *([counted] if counted is not None else [])]
    found = [exp.alias_(one.copy(), f"{_KEY}{at}", quoted=True) for at, one in enumerate(by)] + columns.parts
    scan = _by_keys(_over_same(select, found), len(by))
    merge = columns.merged(PARTS, len(by))
    rows: exp.Expr = exp.to_table(name)
    if counted is not None:  # the values are a key until here
        rows = exp.Subquery(
            this=columns.merged(name, len(keys)), alias=exp.TableAlias(this=exp.to_identifier("groups"))
        )
    return _text(scan, withs), text_of(merge), _after(select, rows, answers)


class _Columns:
    """The columns of the parts of a block."""

    def __init__(self, num_keys: int) -> None:
        self.num_keys = num_keys
        self.parts: list[exp.Expr] = []
        self.merges: list[exp.Expr] = []
        self.centres: dict[str, str] = {}
        self.counted: exp.Expr | None = None

    def add(self, measure: Measure | None, aggregate: exp.Expr) -> exp.Expr:
        """Add the parts of an aggregate, and return its answer."""
        if measure is None:
            raise NotInPartsError(f"{aggregate.sql('duckdb')} is not put together from parts")
        labels = [f"{_PART}{len(self.parts) + at}" for at in range(len(measure.parts))]
        words: dict[str, str] = {"centre": f'"{labels[0]}_centre"', "groups": "{groups}"}
        quoted = [f'"{label}"' for label in labels]
        if measure.centre:
            self.centres[words["centre"]] = measure.centre.format(*quoted, **words)
        for label, part, merge in zip(labels, measure.parts, measure.merges, strict=True):
            self.parts.append(exp.alias_(part, label, quoted=True))
            merging = sqlglot.parse_one(merge.format(*quoted, **words), dialect="duckdb")
            self.merges.append(exp.alias_(merging, label, quoted=True))
        return measure.finish([_column(label) for label in labels])

    def count(self, value: exp.Expr) -> exp.Expr:
        """Count distinct values: they are one more key until all is merged."""
        if self.counted is not None and text_of(self.counted) != text_of(value):
            raise NotInPartsError("distinct values of two columns are counted")
        self.counted = value
        return _column(_COUNT)

    def merged(self, table: str, num_keys: int) -> exp.Select:
        """Merge by the first keys; a counted value is no longer one then."""
        keys = [_column(f"{_KEY}{at}") for at in range(num_keys)]
        columns: list[exp.Expr] = [*keys, *_copies(self.merges)]
        if self.counted is not None and num_keys == self.num_keys:
            counts = exp.Count(this=_column(f"{_KEY}{num_keys}"), big_int=True)
            columns.append(exp.alias_(counts, _COUNT, quoted=True))
        rows: exp.Expr = exp.Table(this=exp.to_identifier(table, quoted=True))
        if self.centres:
            groups = f"PARTITION BY {', '.join(text_of(key) for key in keys)}" if keys else ""
            windows = ", ".join(f"{sql.format(groups=groups)} AS {name}" for name, sql in self.centres.items())
            inner = sqlglot.parse_one(f'SELECT *, {windows} FROM "{table}"', dialect="duckdb")
            rows = exp.Subquery(this=inner, alias=exp.TableAlias(this=exp.to_identifier("parts")))
        return _by_keys(exp.Select(expressions=columns).from_(rows), num_keys)


def _copies(nodes: Sequence[exp.Expr]) -> list[exp.Expr]:
    return [node.copy() for node in nodes]


def _by_keys(select: exp.Select, num_keys: int) -> exp.Select:
    """Group by the first columns."""
    if num_keys:
        numbers = [exp.Literal.number(at + 1) for at in range(num_keys)]
        select.set("group", exp.Group(expressions=numbers))
    return select


def _keys(select: exp.Select) -> list[exp.Expr]:
    """List what a SELECT groups by."""
    group = select.args.get("group")
    if group is None:
        return []
    if any(value for key, value in group.args.items() if key not in ("expressions", "all")):
        raise NotInPartsError("grouping sets")
    if group.args.get("all"):
        inner = [_inner(one) for one in select.expressions]
        keys = [one for one in inner if not any(isinstance(node, exp.AggFunc) for node in one.walk())]
        if any(isinstance(node, (exp.Window, exp.Query)) for one in inner for node in one.walk()):
            raise NotInPartsError("GROUP BY ALL beside windows or subqueries")
        return keys
    for key in group.expressions:
        if isinstance(key, (exp.Rollup, exp.Cube, exp.GroupingSets, exp.Tuple)):
            raise NotInPartsError("grouping sets")
        if isinstance(key, exp.Query) or any(isinstance(node, exp.Query) for node in key.walk()):
            raise NotInPartsError("a subquery in GROUP BY")
    return [key.this if isinstance(key, exp.Paren) else key for key in group.expressions]


def _aggregates(select: exp.Select) -> dict[str, exp.Expr]:
    """Find the aggregates of a SELECT, by their text: not the functions of its windows, but what is in these."""
    nodes = list(own_nodes(select))
    of_windows = set()
    for window in nodes:
        if isinstance(window, exp.Window):
            function: Any = window.this
            while function is not window_function(window):
                of_windows.add(id(function))
                function = function.this
            of_windows.add(id(function))
    found: dict[str, exp.Expr] = {}
    for node in nodes:
        if isinstance(node, exp.AggFunc) and id(node) not in of_windows:
            whole: exp.Expr = node
            while isinstance(whole.parent, (exp.Filter, exp.IgnoreNulls)) and id(whole.parent) not in of_windows:
                whole = whole.parent
            if not isinstance(whole.parent, (exp.Filter, exp.IgnoreNulls)):
                found[text_of(whole)] = whole
    return found


def _after(select: exp.Select, rows: exp.Expr, answers: dict[str, exp.Expr]) -> exp.Select:
    """Make the SELECT over merged parts that gives the outputs."""
    made = exp.Select(
        expressions=[
            exp.alias_(_rewritten(_inner(one), answers), one.alias_or_name, quoted=True) for one in select.expressions
        ]
    ).from_(rows)
    if select.args.get("having"):
        made.set("where", exp.Where(this=_rewritten(select.args["having"].this, answers)))
    for clause in ("qualify", "order", "distinct", "windows"):
        given = select.args.get(clause)
        if isinstance(given, list):
            made.set(clause, [_rewritten(one, answers) for one in given])
        elif given:
            made.set(clause, _rewritten(given, answers))
    for clause in ("limit", "offset"):
        if select.args.get(clause):
            made.set(clause, select.args[clause].copy())
    outputs = {one.alias_or_name for one in select.expressions}
    _refuse_rows(made, outputs)
    return made


def _rewritten(node: exp.Expr, answers: dict[str, exp.Expr]) -> exp.Expr:
    """Put the merged columns in the place of keys and aggregates."""
    answer = answers.get(text_of(node)) if isinstance(node, exp.Expr) else None
    if answer is not None:
        return answer.copy()
    if isinstance(node, exp.Query):
        return node.copy()
    made = node.__class__()
    for key, value in node.args.items():
        if isinstance(value, list):
            made.set(key, [_rewritten(one, answers) if isinstance(one, exp.Expr) else one for one in value])
        else:
            made.set(key, _rewritten(value, answers) if isinstance(value, exp.Expr) else value)
    return made


def _refuse_rows(made: exp.Select, outputs: set[str]) -> None:
    """Refuse what would need columns that are no longer there."""
    internal = (_KEY, _PART, _COUNT)
    own = list(own_nodes(made)) + list((made.args.get("where") or exp.Where()).walk())
    for node in own:
        is_row = isinstance(node, exp.Column) and not node.name.startswith(internal)
        if is_row and (node.args.get("table") or node.name not in outputs):
            raise NotInPartsError(f"{node.sql('duckdb')} is neither a key nor in an aggregate")
    for query in [one for one in made.find_all(exp.Query) if one is not made]:
        column = outer_column(query)
        if column is not None:
            raise NotInPartsError(f"a subquery asks for {column.sql('duckdb')} of the query around it")
