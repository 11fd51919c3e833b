"""Check the names of columns that a caller asks for."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from dtk.errors import ArgumentError

__all__ = ["checked_columns", "close_to"]


def checked_columns(
    asked: Sequence[str] | str | None, available: Sequence[str], *, argument: str = "columns"
) -> list[str]:
    """Return the asked columns as a list, or refuse one that is not there.

    Parameters
    ----------
    asked : sequence of str, str or None
        Names in the order wanted; None for all of them.
    available : sequence of str
        What the data has.
    argument : str
        The argument that an error names.

    Returns
    -------
    list of str
        Each name once.

    Raises
    ------
    ArgumentError
        If a name is no column of the data, or is there twice.
    """
    if asked is None:
        return list(available)
    names = [asked] if isinstance(asked, str) else list(asked)
    known = set(available)
    for name in names:
        if name not in known:
            raise ArgumentError(f"{argument}={name!r} is no column of the data; {close_to(name, available)}")
    if len(set(names)) != len(names):
        raise ArgumentError(f"{argument}={names!r} names a column twice; give each once")
    return names


def close_to(name: object, available: Sequence[str]) -> str:
    """Say what a misspelt name may have meant.

    Parameters
    ----------
    name : object
        What was given.
    available : sequence of str
        What would have been right.

    Returns
    -------
    str
        The end of an error's sentence.

    Examples
    --------
    >>> close_to("lat", ["late", "carrier"])
    "did you mean 'late'?"
    """
    names = [str(candidate) for candidate in available]
    close = get_close_matches(str(name), names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(repr(candidate) for candidate in names[:10])
    return f"choose from {shown}" + (", ..." if len(names) > 10 else "")
