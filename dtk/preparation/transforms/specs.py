"""Steps as a user names them: transforms, names of them, or names with parameters, as a YAML file has them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sklearn.base import clone

from dtk.errors import ArgumentError
from dtk.preparation.transforms.base import Transform
from dtk.preparation.transforms.conversion import from_sklearn
from dtk.preparation.transforms.scikit import CARRIED
from dtk.sources.columns import close_to

__all__ = ["steps_from_spec"]


def steps_from_spec(spec: Any) -> list[Transform]:
    """Make unfitted transforms of what a user wrote.

    Parameters
    ----------
    spec : Transform, str, mapping, or list of these
        A transform of dtk or of scikit-learn (a ``Pipeline``, too), which stays as it is; the name of one; or its name
        and parameters, such as ``{"SimpleImputer": {"strategy": "median"}}``. ``"passthrough"`` is no step at all.

    Returns
    -------
    list of Transform
        In order.

    Raises
    ------
    ArgumentError
        If a name or a parameter is unknown, or something is no transform.

    Examples
    --------
    >>> steps_from_spec(["RobustScaler", {"Clip": {"low": -8, "high": 8, "by": "value"}}])
    [RobustScaler(), Clip(by='value', high=8, low=-8)]
    """
    if isinstance(spec, str) and spec == "passthrough":
        return []
    if hasattr(spec, "steps"):
        return [step for _, step in from_sklearn(clone(spec)).steps]
    found = list(spec) if isinstance(spec, list | tuple) else [spec]
    return [from_sklearn(_made(step)) for step in found]


def _made(spec: Any) -> Any:
    """Make one transform, of dtk or of scikit-learn."""
    from dtk.preparation import transforms

    if not isinstance(spec, str | Mapping):
        return clone(spec, safe=False)
    if isinstance(spec, Mapping) and len(spec) != 1:
        raise ArgumentError(f"{dict(spec)!r} must be one name with its parameters, such as {{'Clip': {{'low': 0}}}}")
    name, parameters = (spec, None) if isinstance(spec, str) else next(iter(spec.items()))
    kind: Any
    if name in transforms.TRANSFORMS:
        kind = transforms.TRANSFORMS[name]
    elif name in CARRIED:
        kind = getattr(import_module(f"sklearn.{CARRIED[name][0]}"), name)
    else:
        raise ArgumentError(f"{name!r} is no transform; {close_to(str(name), [*transforms.TRANSFORMS, *CARRIED])}")
    if not isinstance(parameters, Mapping | None):
        raise ArgumentError(f"{name}: {parameters!r} must be parameters by name, such as {{'low': 0}}")
    known = list(kind._get_param_names())
    for parameter in parameters or {}:
        if parameter not in known:
            raise ArgumentError(f"{name} has no parameter {parameter!r}; {close_to(str(parameter), known)}")
    try:
        return kind(**(parameters or {}))
    except TypeError as error:
        raise ArgumentError(f"{name}: {error}") from None
