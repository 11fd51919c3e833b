"""Fitted grids as plain JSON values, and back, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from dtk.preparation.transforms.state import decode, encode
from dtk.statistics.array_text import array_of_text, text_of_array

__all__ = ["decode_grid", "encode_grid"]


def encode_grid(value: Any) -> Any:
    """Turn a value into plain JSON.

    Parameters
    ----------
    value : object
        An xarray Dataset or DataArray, or what `dtk.preparation.transforms.state.encode` takes.

    Returns
    -------
    object
        Arrays of numbers are base64 of their bytes.
    """
    if isinstance(value, xr.DataArray):
        return {"grid": encode_grid(value.to_dataset(name="values")), "name": encode(value.name)}
    if isinstance(value, xr.Dataset):
        variables = {str(name): _encode_variable(one) for name, one in value.variables.items()}
        return {"variables": variables, "coords": [str(name) for name in value.coords]}
    return encode(value)


def decode_grid(value: Any) -> Any:
    """Turn plain JSON back into a value.

    Parameters
    ----------
    value : object
        What `encode_grid` returned, also after a round trip through JSON.

    Returns
    -------
    object
        Equal to the first.
    """
    if isinstance(value, Mapping) and "grid" in value:
        return decode_grid(value["grid"])["values"].rename(decode(value["name"]))
    if isinstance(value, Mapping) and "variables" in value:
        variables = {name: _decode_variable(one) for name, one in value["variables"].items()}
        coords = {name: variables.pop(name) for name in value["coords"]}
        return xr.Dataset(variables, coords=coords)
    return decode(value)


def _encode_variable(variable: xr.Variable) -> dict[str, Any]:
    values = np.asarray(variable.values)
    state: dict[str, Any] = {"dims": [*map(str, variable.dims)], "shape": [*values.shape], "dtype": values.dtype.str}
    if values.dtype.kind in "biuf":
        return state | {"values": text_of_array(values)}
    if values.dtype.kind in "mM":
        return state | {"values": text_of_array(values.view(np.int64))}
    return state | {"items": encode(values.astype(object))}


def _decode_variable(state: Mapping[str, Any]) -> xr.Variable:
    if "items" in state:
        values = decode(state["items"])
        values = values if state["dtype"] == "|O" else values.astype(state["dtype"])
    else:
        dtype = np.dtype(state["dtype"])
        stored = np.dtype(np.int64) if dtype.kind in "mM" else dtype
        values = array_of_text(state["values"], stored).view(dtype.newbyteorder("="))
    return xr.Variable(state["dims"], values.reshape(state["shape"]))
