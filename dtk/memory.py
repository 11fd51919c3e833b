"""Bytes: parse them, write them for people, and measure what processes hold."""

from __future__ import annotations

import re
from typing import Final

from dtk.errors import ArgumentError

__all__ = ["format_nbytes", "parse_nbytes", "peak_rss_nbytes", "tree_rss_nbytes"]

_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_nbytes(value: int | float | str, *, name: str = "memory") -> int:
    """Turn ``"1 GiB"``, ``"500MB"`` or a number into bytes.

    Parameters
    ----------
    value : int, float or str
        Bytes, or a number with a unit.
    name : str
        The argument that an error names.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    ArgumentError
        If the value is no positive number of bytes.

    Examples
    --------
    >>> parse_nbytes("1.5 GiB")
    1610612736
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", value)
        unit = match and _UNITS.get(match[2].lower())
        if match is None or unit is None:
            raise ArgumentError(f"{name}={value!r} is no size in bytes; write it as '512 MiB' or '1.5 GB'")
        nbytes = int(float(match[1]) * unit)
    else:
        nbytes = int(value)
    if nbytes <= 0:
        raise ArgumentError(f"{name}={value!r} must be more than zero bytes")
    return nbytes


def format_nbytes(nbytes: float) -> str:
    """Write bytes for people.

    Parameters
    ----------
    nbytes : float
        Bytes.

    Returns
    -------
    str
        With a binary unit and at most one digit after the point.

    Examples
    --------
    >>> format_nbytes(1610612736)
    '1.5 GiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(nbytes) < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def peak_rss_nbytes() -> int:
    """Return the most resident memory this process ever held.

    Returns
    -------
    int
        Bytes.
    """
    import resource
    import sys
    from pathlib import Path

    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), flags=re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def tree_rss_nbytes(pid: int) -> int:
    """Return the resident memory of a process and all its descendants.

    Parameters
    ----------
    pid : int
        The root of the tree.

    Returns
    -------
    int
        Bytes; 0 for a process that is gone.
    """
    import psutil

    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it ended between the listing and the look
            continue
    return total
