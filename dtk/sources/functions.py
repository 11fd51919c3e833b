"""What functions and classes consist of and use, as far as it decides what they compute."""

from __future__ import annotations

import dis
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any, Final

from dask.tokenize import normalize_object, normalize_token
from tlz import curry

from dtk.runtime import is_installed

__all__ = ["code_parts", "is_importable", "is_trusted", "maker_of", "module_of", "parts_of"]

# Their releases keep what a function does; of other installed packages the version counts.
KNOWN_PACKAGES: Final = sys.stdlib_module_names | {"dask", "dtk", "numpy", "pandas", "pyarrow", "xarray"}

_MAIN: Final = ("__main__", "__mp_main__")
_IMPORT_ARGUMENTS: Final = 2  # the instructions before that of an import load how far up it begins, and what it takes


def module_of(value: Any) -> str:
    """Name the module that a value comes from.

    Parameters
    ----------
    value : object
        A function, a class, a module, or an object.

    Returns
    -------
    str
        Of a function the one that it was written in, whatever a decorator says; of an object that of its class.
    """
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, FunctionType):
        return str(value.__globals__.get("__name__", ""))
    return str((value if isinstance(value, type) else type(value)).__module__ or "")


def is_trusted(module: str) -> bool:
    """Tell whether a module is of the packages that are known.

    Parameters
    ----------
    module : str
        Its name.

    Returns
    -------
    bool
        False for other packages and for the user's own modules.
    """
    return module.partition(".")[0] in KNOWN_PACKAGES


def maker_of(module: str) -> str | None:
    """Name who made a module.

    Parameters
    ----------
    module : str
        Its name.

    Returns
    -------
    str or None
        A package, with its version unless it is known; None for the user.
    """
    package = module.partition(".")[0]
    if package in KNOWN_PACKAGES:
        return package
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module in _MAIN or not is_installed(Path(file)):
        return None
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:  # it is distributed under another name
        version = getattr(sys.modules.get(package), "__version__", None)
        return None if version is None else f"{package} {version}"


def is_importable(value: Any) -> bool:
    """Tell whether another process finds the very function or class under its name.

    Parameters
    ----------
    value : function or type
        Of any module.

    Returns
    -------
    bool
        False for what was made in a function, and for the main module, which is another one each time.
    """
    module = module_of(value)
    found: Any = sys.modules.get(module) if module not in _MAIN else None
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def parts_of(value: Any, is_own: bool) -> list[Any] | None:
    """List what an object consists of that holds functions or is described by pickling.

    Parameters
    ----------
    value : object
        Neither a function nor a class.
    is_own : bool
        Whether it is of a class of the user.

    Returns
    -------
    list or None
        None for what Dask knows how to hash.
    """
    if isinstance(value, CodeType):
        return ["code", value.co_code, value.co_consts, value.co_names, value.co_varnames, value.co_freevars]
    if isinstance(value, (partial, curry)):
        return ["partial", value.func, value.args, value.keywords]
    if isinstance(value, (MethodType, classmethod, staticmethod)):
        return ["method", value.__func__, getattr(value, "__self__", None)]
    if isinstance(value, (BuiltinFunctionType, MethodWrapperType)):  # of a module, or of an object: {"a": 1}.get
        return ["builtin", value.__qualname__, value.__self__]
    if isinstance(value, property):
        return ["property", value.fget, value.fset, value.fdel]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):  # pickled, it is another each time
        values = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return ["tensor", str(value.dtype), tuple(value.shape), values]
    state = _state(value, is_own)
    if state is None and isinstance(wrapped := getattr(value, "__wrapped__", None), FunctionType):  # of lru_cache
        return ["wrapped", wrapped]
    return state


def _state(value: Any, is_own: bool) -> list[Any] | None:
    """List what pickling would keep of an object, of a plain class or of the user's; None for what Dask can hash."""
    kind: Any = type(value)
    known = normalize_token.dispatch(kind) is not normalize_object or hasattr(kind, "__dask_tokenize__")
    is_plain = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    if known or not (is_plain or is_own):
        return None
    try:
        kept = value.__reduce_ex__(4)
    except Exception:  # it cannot be pickled, and says so as it likes
        return None
    if isinstance(kept, str):
        return [kept]
    function, arguments, state, items, pairs = (*kept, None, None, None)[:5]
    return [function, arguments, state, list(items or ()), dict(pairs or ())]


def code_parts(value: FunctionType | type, is_own: Callable[[str], bool]) -> list[Any]:
    """List what a function or a class consists of, and what it uses of modules.

    Parameters
    ----------
    value : function or type
        One that is not known by its name.
    is_own : callable
        ``is_own(module) -> bool``: whether a module is of the user.

    Returns
    -------
    list
        Of functions of a package without the globals, which are the package's own.
    """
    if isinstance(value, type):
        attributes = {name: item for name, item in vars(value).items() if not name.startswith("__") or callable(item)}
        return [value.__qualname__, value.__bases__, attributes]
    parts = [value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__]
    parts.append([_content(cell) for cell in value.__closure__ or ()])
    if is_own(module_of(value)):
        parts += [_globals_used(value, is_own), _files_imported(value)]
    return parts


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    """List code, and that of functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _globals_used(function: FunctionType, is_own: Callable[[str], bool]) -> dict[str, Any]:
    """Find what code looks up in its module, and in other modules of the user; not what it puts there itself."""
    loaded: set[str] = set()
    stored: set[str] = set()
    attributes: set[str] = set()
    for code in _codes(function.__code__):
        attributes.update(code.co_names)
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                loaded.add(step.argval)
            elif step.opname == "STORE_GLOBAL":
                stored.add(step.argval)
    found: dict[str, Any] = {}
    seen: set[int] = set()
    values = function.__globals__
    waiting = [(name, values[name]) for name in sorted(loaded - stored, reverse=True) if name in values]
    while waiting:
        name, value = waiting.pop()
        found[name] = value
        if isinstance(value, ModuleType) and is_own(value.__name__) and id(value) not in seen:
            seen.add(id(value))
            below = sorted(attributes & vars(value).keys(), reverse=True)
            waiting += [(f"{name}.{attribute}", vars(value)[attribute]) for attribute in below]
    return found


def _files_imported(function: FunctionType) -> list[bytes]:
    """Read the user's modules that code imports when it is called, and that may not be there before that."""
    names: set[str] = set()
    for code in _codes(function.__code__):
        steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
        for number, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                level, taken = (before.argval for before in steps[number - _IMPORT_ARGUMENTS : number])
                package = str(function.__globals__.get("__package__") or "").rsplit(".", level - 1)[0] if level else ""
                module = f"{package}.{step.argval}".strip(".")
                names |= {module, *(f"{module}.{item}" for item in taken or ())}
    specs = [_spec(name) for name in sorted(names) if not is_trusted(name)]
    files = [Path(spec.origin) for spec in specs if spec is not None and spec.has_location and spec.origin]
    return [file.read_bytes() for file in files if file.suffix == ".py" and not is_installed(file)]


def _spec(module: str) -> ModuleSpec | None:
    """Find a module without importing it, or what it lies in."""
    package, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for name in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        package = f"{package}.{name}"
        spec = PathFinder.find_spec(package, spec.submodule_search_locations)
    return spec
