"""Errors that point at a place of a query."""

from __future__ import annotations

from difflib import get_close_matches

from dtk.errors import ArgumentError

__all__ = ["nearest", "pointed"]

SHOWN = 100  # characters of a line


def pointed(query: str, reason: str, start: int, length: int = 1) -> ArgumentError:
    """Make an error that shows where in a query something is wrong.

    Parameters
    ----------
    query : str
        The whole text.
    reason : str
        What is wrong, and the remedy.
    start : int
        The number of the first character meant, from 0.
    length : int
        How many characters are meant.

    Returns
    -------
    ArgumentError
        To be raised: with line and column, both from 1, and the line with carets below.

    Examples
    --------
    >>> print(pointed("SELECT lat FROM t", "'lat' is no column", 7, 3))
    query, line 1, column 8: 'lat' is no column
      SELECT lat FROM t
             ^^^
    """
    start = min(max(start, 0), len(query))
    before = query[:start]
    line_number = before.count("\n") + 1
    column = start - (before.rfind("\n") + 1)
    line = query.split("\n")[line_number - 1]
    first = max(0, column - SHOWN // 2) if len(line) > SHOWN else 0
    shown = line[first : first + SHOWN].replace("\t", " ")
    carets = "^" * max(1, min(length, len(shown) - (column - first)))
    place = f"query, line {line_number}, column {column + 1}"
    return ArgumentError(f"{place}: {reason}\n  {shown}\n  {' ' * (column - first)}{carets}")


def nearest(name: str, known: list[str]) -> str:
    """Suggest the nearest of some names, whatever their case; list them where none is near.

    Parameters
    ----------
    name : str
        What was written.
    known : list of str
        What could have been meant.

    Returns
    -------
    str
        The end of an error's sentence.

    Examples
    --------
    >>> nearest("Flight", ["flights", "planes"])
    "did you mean 'flights'?"
    """
    by_lower = {one.lower(): one for one in known}
    close = [by_lower[one] for one in get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.5)]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, known[:10])) + (", ..." if len(known) > 10 else "")
    return f"choose from {shown}" if known else "there are none"
