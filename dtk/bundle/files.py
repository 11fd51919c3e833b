"""A bundle on disk: a directory with the weights, JSON for everything else, and sums over both."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from dtk.bundle.bundle import Bundle
from dtk.errors import ArgumentError, BundleError, DtkError, NotFoundError
from dtk.models import ModelSchema
from dtk.preparation import TablePreparation, target_from_dict

__all__ = ["check_destination", "load", "read_description", "save"]

FORMAT: Final = "dtk-bundle"
VERSION: Final = 2
WEIGHTS: Final = "weights.safetensors"
DESCRIPTION: Final = "bundle.json"


def save(bundle: Bundle, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a bundle; see `Bundle.save`.

    Parameters
    ----------
    bundle : Bundle
        What to write.
    path : str or path
        Of the directory.
    overwrite : bool
        Whether to replace a bundle that is there.

    Raises
    ------
    ArgumentError
        If something is there already, or nothing can be written there.
    """
    path = check_destination(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    new, old = (path.with_name(f".{path.name}.{token}.{state}") for state in ("new", "old"))
    new.mkdir()
    try:
        _write(new / WEIGHTS, bundle.weights)
        _write(new / DESCRIPTION, _describe(bundle))
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_destination(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Refuse a path that a bundle cannot be written to, before the work whose result it is for.

    Parameters
    ----------
    path : str or path
        Of the directory to come.
    overwrite : bool
        Whether to replace a bundle that is there.

    Returns
    -------
    pathlib.Path
        Absolute, with links followed: a link to a bundle stays one, and the bundle it leads to is replaced.

    Raises
    ------
    ArgumentError
        If something is there that may not be replaced, or no directory can be made there.
    """
    given = str(path)
    try:
        path = Path(path).resolve()
        if path.exists():
            if not overwrite:
                raise ArgumentError(f"path={given!r} is there already; choose another, or give overwrite=True")
            if not (path / DESCRIPTION).is_file():
                raise ArgumentError(f"path={given!r} is no bundle, and overwrite=True replaces nothing else")
        parent = next(parent for parent in path.parents if parent.exists())
    except (OSError, RuntimeError) as error:  # a loop of links is the one or the other, by Python's version
        raise ArgumentError(f"path={given!r} cannot be reached ({error}); choose another") from error
    if not parent.is_dir():
        raise ArgumentError(f"path={given!r} cannot be made: {str(parent)!r} is a file; choose another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ArgumentError(f"path={given!r} cannot be made: you may not write to {str(parent)!r}; choose another")
    return path


def load(
    path: str | os.PathLike[str], *, module: nn.Module | Callable[[ModelSchema], nn.Module] | None = None
) -> Bundle:
    """Read a bundle that was saved.

    Nothing is unpickled, and no code of the user is imported: a network of your own is given as `module`.

    Parameters
    ----------
    path : str or path
        Of the directory.
    module : torch.nn.Module, class or callable, optional
        The network that was trained: a module of the same shapes, or what makes one from the schema.

    Returns
    -------
    Bundle
        That predicts as the one that was saved, bit for bit.

    Raises
    ------
    NotFoundError
        If nothing is there.
    BundleError
        If it is damaged, of a newer version, or needs a module that was not given.
    ArgumentError
        If a module is given for a bundle that has none of the user's.
    """
    path = Path(path)
    state = read_description(path)
    weights = _read(path / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != state["sums"][WEIGHTS]:
        raise BundleError(f"{path / WEIGHTS} is damaged: it is not what was saved; use another copy of the bundle")
    if module is not None and "custom" not in state["model"]:
        raise ArgumentError(f"module={module!r} is not needed: the bundle builds its {state['model']['name']} itself")
    try:
        bundle = Bundle(
            weights=weights,
            schema=ModelSchema.from_dict(state["schema"]),
            preparation=TablePreparation.from_dict(state["preparation"]),
            target=None if state["target"] is None else target_from_dict(state["target"]),
            model=state["model"],
            module=module,
            metrics=_with_nan(state["metrics"]),
            history=state["history"],
            plan_digest=state["plan"],
            versions=state["versions"],
        )
    except (KeyError, TypeError, DtkError) as error:
        raise BundleError(f"{path / DESCRIPTION} cannot be understood ({error!r}); use another copy") from error
    bundle.network()  # what does not fit is refused here and not in the first prediction
    return bundle


def read_description(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a bundle says of itself, and no weights.

    Parameters
    ----------
    path : str or path
        Of the directory.

    Returns
    -------
    dict
        Plain JSON values: ``preparation``, ``target``, ``metrics`` and others.

    Raises
    ------
    NotFoundError
        If nothing is there.
    BundleError
        If it is damaged or of a newer version.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"path={str(path)!r}: there is no bundle; check the path")
    return _read_description(path / DESCRIPTION)


def _describe(bundle: Bundle) -> bytes:
    state = {
        "format": FORMAT,
        "version": VERSION,
        **bundle.description(),
        "metrics": bundle.metrics,
        "history": bundle.history,
        "plan": bundle.plan_digest,
        "versions": bundle.versions,
        "sums": {WEIGHTS: hashlib.sha256(bundle.weights).hexdigest()},
    }
    state = _as_json(state)
    state["sums"][DESCRIPTION] = _sum_of(state)
    return json.dumps(state, indent=1, allow_nan=False, ensure_ascii=False).encode()


def _sum_of(state: dict[str, Any]) -> str:
    """Hash a description without its own sum."""
    sums = {name: value for name, value in state["sums"].items() if name != DESCRIPTION}
    return hashlib.sha256(json.dumps({**state, "sums": sums}, sort_keys=True).encode()).hexdigest()


def _read_description(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(_read(path))
    except ValueError as error:
        raise BundleError(f"{path} is damaged: it is no JSON ({error}); use another copy of the bundle") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise BundleError(f"{path} is no description of a bundle; give the directory that bundle.save(path) wrote")
    version = state.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise BundleError(f"{path} is of version {version}, and this dtk reads up to {VERSION}; update dtk to read it")
    if version < VERSION:
        raise BundleError(f"{path} is of version {version}, which this dtk reads no more; train the model again")
    sums = state.get("sums")
    if not isinstance(sums, dict) or sums.get(DESCRIPTION) != _sum_of(state):
        raise BundleError(f"{path} is damaged: it is not what was saved; use another copy of the bundle")
    return state


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{path} is missing; give the directory that bundle.save(path) wrote") from None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _as_json(value: Any) -> Any:
    """Replace NaN and infinities, which JSON has not, by null, and NumPy's numbers by Python's."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}
