"""Writing a page of HTML where a user wants it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from dtk.errors import ArgumentError

__all__ = ["save_page"]


def save_page(path: str | os.PathLike[str], page: str, *, example: str) -> Path:
    """Write a page, in place of one that is there.

    Parameters
    ----------
    path : str or path
        An HTML file in a folder that exists. The page appears whole or not at all.
    page : str
        The page.
    example : str
        A name for it, for the error.

    Returns
    -------
    pathlib.Path
        Where it is.

    Raises
    ------
    ArgumentError
        If the folder does not exist, or `path` is a folder.
    """
    place = Path(path)
    if place.is_dir():
        raise ArgumentError(f"path={str(path)!r} is a folder; name a file in it, such as {example}")
    if not place.parent.is_dir():
        raise ArgumentError(f"path={str(path)!r} lies in no folder; make {str(place.parent)!r} first")
    partial = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)
    return place
