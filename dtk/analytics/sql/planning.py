"""Decide which way a query runs: in parts, chunk by chunk, or whole, on one worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import duckdb
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify

from dtk.analytics.sql.bare import bare_connection
from dtk.analytics.sql.binding import Bound, describe, empty_tables, unstable_functions
from dtk.analytics.sql.blocks import RESULT, Block, NotInPartsError, find_block, refuse_unsupported
from dtk.analytics.sql.parts import MERGED_FUNCTIONS
from dtk.analytics.sql.stages import PARTS, Stage, make_stage, text_of
from dtk.memory import format_nbytes

__all__ = ["BROADCAST_NBYTES", "QueryPlan", "plan_query"]

BROADCAST_NBYTES: Final = 128 * 2**20


@dataclass(frozen=True)
class QueryPlan:
    """Which way a query runs.

    Parameters
    ----------
    bound : Bound
        The query.
    way : str
        "distributed" or "whole".
    why : str
        The reason.
    stages : tuple of Stage
        What runs chunk by chunk, in order.
    finish : str or None
        SQL over the stages' answers and `beside`; None where the last stage's rows are the answer.
    beside : tuple of str
        The tables and results that it reads.
    """

    bound: Bound
    way: str
    why: str
    stages: tuple[Stage, ...] = ()
    finish: str | None = None
    beside: tuple[str, ...] = ()


def plan_query(bound: Bound, *, broadcast_nbytes: int = BROADCAST_NBYTES) -> QueryPlan:
    """Choose the way of a query.

    Parameters
    ----------
    bound : Bound
        The query.
    broadcast_nbytes : int
        The bytes that tables may take together to be sent to every task.

    Returns
    -------
    QueryPlan
        Checked on empty tables: its SQL gives the query's own columns and types.
    """
    statement = bound.statement
    if statement.tree is None:
        return QueryPlan(bound, "whole", "sqlglot does not read it as DuckDB does")
    try:
        _refuse_functions(statement.node)
        _refuse_shadows(statement.tree, bound)
        tree = _qualified(statement.tree, bound)
        refuse_unsupported(tree)
    except NotInPartsError as reason:
        return QueryPlan(bound, "whole", str(reason))
    sizes = {name.lower(): bound.nbytes(name) for name in bound.tables}
    if not sizes:
        return QueryPlan(bound, "whole", "it reads no table")
    reasons = []
    for base in _bases(sizes, broadcast_nbytes):
        try:
            return _Planner(bound, tree.copy(), sizes, base, broadcast_nbytes).plan()
        except NotInPartsError as reason:
            reasons.append(str(reason))
    return QueryPlan(bound, "whole", reasons[0])


def _bases(sizes: Mapping[str, int | None], limit: int) -> Iterator[frozenset[str]]:
    """Yield tables that may be read chunk by chunk: those too big to be sent, or else one, the biggest first."""
    big = frozenset(name for name, nbytes in sizes.items() if nbytes is None or nbytes > limit)
    if big:
        yield big
        return
    for name in sorted(sizes, key=lambda one: -(sizes[one] or 0)):
        yield frozenset([name])


class _Planner:
    """Takes blocks out of a tree, one after the other, until none of the tables that are read in chunks is left."""

    def __init__(
        self, bound: Bound, tree: exp.Expr, sizes: Mapping[str, int | None], base: frozenset[str], limit: int
    ) -> None:
        self.bound, self.tree, self.sizes, self.base, self.limit = bound, tree, sizes, base, limit
        self.stages: list[Stage] = []
        self.names = {name.lower(): name for name in bound.tables}

    def plan(self) -> QueryPlan:
        schemas = {name.lower(): self.bound.schema(name) for name in self.bound.tables}
        with empty_tables(schemas) as connection:
            try:
                while self._places():
                    self._take_block(connection)
                if not self.stages:
                    raise NotInPartsError("it reads no table")
                return self._finished(connection)
            except duckdb.Error as error:
                raise NotInPartsError(f"its parts cannot be bound ({str(error).splitlines()[0][:200]})") from None
            except (SqlglotError, ValueError, KeyError, AttributeError, IndexError) as error:
                raise NotInPartsError(f"its parts cannot be written ({type(error).__name__}: {error})") from None

    def _places(self) -> list[exp.Table]:
        if self.stages and self.stages[-1].merge is None:
            return []
        return [table for table in self.tree.find_all(exp.Table) if table.name in self.base]

    def _take_block(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make a stage of the first block that can be one."""
        reasons = []
        for place in self._places():
            try:
                block = find_block(self.tree, place, self._not_sent)
                self._refuse_total(block)
                self._add(block, connection)
                return
            except NotInPartsError as reason:
                reasons.append(str(reason))
        raise NotInPartsError(reasons[0])

    def _add(self, block: Block, connection: duckdb.DuckDBPyConnection) -> None:
        def types_of(query: str, *_: Any) -> list[str]:
            return [kind for _, kind in describe(connection, query)]

        stage, self.tree = make_stage(block, self.tree, len(self.stages), types_of)
        self.stages.append(stage)
        if stage.merge is not None:
            connection.register(PARTS, connection.sql(stage.scan).to_arrow_table())
            merged = connection.sql(stage.merge).to_arrow_table()
            connection.register(stage.name, merged)

    def _not_sent(self, name: str) -> str:
        """Say why a table cannot be sent to every task."""
        if name.startswith(RESULT):
            stage = self.stages[int(name.removeprefix(RESULT))]
            return "" if stage.is_one_row else "a subquery with an answer of any size is read beside a big table"
        if name in self.base:
            known = self.sizes[name]
            if known is None:
                return f"{self.names[name]} is read beside another big table, and its size is not known"
            if known > self.limit:
                return (
                    f"{self.names[name]} takes about {format_nbytes(known)}, more than the"
                    f" {format_nbytes(self.limit)} that are sent to every task (broadcast=)"
                )
            return f"{self.names[name]} is read in more than one place"
        return ""

    def _refuse_total(self, block: Block) -> None:
        names = {table.name for table in block.select.find_all(exp.Table)} & set(self.sizes) - {block.table}
        total = sum(self.sizes[name] or 0 for name in names)
        if total > self.limit:
            raise NotInPartsError(
                f"{', '.join(sorted(self.names[name] for name in names))} take about {format_nbytes(total)} together,"
                f" more than the {format_nbytes(self.limit)} that are sent to every task (broadcast=)"
            )

    def _finished(self, connection: duckdb.DuckDBPyConnection) -> QueryPlan:
        last = self.stages[-1]
        finish = None if last.merge is None else text_of(self.tree)
        given = [kind for _, kind in describe(connection, finish or last.scan)]
        wanted = [kind for _, kind in self.bound.output]
        if given != wanted:
            raise NotInPartsError(f"its parts would give {', '.join(given)}, not {', '.join(wanted)}")
        beside = () if finish is None else tuple(sorted({table.name for table in self.tree.find_all(exp.Table)}))
        known = {*self.sizes, *(stage.name for stage in self.stages)}
        return QueryPlan(
            self.bound,
            "distributed",
            self._why(),
            tuple(self.stages),
            finish,
            tuple(name for name in beside if name in known),
        )

    def _why(self) -> str:
        tables = list(dict.fromkeys(self.names[stage.table] for stage in self.stages))
        sent = sorted({self.names[name] for stage in self.stages for name in stage.beside if name in self.names})
        read = " and ".join(tables)
        beside = f"; {', '.join(sent)}, small enough, sent to every task" if sent else ""
        return f"{read} read chunk by chunk{beside}"


def _refuse_functions(node: Any) -> None:
    """Refuse functions whose value depends on the task, and aggregates that are not put together from parts."""
    unstable, aggregates = unstable_functions(), _aggregate_functions()
    for name, is_window in _functions(node):
        if name in unstable:
            raise NotInPartsError(f"{name}() may give another value in every task")
        if name in aggregates and name not in MERGED_FUNCTIONS and not is_window:
            raise NotInPartsError(f"{name}() is not put together from parts")


def _functions(node: Any) -> Iterator[tuple[str, bool]]:
    if isinstance(node, list):
        for child in node:
            yield from _functions(child)
    elif isinstance(node, Mapping):
        if isinstance(node.get("function_name"), str):
            yield node["function_name"].lower(), node.get("class") == "WINDOW"
        for child in node.values():
            yield from _functions(child)


@cache
def _aggregate_functions() -> frozenset[str]:
    with bare_connection() as connection:
        rows = connection.execute("SELECT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'")
        return frozenset(str(row[0]).lower() for row in rows.fetchall())


def _refuse_shadows(tree: exp.Expr, bound: Bound) -> None:
    """Refuse aliases that hide a column where the two would be told apart by rules of precedence."""
    columns = {column.lower() for table in bound.tables.values() for column in table.schema.names}
    for select in tree.find_all(exp.Select):
        aliases = {one.alias.lower(): one.this for one in select.expressions if isinstance(one, exp.Alias)}
        hiding = {
            name
            for name, inner in aliases.items()
            if name in columns and not (isinstance(inner, exp.Column) and inner.name.lower() == name)
        }
        if not hiding:
            continue
        clauses = [select.args.get(clause) for clause in ("group", "having", "qualify")]
        clauses += [one for one in _orders(select) if not isinstance(one, exp.Column)]
        for clause in clauses:
            for column in clause.find_all(exp.Column) if clause is not None else ():
                if not column.table and column.name.lower() in hiding:
                    raise NotInPartsError(f"{column.name} is a column and an alias")
    names = [cte.alias.lower() for cte in tree.find_all(exp.CTE)]
    if len(set(names)) != len(names) or {*names} & {name.lower() for name in bound.tables}:
        raise NotInPartsError("WITH hides a table, or another WITH")


def _orders(select: exp.Select) -> list[exp.Expr]:
    order = select.args.get("order")
    return [one.this for one in order.expressions] if order is not None else []


def _qualified(tree: exp.Expr, bound: Bound) -> exp.Expr:
    """Name the table of every column, expand stars and aliases."""
    tree = tree.copy()
    for exists in tree.find_all(exp.Exists):
        inner = exists.this
        is_star = isinstance(inner, exp.Select) and all(isinstance(one, exp.Star) for one in inner.expressions)
        if is_star and not any(inner.args.get(clause) for clause in ("group", "distinct", "having", "order")):
            inner.set("expressions", [exp.Literal.number(1)])  # or all columns would be wanted
    schema: dict[str, Any] = {
        name.lower(): {column.lower(): "unknown" for column in table.schema.names}
        for name, table in bound.tables.items()
    }
    try:
        found = qualify(
            tree,
            schema=schema,
            dialect="duckdb",
            validate_qualify_columns=False,
            quote_identifiers=True,
            identify=True,
        )
    except SqlglotError as error:
        raise NotInPartsError(f"its columns cannot be told apart ({error})") from None
    return found
