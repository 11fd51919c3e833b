"""Checks of arguments that several layers take."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from dtk.errors import ArgumentError

__all__ = ["check_whole", "is_whole"]


def is_whole(value: Any, least: int) -> bool:
    """Tell whether a value is a whole number, Python's or NumPy's.

    Parameters
    ----------
    value : object
        Any value.
    least : int
        The least that will do.

    Returns
    -------
    bool
        False for a boolean, and for a float even if it has no fraction.
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number.

    Parameters
    ----------
    name : str
        The argument.
    value : object
        Its value.
    least : int
        The least that will do.

    Raises
    ------
    ArgumentError
        If it is no whole number, or less.

    Examples
    --------
    >>> check_whole("epoch", 1.5, 0)
    Traceback (most recent call last):
    ...
    dtk.errors.ArgumentError: epoch=1.5 must be a whole number, at least 0
    """
    if not is_whole(value, least):
        raise ArgumentError(f"{name}={value!r} must be a whole number, at least {least}")
