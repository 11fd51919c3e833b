"""The states of statistics as plain JSON values, to the last bit."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pyarrow as pa

from dtk.statistics.array_text import array_of_text, text_of_array

__all__ = [
    "array_from_json",
    "array_to_json",
    "column_from_json",
    "column_to_json",
    "number_from_json",
    "number_to_json",
]


def number_to_json(number: int | float) -> int | float | str:
    """Write a number that JSON may not have, such as infinity, as a string.

    Parameters
    ----------
    number : int or float
        Any.

    Returns
    -------
    int, float or str
        The number, or its name.
    """
    return number if math.isfinite(number) else str(number)


def number_from_json(number: int | float | str) -> int | float:
    """Read what `number_to_json` wrote.

    Parameters
    ----------
    number : int, float or str
        As written.

    Returns
    -------
    int or float
        The number.
    """
    return float(number) if isinstance(number, str) else number


def array_to_json(array: np.ndarray) -> dict[str, Any]:
    """Write an array of numbers.

    Parameters
    ----------
    array : numpy.ndarray
        Any shape; numbers or booleans.

    Returns
    -------
    dict
        With ``dtype``, ``shape`` and the values' bytes in base64, little-endian.
    """
    dtype = array.dtype.newbyteorder("<").str
    return {"dtype": dtype, "shape": list(array.shape), "base64": text_of_array(array)}


def array_from_json(state: dict[str, Any]) -> np.ndarray:
    """Read what `array_to_json` wrote.

    Parameters
    ----------
    state : dict
        As written.

    Returns
    -------
    numpy.ndarray
        Writable, and equal to the first.
    """
    dtype = np.dtype(state["dtype"]).newbyteorder("=")
    return array_of_text(state["base64"], dtype).reshape(state["shape"])


def column_to_json(column: pa.Array) -> dict[str, str]:
    """Write a column of any type.

    Parameters
    ----------
    column : pyarrow.Array
        Shape [rows].

    Returns
    -------
    dict
        With ``arrow``: an Arrow IPC stream in base64.
    """
    batch = pa.record_batch([column], names=["values"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return {"arrow": base64.b64encode(sink.getvalue()).decode()}


def column_from_json(state: dict[str, str]) -> pa.Array:
    """Read what `column_to_json` wrote.

    Parameters
    ----------
    state : dict
        As written.

    Returns
    -------
    pyarrow.Array
        Shape [rows].
    """
    with pa.ipc.open_stream(base64.b64decode(state["arrow"])) as stream:
        return stream.read_next_batch().column(0)
