"""Facts about variables of Zarr stores: where they lie, how, and, if asked for, of which objects they consist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from dtk.errors import ArgumentError
from dtk.sources.facts import changed_files, file_facts, named, short_digest
from dtk.sources.remote_zarr import object_url
from dtk.sources.store import list_objects, snapshot_of, store_place

if TYPE_CHECKING:
    from dtk.sources.arrays import ArraySource
    from dtk.sources.variables import ArrayVariable

__all__ = ["array_changes", "array_facts"]

_MOST_VARIABLES: Final = 64


def array_facts(source: ArraySource) -> dict[str, Any]:
    """Tell all that a source's identity consists of.

    Parameters
    ----------
    source : ArraySource
        Of metadata, and of a listing where it verifies that.

    Returns
    -------
    dict
        Plain values, fit for JSON.
    """
    variables = {name: _variable_facts(variable) for name, variable in sorted(source.variables.items())}
    stores = [variable.read.array.store_path.store for variable in source.variables.values()]
    return {
        "kind": "zarr",
        "dim": source.dim,
        "digest": short_digest(json.dumps(variables)),
        "variables": variables if len(variables) <= _MOST_VARIABLES else {},
        "snapshots": sorted({snapshot for store in stores if (snapshot := snapshot_of(store)) is not None}),
        "verify": source.verify,
        "objects": file_facts(*_objects(source)) if source.verify == "list" else [],
    }


def array_changes(source: ArraySource, then: Mapping[str, Any]) -> list[str]:
    """Say how a source differs from what it was.

    Parameters
    ----------
    source : ArraySource
        As it is now.
    then : mapping
        What `array_facts` returned.

    Returns
    -------
    list of str
        One for each difference.
    """
    now = source.facts
    if then["verify"] != now["verify"]:
        return [f"the state was saved with verify={then['verify']!r}, which is verify={now['verify']!r} now"]
    found = []
    if then["snapshots"] != now["snapshots"]:
        was, found_now = (" and ".join(facts["snapshots"]) or "none" for facts in (then, now))
        found.append(f"it is at the snapshot {found_now} and was at {was}")
    if then["dim"] != now["dim"]:
        found.append(f"its samples are along {now['dim']!r} and were along {then['dim']!r}")
    old, new = then["variables"], now["variables"]
    if old and new:
        found += named([name for name in new if name not in old], "variable", "is new", "are new")
        found += named([name for name in old if name not in new], "variable", "is gone", "are gone")
        for name in new:
            found += _variable_changes(name, old.get(name, new[name]), new[name])
    elif then["digest"] != now["digest"]:
        found.append("its variables changed")
    if now["verify"] == "list":
        found += changed_files(then["objects"], *_objects(source), what="object", unit="bytes")
    return found


def _variable_facts(variable: ArrayVariable) -> dict[str, Any]:
    array = variable.read.array
    metadata = json.dumps(array.metadata.to_dict(), sort_keys=True, default=str)
    decode = [_named(function) for function in variable.read.decode]
    return {
        "place": store_place(array.store_path),
        "shape": list(array.shape),
        "chunks": list(array.shards or array.chunks),
        "dtype": str(array.dtype),
        "selection": [[part.start, part.stop] if isinstance(part, slice) else part for part in variable.read.selection],
        "metadata": short_digest(metadata, *decode),
    }


def _named(function: Any) -> str:
    """Name what decodes, the same in every process."""
    plain = getattr(function, "func", function)
    return f"{plain.__module__}.{plain.__qualname__} {getattr(function, 'keywords', '')!r}"


def _variable_changes(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    said = [
        f"{name} has the {what} {now[what]} and had {then[what]}"
        for what in ("place", "shape", "chunks", "dtype")
        if then[what] != now[what]
    ]
    if not said and then["selection"] != now["selection"]:
        said.append(f"another part of {name} is selected")
    if not said and then["metadata"] != now["metadata"]:
        said.append(f"the codecs, the fill value or the attributes of {name} changed")
    return said


def _objects(source: ArraySource) -> tuple[list[str], list[str], npt.NDArray[np.int64]]:
    """List the objects of all variables; a snapshot has no need of it."""
    names: list[str] = []
    versions: list[str] = []
    sizes = [np.zeros(0, np.int64)]
    for _, variable in sorted(source.variables.items()):
        place = variable.read.array.store_path
        if snapshot_of(place.store) is None:
            listed = list_objects(place)
            if unknown := [name for name, version in zip(*listed[:2], strict=True) if version.endswith(":")]:
                raise ArgumentError(
                    f"verify='list' would not see that {object_url(place.store, unknown[0])} is written again, as its "
                    "store tells neither tag nor time; pass verify='metadata'"
                )
            names += [f"{place.store}/{name}" for name in listed[0]]
            versions += listed[1]
            sizes.append(listed[2])
    return names, versions, np.concatenate(sizes)
