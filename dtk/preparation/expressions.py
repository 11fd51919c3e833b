"""Expressions of a spec: pandas' syntax, evaluated lazily and row by row over a Dask DataFrame.

``arr_delay > 15 and carrier in ["UA", "AA"]`` becomes the Dask operations that a user would write. `DataFrame.eval` is
not used: it would read every column, and let through what does not look at one row at a time, such as ``x - x.mean()``.
"""

from __future__ import annotations

import ast
import io
import operator
import re
import tokenize
from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import numpy as np

from dtk.config import did_you_mean
from dtk.errors import ArgumentError

__all__ = ["evaluate", "names_in"]

# A text, or a name between backticks: whichever starts first.
_TEXT_OR_NAME: Final = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|`([^`]*)`""", re.DOTALL)

_OPERATORS: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitXor: operator.xor,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.And: operator.and_,
    ast.Or: operator.or_,
    ast.Not: operator.invert,
    ast.Invert: operator.invert,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
# All of them look at one value at a time.
_FUNCTIONS: Final = (
    "abs", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "ceil", "cos", "cosh", "exp", "expm1",
    "floor", "log", "log10", "log1p", "sign", "sin", "sinh", "sqrt", "tan", "tanh",
)  # fmt: skip
_METHODS: Final = (
    "abs", "astype", "between", "clip", "fillna", "isin", "isna", "isnull", "notna", "notnull", "round",
)  # fmt: skip
_ACCESSORS: Final = {
    "dt": (
        "ceil", "date", "day", "day_of_week", "day_of_year", "dayofweek", "dayofyear", "days", "days_in_month",
        "daysinmonth", "floor", "hour", "is_leap_year", "is_month_end", "is_month_start", "is_quarter_end",
        "is_quarter_start", "is_year_end", "is_year_start", "microsecond", "microseconds", "minute", "month",
        "nanosecond", "nanoseconds", "normalize", "quarter", "round", "second", "seconds", "strftime", "time",
        "total_seconds", "tz_convert", "tz_localize", "weekday", "year",
    ),
    "str": (
        "capitalize", "contains", "count", "endswith", "find", "isalnum", "isalpha", "isdigit", "islower",
        "isnumeric", "isspace", "istitle", "isupper", "len", "ljust", "lower", "lstrip", "match", "removeprefix",
        "removesuffix", "replace", "rfind", "rjust", "rstrip", "slice", "startswith", "strip", "swapcase", "title",
        "upper", "zfill",
    ),
}  # fmt: skip


def evaluate(text: str, data: Any) -> Any:
    """Make a lazy Series of an expression over the columns of a table.

    Parameters
    ----------
    text : str
        In the syntax of ``pandas.DataFrame.eval``: arithmetic, comparisons, ``and``, ``or``, ``not``, ``in``,
        mathematical functions, methods that look at one value at a time, ``.str`` and ``.dt``. Names are columns;
        between backticks if they are no Python names.
    data : dask.dataframe.DataFrame
        With these columns.

    Returns
    -------
    dask.dataframe.Series
        With the rows of `data`.

    Raises
    ------
    ArgumentError
        If the expression is no such one, names no column or an unknown one, or its types do not go together.

    Examples
    --------
    >>> import pandas as pd, dask.dataframe as dd
    >>> flights = dd.from_pandas(pd.DataFrame({"delay": [3, 20], "carrier": ["UA", "DL"]}), npartitions=1)
    >>> evaluate("delay > 15 and carrier in ['DL']", flights).compute().tolist()
    [False, True]
    """
    tree, quoted = _parsed(text)
    unknown = [name for name in _names(tree, quoted) if name not in data.columns]
    if unknown:
        raise ArgumentError("; ".join(f"{name!r} is no column{did_you_mean(name, data.columns)}" for name in unknown))
    try:
        result = _Evaluation(data, quoted).visit(tree)
    except ArgumentError:
        raise
    except (TypeError, ValueError, AttributeError, NotImplementedError, ArithmeticError) as error:
        raise ArgumentError(" ".join(str(error).split()) or type(error).__name__) from None
    if not hasattr(result, "dask"):
        raise ArgumentError("names no column; write it with the columns that it is made of")
    return result


def names_in(text: str) -> list[str]:
    """List the columns that an expression names.

    Parameters
    ----------
    text : str
        As for `evaluate`.

    Returns
    -------
    list of str
        Each once.

    Raises
    ------
    ArgumentError
        If it is no expression.

    Examples
    --------
    >>> names_in("log1p(distance) + `taxi out`")
    ['distance', 'taxi out']
    """
    return _names(*_parsed(text))


def _parsed(text: str) -> tuple[ast.expr, dict[str, str]]:
    source, quoted = _prepared(text)
    try:
        return ast.parse(source, mode="eval").body, quoted
    except SyntaxError as error:
        raise ArgumentError(f"is no expression: {error.msg}") from None


def _prepared(text: str) -> tuple[str, dict[str, str]]:
    """Turn names between backticks into Python names, and ``&`` and ``|`` into words, which bind as pandas wants."""
    quoted: dict[str, str] = {}
    prefix = "_quoted_"
    while prefix in text:
        prefix += "_"

    def replaced(found: re.Match[str]) -> str:
        if found[2] is None:
            return found[1]
        name = f"{prefix}{len(quoted)}"
        quoted[name] = found[2]
        return name

    source = " ".join(_TEXT_OR_NAME.sub(replaced, text.strip()).split("\n"))
    if "`" in _TEXT_OR_NAME.sub("", text):
        raise ArgumentError("is no expression: a backtick is not closed")
    words = {"&": "and", "|": "or"}
    try:
        tokens = [
            (
                token.type,
                f" {words[token.string]} " if token.string in words and token.type == tokenize.OP else token.string,
            )
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
        ]
    except (tokenize.TokenError, SyntaxError) as error:
        raise ArgumentError(f"is no expression: {error.args[0]}") from None
    return tokenize.untokenize(tokens).strip(), quoted


def _names(tree: ast.expr, quoted: dict[str, str]) -> list[str]:
    """List the names that must be columns, each once: all but those of called functions."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]
    found.sort(key=lambda node: node.col_offset)
    return list(dict.fromkeys(quoted.get(node.id, node.id) for node in found))


class _Evaluation(ast.NodeVisitor):
    """Evaluates what it knows, and refuses the rest."""

    def __init__(self, data: Any, quoted: dict[str, str]) -> None:
        self.data = data
        self.quoted = quoted

    def visit_Name(self, node: ast.Name) -> Any:
        return self.data[self.quoted.get(node.id, node.id)]

    def visit_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def visit_List(self, node: ast.List) -> Any:
        return [self.visit(item) for item in node.elts]

    def visit_Tuple(self, node: ast.Tuple) -> Any:
        return [self.visit(item) for item in node.elts]

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.visit(node.left), self.visit(node.right)
        if not hasattr(left, "dask") and not hasattr(right, "dask"):
            return self._of_constants(node, left, right)
        return self._operator(node.op)(left, right)

    def _of_constants(self, node: ast.BinOp, left: Any, right: Any) -> Any:
        """Compute at once what names no column; in floats where whole numbers could grow without end."""
        if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            raise ArgumentError(f"{ast.unparse(node)!r} names no column and no numbers; write its value")
        return self._operator(node.op)(float(left) if isinstance(node.op, ast.Pow) else left, right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        return self._operator(node.op)(self.visit(node.operand))

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        return reduce(self._operator(node.op), map(self.visit, node.values))

    def visit_Compare(self, node: ast.Compare) -> Any:
        values = [self.visit(item) for item in (node.left, *node.comparators)]
        pairs = zip(values[:-1], node.ops, values[1:], strict=True)
        return reduce(operator.and_, (self._compared(left, op, right) for left, op, right in pairs))

    def _compared(self, left: Any, op: ast.cmpop, right: Any) -> Any:
        # As in pandas, == with a list asks for any of its values.
        if isinstance(right, list) and hasattr(left, "isin") and isinstance(op, (ast.In, ast.NotIn, ast.Eq, ast.NotEq)):
            _refuse_columns(right)
            found = left.isin(right)
            return found if isinstance(op, (ast.In, ast.Eq)) else ~found
        return self._operator(op)(left, right)

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        if isinstance(node.value, ast.Attribute) and node.value.attr in _ACCESSORS:
            accessor = node.value.attr
            if node.attr not in _ACCESSORS[accessor]:
                raise ArgumentError(
                    f"'.{accessor}.{node.attr}' is unknown{did_you_mean(node.attr, _ACCESSORS[accessor])}"
                )
            return getattr(getattr(self._column(node.value.value), accessor), node.attr)
        if node.attr in _METHODS:
            return getattr(self._column(node.value), node.attr)
        if node.attr in _ACCESSORS:
            raise ArgumentError(f"'.{node.attr}' is no value by itself; say which, as in '.dt.month' or '.str.lower()'")
        raise ArgumentError(
            f"'.{node.attr}' is nothing that looks at one row at a time{did_you_mean(node.attr, _METHODS)}"
        )

    def visit_Call(self, node: ast.Call) -> Any:
        arguments = [self.visit(item) for item in node.args]
        named = {}
        for item in node.keywords:
            if item.arg is None:
                raise ArgumentError(f"'**{ast.unparse(item.value)}' is not allowed; name each argument")
            named[item.arg] = self.visit(item.value)
        if isinstance(node.func, ast.Attribute):
            if node.func.attr == "isin":
                _refuse_columns([*arguments, *named.values()])
            return self.visit(node.func)(*arguments, **named)
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in _FUNCTIONS:
            raise ArgumentError(f"{name!r} is no function here{did_you_mean(name, _FUNCTIONS)}")
        return getattr(np, name)(*arguments, **named)

    def generic_visit(self, node: ast.AST) -> Any:
        raise ArgumentError(f"{ast.unparse(node)!r} is not allowed in an expression over rows")

    def _column(self, node: ast.expr) -> Any:
        value = self.visit(node)
        if not hasattr(value, "dask"):
            raise ArgumentError(f"{ast.unparse(node)!r} is no column")
        return value

    @staticmethod
    def _operator(node: ast.AST) -> Callable[..., Any]:
        if type(node) not in _OPERATORS:
            raise ArgumentError(
                f"{type(node).__name__} is no operator here; write it with and, or, not and comparisons"
            )
        return _OPERATORS[type(node)]


def _refuse_columns(values: list[Any]) -> None:
    """Refuse columns among the values that something is looked for in: Dask would look in the whole column, or fail."""
    if any(hasattr(value, "dask") for value in values):
        raise ArgumentError("looks in a column; name values, as in [1, 2], or compare columns with ==")
