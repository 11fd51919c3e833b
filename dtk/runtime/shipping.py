"""Pickle what a user wrote together with the modules it needs that the workers do not have."""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

__all__ = ["is_installed", "pack", "unpack"]

_registry_lock = threading.RLock()  # cloudpickle's list of modules is one for all threads; what is packed may pack, too


def pack(value: Any) -> bytes:
    """Pickle a value; modules that are no installed package go by value.

    Parameters
    ----------
    value : object
        Functions, classes and their instances, of the user or of installed packages.

    Returns
    -------
    bytes
        For `unpack`, wherever the installed packages are the same.
    """
    with _local_modules_by_value():
        return cloudpickle.dumps(value, protocol=5)  # type: ignore[no-any-return]


def unpack(payload: bytes) -> Any:
    """Unpickle what `pack` made, in another process of the same cluster.

    Parameters
    ----------
    payload : bytes
        From `pack`; never from a file.

    Returns
    -------
    object
        A copy of what was packed.

    Raises
    ------
    ModuleNotFoundError
        If it needs a module that this process has not.
    """
    try:
        return pickle.loads(payload)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}: the workers cannot import module {error.name!r}; install it there, "
            "or send the file with client.upload_file(...)",
            name=error.name,
        ) from error


@contextlib.contextmanager
def _local_modules_by_value() -> Iterator[None]:
    with _registry_lock:
        registered = []
        already = cloudpickle.list_registry_pickle_by_value()
        for name, module in list(sys.modules.items()):
            # a module may stand there under other names, too
            if name not in already and getattr(module, "__name__", "") == name and _is_local(module):
                cloudpickle.register_pickle_by_value(module)
                registered.append(module)
        try:
            yield
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)


def _is_local(module: ModuleType) -> bool:
    """Tell whether a module is a user's own file, and no part of an installed package or of dtk."""
    name, file = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    if not file or name.partition(".")[0] in ("dtk", "__main__", "__mp_main__"):
        return False
    if sys.modules.get(name) is not module:
        return False
    path = Path(file)
    return path.suffix == ".py" and not is_installed(path)


def is_installed(path: Path) -> bool:
    """Tell whether a file belongs to Python or to an installed package.

    Parameters
    ----------
    path : Path
        Of a module, absolute.

    Returns
    -------
    bool
        False for what the user wrote, also where it was installed to be edited.
    """
    # by their names, too: one environment may build on another's packages, which `sysconfig` does not know
    is_among_packages = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return is_among_packages or any(path.is_relative_to(root) for root in _installed_roots())


@functools.cache
def _installed_roots() -> frozenset[Path]:
    roots = {Path(path) for path in sysconfig.get_paths().values()}
    return frozenset(roots | {root.resolve() for root in roots})
