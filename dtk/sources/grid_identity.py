"""Tell one state of a Dataset from another: what is computed, and what lies in the stores that it is read from.

Dask's names tell the variables and the constants of a computation, but not the body of a function that can be imported,
and of a store its path alone, with the time of its directory at best. Both are looked up in the graphs.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dask._task_spec import Alias, DataNode, Task, TaskRef
from dask.base import tokenize
from dask.blockwise import Blockwise, BlockwiseDepDict
from fsspec.implementations.local import LocalFileSystem
from tlz import curry

from dtk.errors import FetchError
from dtk.sources.functions import is_trusted, module_of
from dtk.sources.identity import expression_identity
from dtk.sources.remote import is_transient
from dtk.sources.store import list_objects, snapshot_of, store_place

if TYPE_CHECKING:
    import xarray as xr
    import zarr

__all__ = ["grid_identity", "grid_paths"]

_LITTLE_NBYTES: Final = 2**20
_READERS: Final = frozenset({"load", "loadtxt", "genfromtxt", "fromfile", "memmap"})  # of NumPy
_PLAIN: Final = (str, bytes, int, float, complex, np.ndarray, np.generic, np.dtype, slice, type(None), type(Ellipsis))


def grid_identity(data: xr.Dataset, dim: str) -> str | None:
    """Hash a Dataset by what it computes and what it reads.

    Parameters
    ----------
    data : xarray.Dataset
        Opened, computed or in memory; little is read of it.
    dim : str
        The dimension of its samples.

    Returns
    -------
    str or None
        Of Zarr the names, sizes and times of the objects, or the snapshot; of other files size and time. None where
        something else is read, such as by functions of the user's own, that may change without notice.
    """
    reads = _Reads.of(data)
    if reads.is_unknown:
        return None
    versions = {place: _version(root) for place, root in {_place(root): root for root in reads.roots}.items()}
    if None in versions.values():
        return None
    told = [_told(name, variable) for name, variable in sorted(data.variables.items())]
    return expression_identity([dim, tokenize(data.attrs), told, versions, reads.values]).digest


def grid_paths(data: xr.Dataset) -> list[str]:
    """List what a Dataset is read from.

    Parameters
    ----------
    data : xarray.Dataset
        Opened or computed.

    Returns
    -------
    list of str
        Paths and URLs of the stores and files that its graphs hold, and what its encoding names: values that are in
        memory since may count too.
    """
    told = [data.encoding, *(variable.encoding for variable in data.variables.values())]
    named = [str(encoding["source"]) for encoding in told if encoding.get("source")]
    return list(dict.fromkeys([*map(_place, _Reads.of(data).roots), *named]))


@dataclass
class _Reads:
    """What the graphs of a Dataset hold beside plain values."""

    roots: list[Any] = field(default_factory=list)  # of xarray's lazy arrays: Zarr arrays, and what reads files
    values: list[Any] = field(default_factory=list)  # that Dask's names may not tell: functions, persisted arrays
    is_unknown: bool = False
    _seen: dict[int, Any] = field(default_factory=dict)  # kept, so that no other gets the same id

    @classmethod
    def of(cls, data: xr.Dataset) -> _Reads:
        found = cls()
        layers: dict[str, Any] = {}
        leaves: set[str] = set()
        for variable in data.variables.values():
            if hasattr(variable._data, "dask"):
                graph = variable._data.dask
                layers |= graph.layers
                leaves |= {name for name, below in graph.dependencies.items() if not below}
            elif not isinstance(variable._data, np.ndarray):
                found._add(variable._data, is_leaf=True)
        for name, layer in sorted(layers.items()):
            for value in _values(layer):
                found._add(value, is_leaf=name in leaves)
        return found

    def _add(self, value: Any, *, is_leaf: bool) -> None:
        if is_leaf and isinstance(value, np.ndarray):  # one that was persisted has the name of how it was computed
            self.values.append(value)
        if isinstance(value, _PLAIN):
            return
        parts = _parts(value)
        if parts is not None:
            for part in parts:
                self._add(part, is_leaf=is_leaf)
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            self._add_object(value, is_leaf=is_leaf)

    def _add_object(self, value: Any, *, is_leaf: bool) -> None:
        root = _root(value)
        if _is_zarr(root) or _file_of(root) is not None:
            self.roots.append(root)
        elif callable(value):
            self.values.append(value)
            self.is_unknown |= is_leaf and _may_read(value)
        elif hasattr(root, "shape") and hasattr(root, "dtype"):
            self.is_unknown |= not isinstance(root, np.ndarray) and module_of(root).partition(".")[0] != "pandas"
        elif not is_trusted(module_of(value)):
            self.values.append(value)
            self.is_unknown |= is_leaf  # a future


def _parts(value: Any) -> Iterable[Any] | None:
    """List what a task or a container holds; None for anything else."""
    if isinstance(value, (TaskRef, Alias)):
        return ()
    if isinstance(value, Task):
        return [value.func, *value.args, *value.kwargs.values()]
    if isinstance(value, (partial, curry)):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, DataNode):
        return [value.value]
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple, Set)) else None


def _may_read(function: Any) -> bool:
    """Tell whether a function may read more than its arguments."""
    package, _, rest = module_of(function).partition(".")
    if package in ("numpy", "xarray"):
        return rest.startswith("backends") or getattr(function, "__name__", "") in _READERS
    return package not in ("dask", "builtins", "operator", "_operator") or function is open


def _values(layer: Any) -> Iterator[Any]:
    """List the tasks of a layer, one where all are alike."""
    if not isinstance(layer, Blockwise):
        yield from layer.values()
        return
    yield layer.task
    yield from (name for name, index in layer.indices if index is None)
    yield from (given.mapping for given in layer.io_deps.values() if isinstance(given, BlockwiseDepDict))


def _root(value: Any) -> Any:
    """Take xarray's lazy arrays apart, down to what they read."""
    while module_of(value).startswith("xarray.") and hasattr(value, "array"):
        value = value.array
    return value._array if type(value).__name__ == "ZarrArrayWrapper" else value


def _is_zarr(root: Any) -> bool:
    return module_of(root).startswith("zarr.") and hasattr(root, "store_path")


def _file_of(root: Any) -> str | None:
    """Tell the local file that one of xarray's arrays reads, of whatever library."""
    manager = getattr(getattr(root, "datastore", None), "_manager", None)
    first = next(iter(getattr(manager, "_args", ())), None)
    return first if isinstance(first, str) and os.path.isfile(first) else None


def _place(root: Any) -> str:
    """Say where an array lies, as one would open it."""
    if not _is_zarr(root):
        return str(_file_of(root))
    store, path = root.store_path.store, root.store_path.path
    if type(store).__name__ == "LocalStore":
        return os.path.join(str(store.root), path)
    if type(store).__name__ == "FsspecStore":
        fs = getattr(store.fs, "sync_fs", store.fs)
        place = f"{store.path.rstrip('/')}/{path}".rstrip("/")
        return place if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(place)).removeprefix("file://")
    return store_place(root.store_path)


def _version(root: Any) -> Any:
    """Tell the state of what is read; None where it cannot be told."""
    if not _is_zarr(root):
        status = os.stat(_place(root))
        return [status.st_size, status.st_mtime_ns]
    return _version_of_array(root)


def _version_of_array(array: zarr.Array[Any]) -> Any:
    store = array.store_path.store
    snapshot = snapshot_of(store)
    if snapshot is not None:
        changed = getattr(store, "session").has_uncommitted_changes  # noqa: B009 - only Icechunk's stores have it
        return None if changed else snapshot
    try:
        names, versions, _ = list_objects(array.store_path)
    except FetchError as error:
        if error.__cause__ is None or is_transient(error.__cause__):
            raise
        return None
    except (OSError, NotImplementedError):  # a store that has no listings, or none for us
        return None
    is_told = versions and not any(version.endswith(":") for version in versions)
    return [names, versions] if is_told else None


def _told(name: Hashable, variable: xr.Variable) -> list[Any]:
    """List what tells a variable from others."""
    from xarray import IndexVariable

    data: Any = variable._data
    if hasattr(data, "dask"):
        values = data.name
    elif isinstance(data, np.ndarray) or isinstance(variable, IndexVariable) or variable.nbytes <= _LITTLE_NBYTES:
        values = tokenize(variable)
    else:  # lazy without Dask: its values are not read for this
        values = list(_steps(data))
    return [name, variable.dims, variable.shape, str(variable.dtype), values, tokenize(variable.attrs)]


def _steps(value: Any) -> Iterator[Any]:
    """List what xarray does to what it reads: selections and decoding."""
    while module_of(value).startswith("xarray.") and hasattr(value, "array"):
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        names = sorted({*names, *getattr(value, "__dict__", {})} - {"array"})
        yield [type(value).__name__, *(getattr(value, name, None) for name in names)]
        value = value.array
    group = getattr(getattr(value, "datastore", None), "_group", None)
    yield [type(value).__name__, _place(_root(value)), getattr(value, "variable_name", None), group]
