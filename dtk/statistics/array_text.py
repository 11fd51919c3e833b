"""Arrays as text, to the last bit."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import numpy as np

__all__ = ["array_of_text", "text_of_array"]


def text_of_array(array: np.ndarray) -> str:
    """Write an array as text.

    Parameters
    ----------
    array : numpy.ndarray
        Of numbers.

    Returns
    -------
    str
        Base64 of its little-endian bytes in C order.
    """
    return b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def array_of_text(text: str, dtype: np.dtype[Any]) -> np.ndarray:
    """Read an array.

    Parameters
    ----------
    text : str
        What `text_of_array` returned.
    dtype : numpy.dtype
        The array's.

    Returns
    -------
    numpy.ndarray
        Of one axis.

    Examples
    --------
    >>> array_of_text(text_of_array(np.array([1.5, np.inf])), np.dtype("f8"))
    array([1.5, inf])
    """
    return np.frombuffer(b64decode(text), dtype.newbyteorder("<")).astype(dtype)
