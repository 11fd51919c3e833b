"""Pickle a user's function with the modules it needs that the workers do not have."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

__all__ = ["pack"]


def pack(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle a call; modules that are no installed package go by value.

    Parameters
    ----------
    fn : callable
        What a rank will run.
    args, kwargs : tuple, dict
        Its arguments.

    Returns
    -------
    bytes
        Readable by `pickle.loads` wherever the installed packages are the same.
    """
    with _local_modules_by_value():
        return cloudpickle.dumps((fn, args, kwargs), protocol=5)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _local_modules_by_value() -> Iterator[None]:
    registered = []
    already = cloudpickle.list_registry_pickle_by_value()
    for name, module in list(sys.modules.items()):
        if name not in already and _is_local(module):
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
    return path.suffix == ".py" and not any(path.is_relative_to(root) for root in _installed_roots())


def _installed_roots() -> set[Path]:
    roots = {Path(path) for path in sysconfig.get_paths().values()}
    return roots | {root.resolve() for root in roots}
