"""Hash what is computed so that every process comes to the same: pickles of functions hold sets in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import FunctionType, ModuleType
from typing import Any, Final

import cloudpickle
import dask.dataframe.dask_expr._expr as operations
from dask._expr import Expr
from dask.base import tokenize
from dask.dataframe.dask_expr.io.parquet import ReadParquet
from dask.tokenize import TokenizationError

from dtk.sources.functions import code_parts, is_importable, is_trusted, maker_of, module_of, parts_of

__all__ = ["Identity", "expression_identity"]

CACHES: Final = ("_dataset_info_cache", "_pq_length_stats")  # of a Parquet read

_PLAIN: Final = frozenset({str, bytes, int, float, complex, bool, type(None), type(Ellipsis)})
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})


@dataclass(frozen=True)
class Identity:
    """What tells a computation from others.

    Parameters
    ----------
    digest : str
        Hex digits.
    has_own_functions : bool
        Whether functions or objects take part that are not of the packages that are known. They may read files or ask
        the clock, so that one identity may give different rows at two times.
    """

    digest: str
    has_own_functions: bool


def expression_identity(expr: Any) -> Identity:
    """Hash an expression by what it does.

    Parameters
    ----------
    expr : Expr, or list
        Of a Dask DataFrame; or functions and values of any kind.

    Returns
    -------
    Identity
        Functions and classes of the user count with their code, constants, defaults and closures, with what they call
        by name and the globals that they use, all the way down; each is looked at once. Those of installed packages
        count by name and version.
    """
    hasher = _Hasher()
    return Identity(hasher.digest(expr), hasher.has_own)


class _Hasher:
    """Hashes values; objects and code are numbered in the order in which they are met, and hashed after them, once."""

    def __init__(self, begun: Iterable[int] = ()) -> None:
        self.has_own = False  # whether anything was not of the packages that are known
        self._known: dict[str, str] = {}  # of expressions, by Dask's name in this process
        self._begun = list(begun)  # containers that hold themselves are named by their depth
        self._numbered: dict[int, tuple[str, Any]] = {}  # by id; kept, so that no other object gets the same one
        self._parts: list[list[Any]] = []  # of what was numbered
        self._is_below = False
        self._maker_of = cache(maker_of)

    def digest(self, value: Any) -> str:
        digests = [self.of(value)]
        for parts in self._parts:  # it grows meanwhile
            self._is_below = True
            digests.append(_digest(map(self.of, parts)))
        return _digest(digests)

    def of(self, value: Any) -> str:
        if type(value) in _PLAIN:
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, Expr):
            if value._name not in self._known:
                self._known[value._name] = _digest(map(self.of, [type(value).__qualname__, *_operands(value)]))
            return self._known[value._name]
        if type(value) not in _CONTAINERS:
            return self._of_object(value)
        if id(value) in self._begun:
            return f"above {self._begun.index(id(value))}"
        self._begun.append(id(value))
        try:
            return self._of_container(value)
        finally:
            self._begun.pop()

    def _of_container(self, value: Any) -> str:
        kind = type(value)
        if kind is dict:
            if _is_plain(value) and _is_plain(value.values()):
                return _digest(["plain dict", repr(sorted(map(repr, value.items())))])
            return _digest(["dict", *sorted(_digest(map(self.of, item)) for item in value.items())])
        if kind in (set, frozenset):
            return _digest(["set", repr(sorted(map(repr if _is_plain(value) else self._alone, value)))])
        return _digest([kind.__name__, repr(value)] if _is_plain(value) else [kind.__name__, *map(self.of, value)])

    def _alone(self, value: Any) -> str:
        """Hash an element of a set, which has no place among the others that objects might be numbered by."""
        hasher = _Hasher(self._begun)
        digest = hasher.digest(value)
        self.has_own |= hasher.has_own
        return digest

    def _of_object(self, value: Any) -> str:
        if id(value) in self._numbered:
            return self._numbered[id(value)][0]
        module = module_of(value)
        self.has_own |= not is_trusted(module)
        if isinstance(value, ModuleType):
            return f"module {self._maker_of(module)} {module}"
        if type(value) is object or module == "weakref":  # a mark, or what a cache holds at the moment
            return f"{module} {type(value).__qualname__}"
        if isinstance(value, (FunctionType, type)):
            maker = self._maker_of(module)
            if maker is not None and is_importable(value):
                code = [self.of(value.__code__)] if isinstance(value, FunctionType) and is_trusted(module) else []
                return _digest([maker, module, value.__qualname__, *code])
            parts: list[Any] | None = code_parts(value, self._is_of_user)
        else:
            parts = parts_of(value, self._is_of_user(module))
        if parts is None:  # Dask takes the methods of a class by name alone
            kind = [self.of(type(value))] if self._is_of_user(module) else []
            return _digest([self._token(value), *kind])
        self._numbered[id(value)] = f"number {len(self._parts)}", value
        self._parts.append(parts)
        return self._numbered[id(value)][0]

    def _is_of_user(self, module: str) -> bool:
        return self._maker_of(module) is None

    def _token(self, value: Any) -> str:
        try:
            return str(tokenize(value, ensure_deterministic=True))
        except TokenizationError:
            if self._is_below and not _is_picklable(value):  # a lock, a connection: nothing that decides on values
                return f"{module_of(value)} {type(value).__qualname__}"
            return str(tokenize(value))  # another one each time


def _operands(expr: Any) -> list[Any]:
    if isinstance(expr, operations._DelayedExpr):
        return [getattr(task, "value", task) for task in expr._layer().values()]
    if isinstance(expr, ReadParquet):  # of the files, their sizes and times
        return [expr.checksum, *(expr.operand(name) for name in expr._parameters if name not in CACHES)]
    return list(expr.operands)


def _is_plain(values: Iterable[Any]) -> bool:
    return set(map(type, values)) <= _PLAIN


def _is_picklable(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:  # objects that were not made for it raise what they like
        return False
    return True


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()
