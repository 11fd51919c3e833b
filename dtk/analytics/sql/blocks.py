"""Find in a query's tree the part that can run chunk by chunk.

A *block* is a SELECT in which one big table is read, beside tables small enough to be sent to every task, and after
which few rows are left: because it aggregates, or keeps the first rows. SELECTs below it that look at one row at a time
belong to it. What stands around a block runs once, on its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlglot import exp

__all__ = [
    "RESULT",
    "Block",
    "NotInPartsError",
    "find_block",
    "outer_column",
    "own_nodes",
    "refuse_unsupported",
    "table_names",
    "window_function",
    "with_tables",
]

RESULT: Final = "__dtk_result_"
"""What the names of blocks' answers start with."""

_FORBIDDEN: Final = {
    exp.Lateral: "a lateral join",
    exp.Unnest: "unnest in FROM",
    exp.TableSample: "a sample",
    exp.Pivot: "a pivot",
    exp.Values: "VALUES in FROM",
    exp.Lambda: "a lambda",
    exp.Columns: "COLUMNS()",
}


class NotInPartsError(Exception):
    """Why a query, or a part of it, cannot run chunk by chunk."""


@dataclass(frozen=True)
class Block:
    """A SELECT to be run chunk by chunk.

    Parameters
    ----------
    select : sqlglot.exp.Select
        It, within the tree.
    table : str
        The big table.
    kind : str
        "aggregate", "distinct", "first" or "rows".
    """

    select: exp.Select
    table: str
    kind: str


def refuse_unsupported(tree: exp.Expr) -> None:
    """Refuse what is never run in parts.

    Parameters
    ----------
    tree : sqlglot.exp.Expr
        With qualified columns.

    Raises
    ------
    NotInPartsError
        With the reason.
    """
    if not isinstance(tree, exp.Query):
        raise NotInPartsError("it is no SELECT")
    for node in tree.walk():
        if type(node) in _FORBIDDEN:
            raise NotInPartsError(_FORBIDDEN[type(node)])
        if isinstance(node, exp.With) and (node.recursive or node.parent is not tree):
            raise NotInPartsError("a recursive WITH" if node.recursive else "WITH in a subquery")
        if isinstance(node, exp.Table) and not isinstance(node.this, exp.Identifier):
            raise NotInPartsError(f"{node.this.sql('duckdb')} in FROM")
        if isinstance(node, (exp.Table, exp.Subquery)) and (node.args.get("joins") or node.args.get("sample")):
            raise NotInPartsError("a join in parentheses")


def find_block(tree: exp.Expr, table: exp.Table, may_be_sent: Callable[[str], str]) -> Block:
    """Find the block around a place where a big table is read; a WITH table that is read once is put in its place.

    Parameters
    ----------
    tree : sqlglot.exp.Expr
        With qualified columns; changed in place.
    table : sqlglot.exp.Table
        The place.
    may_be_sent : callable
        ``may_be_sent(name) -> str``: why another table may not be sent to every task; "" if it may.

    Returns
    -------
    Block
        The smallest one that leaves few rows, or the whole query.

    Raises
    ------
    NotInPartsError
        If there is none, with the reason.
    """
    name = table.name
    relation: exp.Expr = table
    while True:
        select = _select_of(relation)
        _refuse_side(select, relation, name)
        for other in _others(select, table, tree):
            reason = may_be_sent(other)
            if reason:
                raise NotInPartsError(reason)
        outer = outer_column(select)
        if outer is not None:
            raise NotInPartsError(f"a subquery over {name} asks for {outer.sql('duckdb')} of the query around it")
        kind = _kind(select, name)
        if kind != "rows" or select is tree:
            return Block(select, name, kind)
        relation = _above(select, tree, name)


def own_nodes(select: exp.Expr) -> Iterator[exp.Expr]:
    """Walk the expressions of a SELECT, without its FROM, its WITH, and queries within it.

    Parameters
    ----------
    select : sqlglot.exp.Select
        A SELECT.

    Yields
    ------
    sqlglot.exp.Expr
        Outer ones first.
    """
    stack: list[Any] = [
        value for key, value in reversed(select.args.items()) if key not in ("from_", "joins", "with_", "where")
    ]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(reversed(node))
        elif isinstance(node, exp.Expr):
            if isinstance(node, exp.Query):
                continue
            yield node
            stack.extend(value for key, value in reversed(node.args.items()))


def table_names(node: exp.Expr, tree: exp.Expr) -> set[str]:
    """List the tables that are read in a part of a query, through its WITH tables too.

    Parameters
    ----------
    node : sqlglot.exp.Expr
        The part.
    tree : sqlglot.exp.Expr
        The whole.

    Returns
    -------
    set of str
        Names of tables and results, not those of WITH.
    """
    ctes, found, seen = with_tables(tree), set(), set()
    stack: list[exp.Expr] = [node]
    while stack:
        for table in stack.pop().find_all(exp.Table):
            if table.name not in ctes:
                found.add(table.name)
            elif table.name not in seen:
                seen.add(table.name)
                stack.append(ctes[table.name].this)
    return found


def with_tables(tree: exp.Expr) -> Mapping[str, exp.CTE]:
    """List a query's WITH tables.

    Parameters
    ----------
    tree : sqlglot.exp.Expr
        The query.

    Returns
    -------
    mapping of str to sqlglot.exp.CTE
        By name.
    """
    found = tree.args.get("with_")
    return {cte.alias: cte for cte in found.expressions} if found is not None else {}


def _select_of(relation: exp.Expr) -> exp.Select:
    parent = relation.parent
    if isinstance(parent, (exp.From, exp.Join)) and isinstance(parent.parent, exp.Select):
        return parent.parent
    raise NotInPartsError(f"{relation.sql('duckdb')} is not read by a plain SELECT")


def _refuse_side(select: exp.Select, relation: exp.Expr, name: str) -> None:
    """Refuse joins that keep rows of another table which match no row of the big one: no chunk knows all its rows."""
    seen = select.args["from_"].this is relation
    for join in select.args.get("joins") or []:
        kind, side, is_here = join.kind.upper(), join.side.upper(), join.this is relation
        if join.method or side == "FULL" or kind not in ("", "INNER", "CROSS", "OUTER", "SEMI", "ANTI"):
            raise NotInPartsError(f"{join.method or side or kind} JOIN with {name}")
        if is_here and (side == "LEFT" or kind in ("SEMI", "ANTI")):
            raise NotInPartsError(f"{name} is on the side of {side or kind} JOIN that may have no match")
        if seen and not is_here and side == "RIGHT":
            raise NotInPartsError(f"{name} is on the side of RIGHT JOIN that may have no match")
        seen = seen or is_here


def _others(select: exp.Select, table: exp.Table, tree: exp.Expr) -> Iterator[str]:
    """List what else is read in a SELECT, the same table in another place too."""
    ctes = with_tables(tree)
    for other in select.find_all(exp.Table):
        if other is table:
            continue
        if other.name in ctes:
            yield from table_names(ctes[other.name].this, tree)
        else:
            yield other.name


def outer_column(select: exp.Expr) -> exp.Column | None:
    """Find a column of a query around a part of it.

    Parameters
    ----------
    select : sqlglot.exp.Expr
        A SELECT, or another query.

    Returns
    -------
    sqlglot.exp.Column or None
        None if it stands for itself.
    """
    for column in select.find_all(exp.Column):
        if column.table and not _is_bound(column, select):
            return column
    return None


def _is_bound(column: exp.Column, top: exp.Expr) -> bool:
    node: Any = column
    while node is not None:
        if isinstance(node, exp.Select) and column.table in _aliases(node):
            return True
        if node is top:
            return False
        node = node.parent
    return False


def _aliases(select: exp.Select) -> list[str]:
    start = select.args.get("from_")
    relations = [start.this] if start is not None else []
    relations += [join.this for join in select.args.get("joins") or []]
    return [relation.alias_or_name for relation in relations]


def _kind(select: exp.Select, name: str) -> str:
    """Tell what a SELECT leaves of its rows."""
    args = select.args
    nodes = list(own_nodes(select))
    windows = [node for node in nodes if isinstance(node, exp.Window)]
    of_windows = {id(window_function(window)) for window in windows}
    aggregates = [node for node in nodes if isinstance(node, exp.AggFunc) and id(node) not in of_windows]
    if args.get("group") or args.get("having") or aggregates:
        return "aggregate"
    if windows or args.get("qualify"):
        raise NotInPartsError(f"a window function over the rows of {name}")
    if args.get("distinct"):
        if args["distinct"].args.get("on"):
            raise NotInPartsError("DISTINCT ON")
        return "distinct"
    if args.get("limit") or args.get("offset"):
        if not args.get("limit"):
            raise NotInPartsError("OFFSET without LIMIT")
        return "first"
    if args.get("order"):
        raise NotInPartsError("ORDER BY without LIMIT sorts all rows")
    return "rows"


def window_function(window: exp.Expr) -> Any:
    """Return the function that a window runs, without what stands around it.

    Parameters
    ----------
    window : sqlglot.exp.Window
        A window.

    Returns
    -------
    sqlglot.exp.Expr
        The function alone.
    """
    function = window.this
    while isinstance(function, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)):
        function = function.this
    return function


def _above(select: exp.Select, tree: exp.Expr, name: str) -> exp.Expr:
    """Return what stands for a SELECT in the FROM around it."""
    parent = select.parent
    if isinstance(parent, exp.Subquery) and isinstance(parent.parent, (exp.From, exp.Join)):
        return parent
    if not isinstance(parent, exp.CTE):
        raise NotInPartsError(f"rows of {name} are asked for within a subquery or a set operation")
    places = [table for table in tree.find_all(exp.Table) if table.name == parent.alias]
    if len(places) != 1:
        raise NotInPartsError(f"the rows of {name} in WITH {parent.alias} are read {len(places)} times")
    place = places[0]
    put = exp.Subquery(this=select, alias=exp.TableAlias(this=exp.to_identifier(place.alias_or_name, quoted=True)))
    place.replace(put)
    parent.pop()
    held = tree.args["with_"]
    if not held.expressions:
        held.pop()
    return put
