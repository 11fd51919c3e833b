"""Read a query: what it names, what it may not do, and whether sqlglot reads it as DuckDB does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from dtk.analytics.sql.bare import bare_connection
from dtk.analytics.sql.places import pointed

__all__ = ["Statement", "TableName", "characters", "read_statement"]

TABLE_FUNCTIONS: Final = frozenset({"generate_series", "range", "unnest"})
"""What may stand in FROM beside tables: others read files, or what else is on a worker."""

_TYPES: Final = {
    "text": "varchar", "string": "varchar", "real": "float", "int": "integer", "int8": "bigint", "numeric": "decimal",
    "bool": "boolean", "int128": "hugeint", "float4": "float", "float8": "double", "long": "bigint",
    "short": "smallint",
}  # fmt: skip
_FUNCTIONS: Final = {
    "substr": "substring", "mod": "%", "power": "**", "pow": "**", "^": "**", "ceiling": "ceil", "countif": "count_if",
    "var_samp": "variance",
    "stddev_samp": "stddev", "mean": "avg",
    "datediff": "date_diff", "datetrunc": "date_trunc", "datepart": "date_part", "string_split": "str_split",
}  # fmt: skip
_PART_FUNCTIONS: Final = frozenset({"date_trunc", "date_part", "date_diff"})
_PARTS: Final = {"dow": "dayofweek", "doy": "dayofyear"}


@dataclass(frozen=True)
class TableName:
    """A name that stands where a table does.

    Parameters
    ----------
    name : str
        As it is written, without quotes.
    start : int
        Its first character in the query.
    length : int
        Its characters.
    """

    name: str
    start: int
    length: int


@dataclass(frozen=True)
class Statement:
    """A query that only reads.

    Parameters
    ----------
    text : str
        What DuckDB runs.
    is_explain : bool
        Whether it is only to be explained.
    node : mapping
        DuckDB's own syntax tree.
    query : str
        All that was given.
    """

    text: str
    is_explain: bool
    node: Mapping[str, Any]
    query: str

    @property
    def tables(self) -> list[TableName]:
        """Names in the place of tables that are not those of its own WITH, in order."""
        nodes = list(_walk(self.node))
        own = {entry["key"].lower() for node in nodes for entry in _entries(node)}
        found = [self._table_name(node) for node in nodes if node.get("type") == "BASE_TABLE"]
        return sorted((one for one in found if one.name.lower() not in own), key=lambda one: one.start)

    def _table_name(self, node: Mapping[str, Any]) -> TableName:
        return TableName(str(node["table_name"]), *characters(self.text, *_place(node)))

    @cached_property
    def tree(self) -> exp.Expr | None:
        """The tree of sqlglot; None where that reads the query in another way than DuckDB, or not at all."""
        try:
            tree: Any = sqlglot.parse_one(self.text, dialect="duckdb")
            again = _serialised(tree.sql("duckdb"))
        except SqlglotError:
            return None
        if again.get("error") or len(again["statements"]) != 1:
            return None
        same = _plain(again["statements"][0]["node"]) == _plain(self.node)
        return tree if same else None


def read_statement(query: str) -> Statement:
    """Read a query, and refuse one that does more than read tables.

    Parameters
    ----------
    query : str
        One SELECT in DuckDB's dialect, with EXPLAIN before it or not.

    Returns
    -------
    Statement
        With its tree.

    Raises
    ------
    ArgumentError
        If it is no single SELECT, or reads what is no table; the error shows the place.
    """
    text, is_explain = _without_explain(query)
    parsed = _serialised(text)
    if parsed.get("error"):
        if parsed.get("error_type") == "not implemented":
            raise pointed(query, "only SELECT can be run; nothing is written or set", _first_character(text))
        raise _syntax_error(query, text, parsed)
    statements = parsed["statements"]
    if not statements:
        raise pointed(query, "the query is empty; write a SELECT", 0)
    if len(statements) > 1:
        raise pointed(query, f"there are {len(statements)} statements; run one at a time", _second_statement(text))
    for node in _walk(statements[0]["node"]):
        reason = _refusal(node)
        if reason:
            raise pointed(query, reason, *characters(text, *_place(node)))
    return Statement(text=text, is_explain=is_explain, node=statements[0]["node"], query=query)


def characters(text: str, start: int, length: int) -> tuple[int, int]:
    """Turn a place in bytes, as DuckDB counts, into one in characters.

    Parameters
    ----------
    text : str
        A query.
    start : int
        The first byte.
    length : int
        How many bytes.

    Returns
    -------
    (int, int)
        The first character, and how many.

    Examples
    --------
    >>> characters("SELECT 'ä', x", 12, 1)
    (11, 1)
    """
    encoded = text.encode()
    before = encoded[:start].decode(errors="ignore")
    return len(before), len(encoded[start : start + length].decode(errors="ignore"))


def _without_explain(query: str) -> tuple[str, bool]:
    """Blank out a leading EXPLAIN, so that what follows keeps its place."""
    try:
        tokens = sqlglot.tokenize(query, read="duckdb")
    except SqlglotError:
        return query, False
    if not tokens or tokens[0].text.upper() != "EXPLAIN":
        return query, False
    blanked = [tokens[0]] + ([tokens[1]] if len(tokens) > 1 and tokens[1].text.upper() == "ANALYZE" else [])
    text = query
    for token in blanked:
        text = text[: token.start] + " " * (token.end + 1 - token.start) + text[token.end + 1 :]
    return text, True


def _serialised(text: str) -> dict[str, Any]:
    with bare_connection() as connection:
        rows = connection.execute("SELECT CAST(json_serialize_sql(?) AS VARCHAR)", [text]).fetchall()
    found: dict[str, Any] = json.loads(rows[0][0])
    return found


def _syntax_error(query: str, text: str, parsed: Mapping[str, Any]) -> Exception:
    reason = str(parsed.get("error_message", "it cannot be parsed")).split("\n")[0]
    place, _ = characters(text, int(parsed.get("position") or 0), 1)
    length = 1
    for token in _tokens(text):
        if token.start <= place <= token.end:
            length = token.end + 1 - place
    return pointed(query, f"{reason[:1].lower()}{reason[1:]}", place, length)


def _tokens(text: str) -> list[Any]:
    try:
        return list(sqlglot.tokenize(text, read="duckdb"))
    except SqlglotError:
        return []


def _first_character(text: str) -> int:
    return len(text) - len(text.lstrip())


def _second_statement(text: str) -> int:
    """Find the first token behind a semicolon."""
    tokens = _tokens(text)
    ends = [number for number, token in enumerate(tokens) if token.text == ";"]
    return int(tokens[ends[0] + 1].start) if ends and ends[0] + 1 < len(tokens) else 0


def _walk(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        yield node
        for child in node.values():
            yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)


def _entries(node: Mapping[str, Any]) -> list[Any]:
    found = node.get("cte_map")
    return list(found.get("map", [])) if isinstance(found, Mapping) else []


def _place(node: Mapping[str, Any]) -> tuple[int, int]:
    start = int(node.get("query_location", 0))
    return (start if start < 2**63 else 0), int(node.get("query_location_length", 1) or 1)


def _refusal(node: Mapping[str, Any]) -> str:
    """Say why a part of a query may not be run."""
    kind = node.get("type")
    if kind == "TABLE_FUNCTION":
        name = node["function"].get("function_name", "")
        if name not in TABLE_FUNCTIONS:
            return f"{name}() is not run here; give what it reads as a table: dtk.sql(query, name=path)"
    if kind == "BASE_TABLE" and (node.get("schema_name") or node.get("catalog_name")):
        return "a table's name has no dots here; quote it if the dot is part of the name"
    if kind == "SHOW_REF":
        return "only SELECT can be run; nothing is described or shown"
    if kind == "VALUE_PARAMETER":
        return "parameters are not taken; write the value"
    return ""


def _plain(node: Any) -> Any:
    """Reduce a tree to what it means: without places, and with one word for what has several."""
    if isinstance(node, list):
        return [_plain(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    found = {key: _plain(child) for key, child in node.items() if "location" not in key}
    if "null_order" in found:
        found["type"] = found["type"].replace("ORDER_DEFAULT", "ASCENDING")
        found["null_order"] = found["null_order"].replace("ORDER_DEFAULT", "NULLS LAST")  # DuckDB's own default
    if found.get("type") == "OPERATOR_IS_NOT_NULL":
        inner = found | {"type": "OPERATOR_IS_NULL", "alias": ""}
        return found | {"type": "OPERATOR_NOT", "children": [inner]}
    if isinstance(found.get("function_name"), str):
        _plain_function(found)
    if isinstance(found.get("type_name"), str):
        kind = found["type_name"].lower()
        found["type_name"] = _TYPES.get(kind, kind)
        found.pop("qualified_name", None)
    return found


def _plain_function(found: dict[str, Any]) -> None:
    name = found["function_name"].lower()
    name = found["function_name"] = _FUNCTIONS.get(name, name)
    found.pop("is_operator", None)
    found.pop("qualified_name", None)
    arguments = found.get("arguments") or []
    if name in _PART_FUNCTIONS and arguments:
        _lower_literal(arguments[0])
    if name in ("bool_and", "bool_or") and arguments:
        _without_cast(arguments[0])
    if name.startswith("to_"):
        _as_text(found)


def _without_cast(argument: Any) -> None:
    """Leave out a cast that the function makes itself."""
    inner = argument.get("expression", {})
    if inner.get("class") == "CAST" and inner.get("type_expr", {}).get("type_name") == "boolean":
        argument["expression"] = inner["child"]


def _lower_literal(argument: Any) -> None:
    literal = argument.get("expression", {}).get("literal")
    if isinstance(literal, dict):
        text = str(literal.get("text")).lower()
        literal["text"] = _PARTS.get(text, text)


def _as_text(node: Any) -> None:
    """Take the number of an interval for the same whether it is in quotes or not."""
    for child in _walk(node):
        literal = child.get("literal")
        if isinstance(literal, dict) and literal.get("kind") in ("INTEGER", "STRING"):
            literal["kind"] = "STRING"
