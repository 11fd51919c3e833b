"""Transforms as plain JSON values, and back: nothing is pickled, and no name from a file is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from dtk.preparation.transforms.base import Transform

__all__ = ["decode", "encode", "fitted_from_dict", "fitted_to_dict"]

Made = TypeVar("Made", bound="Transform")


def fitted_to_dict(transform: Transform) -> dict[str, Any]:
    """Return the parameters of a transform and what was fitted.

    Parameters
    ----------
    transform : Transform
        Fitted or not.

    Returns
    -------
    dict
        Plain JSON values.
    """
    fitted = {name: value for name, value in vars(transform).items() if name.endswith("_") and name[0] != "_"}
    return {
        "as": type(transform).__name__,
        "parameters": {name: encode(value) for name, value in transform.get_params(deep=False).items()},
        "fitted": {name: encode(value) for name, value in fitted.items()},
    }


def fitted_from_dict(kind: type[Made], state: Mapping[str, Any]) -> Made:
    """Rebuild a transform.

    Parameters
    ----------
    kind : type
        Its class.
    state : mapping
        What `fitted_to_dict` returned.

    Returns
    -------
    Transform
        With the same parameters and fitted attributes.
    """
    made = kind(**{name: decode(value) for name, value in state["parameters"].items()})
    for name, value in state["fitted"].items():
        setattr(made, name, decode(value))
    return made


def encode(value: Any) -> Any:
    """Turn a value into plain JSON, to the last bit.

    Parameters
    ----------
    value : object
        Numbers, strings, None, arrays, transforms, and lists, tuples and dicts of them.

    Returns
    -------
    object
        Arrays, tuples, dicts and floats that JSON cannot write are dicts of one key.

    Examples
    --------
    >>> encode(np.array([1.0, np.nan], np.float32))
    {'array': [1.0, {'float': 'nan'}], 'dtype': '<f4', 'shape': [2]}
    """
    if isinstance(value, np.ndarray):
        dtype = "object" if value.dtype == object else value.dtype.str
        return {"array": [encode(item) for item in value.ravel().tolist()], "dtype": dtype, "shape": [*value.shape]}
    if isinstance(value, np.generic):
        return {"scalar": encode(value.item()), "dtype": value.dtype.str}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "steps"):  # a scikit-learn Pipeline
        return [encode(step) for _, step in value.steps]
    if hasattr(value, "get_params"):
        from dtk.preparation.transforms.conversion import from_sklearn

        return {"transform": from_sklearn(value).to_dict()}
    raise TypeError(f"{value!r} has no place in JSON")


def decode(value: Any) -> Any:
    """Turn plain JSON back into a value.

    Parameters
    ----------
    value : object
        What `encode` returned, also after a round trip through JSON.

    Returns
    -------
    object
        Equal to the first, of the same types.

    Examples
    --------
    >>> decode(encode((1, np.float32(0.1), float("inf"))))
    (1, np.float32(0.1), inf)
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        items = [decode(item) for item in value["array"]]
        if value["dtype"] == "object":
            array = np.empty(len(items), object)
            array[:] = items
        else:
            array = np.array(items, np.dtype(value["dtype"]))
        return array.reshape(value["shape"])
    if "scalar" in value:
        return np.dtype(value["dtype"]).type(decode(value["scalar"]))
    if "float" in value:
        return float(value["float"])
    if "tuple" in value:
        return tuple(decode(item) for item in value["tuple"])
    if "transform" in value:
        from dtk.preparation.transforms import transform_from_dict

        return transform_from_dict(value["transform"])
    return {decode(key): decode(item) for key, item in value["dict"]}
