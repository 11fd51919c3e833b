"""Hash Dask expressions so that every process comes to the same: pickles of functions hold sets in any order."""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any, Final

import dask.dataframe.dask_expr._expr as operations
from dask._expr import Expr
from dask.base import tokenize
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from dask.tokenize import normalize_object, normalize_token

__all__ = ["expression_identity", "has_own_functions"]

KNOWN_PACKAGES: Final = sys.stdlib_module_names | {"dask", "dtk", "numpy", "pandas", "pyarrow"}

CACHES: Final = ("_dataset_info_cache", "_pq_length_stats")  # of a Parquet read


def expression_identity(expr: Any) -> str:
    """Hash an expression by what it does.

    Parameters
    ----------
    expr : Expr
        Functions in it count with their code, constants, defaults, closures, and the globals that they use. Those of a
        module count without the globals.

    Returns
    -------
    str
        Hex digest.
    """
    return _Hasher().of(expr)


def has_own_functions(expr: Any) -> bool:
    """Tell whether an expression calls functions of the user, or holds objects of the user's classes.

    Parameters
    ----------
    expr : Expr
        Any expression.

    Returns
    -------
    bool
        True where two expressions of one identity may give different rows in two processes: what functions call in
        turn, and what is in the globals of their modules, the identity does not tell.
    """
    hasher = _Hasher()
    hasher.of(expr)
    return hasher.has_own


class _Hasher:
    def __init__(self) -> None:
        self.has_own = False  # whether anything was not of the packages that are known
        self._known: dict[str, str] = {}  # of expressions, by Dask's name in this process
        self._begun: list[int] = []  # functions and containers that hold themselves are named by their depth

    def of(self, value: Any) -> str:
        if isinstance(value, Expr):
            if value._name not in self._known:
                self._known[value._name] = _digest(map(self.of, [type(value).__qualname__, *_operands(value)]))
            return self._known[value._name]
        self.has_own |= _is_own(value)
        if id(value) in self._begun:
            return f"above {self._begun.index(id(value))}"
        self._begun.append(id(value))
        try:
            return self._of_parts(value)
        finally:
            self._begun.pop()

    def _of_parts(self, value: Any) -> str:
        if isinstance(value, (set, frozenset)):
            return _digest(["set", *sorted(map(self.of, value))])
        if type(value) in (list, tuple):
            return _digest([type(value).__name__, *map(self.of, value)])
        if type(value) is dict:
            return _digest(["dict", *sorted(_digest(map(self.of, item)) for item in value.items())])
        if isinstance(value, ModuleType) or (isinstance(value, type) and _is_importable(value)):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
        parts = _parts(value)
        return str(tokenize(value)) if parts is None else _digest(map(self.of, parts))


def _is_own(value: Any) -> bool:
    named = value if isinstance(value, (FunctionType, type)) else type(value)
    module = value.__name__ if isinstance(value, ModuleType) else named.__module__ or ""
    return module.partition(".")[0] not in KNOWN_PACKAGES


def _parts(value: Any) -> list[Any] | None:
    """List what a function, a class or an object consists of; None for what Dask knows how to hash."""
    if isinstance(value, FunctionType):
        return _parts_of_function(value)
    if isinstance(value, CodeType):
        return ["code", value.co_code, value.co_consts, value.co_names, value.co_varnames, value.co_freevars]
    if isinstance(value, partial):
        return ["partial", value.func, value.args, value.keywords]
    if isinstance(value, (MethodType, classmethod, staticmethod)):
        return ["method", value.__func__, getattr(value, "__self__", None)]
    if isinstance(value, (BuiltinFunctionType, MethodWrapperType)):  # of a module, or of an object: {"a": 1}.get
        return ["builtin", value.__qualname__, value.__self__]
    if isinstance(value, property):
        return ["property", value.fget, value.fset, value.fdel]
    if isinstance(value, type):
        return [value.__qualname__, value.__bases__, _own_attributes(value)]
    return _state(value)


def _operands(expr: Any) -> list[Any]:
    if isinstance(expr, operations._DelayedExpr):
        return [getattr(task, "value", task) for task in expr._layer().values()]
    if isinstance(expr, ReadParquet):  # of the files, their sizes and times
        return [expr.checksum, *(expr.operand(name) for name in expr._parameters if name not in CACHES)]
    return list(expr.operands)


def _parts_of_function(function: FunctionType) -> list[Any]:
    parts = [function.__qualname__, function.__code__, function.__defaults__, function.__kwdefaults__]
    if _is_importable(function):
        return [*parts, function.__module__]
    closure = [_content(cell) for cell in function.__closure__ or ()]
    known = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    return [*parts, closure, known]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _names(code: CodeType) -> Iterator[str]:
    """List the names that code, and functions within it, look up in the globals."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_importable(value: Any) -> bool:
    """Tell whether another process finds the very function or class under its name."""
    found: Any = sys.modules.get(value.__module__ or "") if value.__module__ != "__main__" else None
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def _state(value: Any) -> list[Any] | None:
    """List what pickling an object of a plain class would keep; None for those that Dask knows how to hash."""
    kind: Any = type(value)
    known = normalize_token.dispatch(kind) is not normalize_object or hasattr(kind, "__dask_tokenize__")
    if known or kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return None
    try:
        _, arguments, state, items, pairs = (*value.__reduce_ex__(4), None, None, None)[:5]
    except TypeError:  # it cannot be pickled
        return None
    return [arguments, state, list(items or ()), dict(pairs or ())]


def _own_attributes(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("__") or callable(value)}


def _digest(parts: Iterator[str] | list[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()
