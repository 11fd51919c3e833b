"""Bytes: parse them, write them for people, and measure what processes hold."""

from __future__ import annotations

import re
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dtk.errors import ArgumentError

if TYPE_CHECKING:
    import psutil

__all__ = ["format_nbytes", "held_nbytes", "parse_nbytes", "peak_rss_nbytes", "tree_held_nbytes"]

MAX_NBYTES: Final = 2**63

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
    number = _number_of_bytes(value)
    if number is None or not number < MAX_NBYTES:  # which NaN is not
        raise ArgumentError(f"{name}={value!r} is no size in bytes; write it as '512 MiB' or '1.5 GB'")
    if number < 1:
        raise ArgumentError(f"{name}={value!r} must be more than zero bytes")
    return int(number)


def _number_of_bytes(value: object) -> float | None:
    """Read a size; None for what is none."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", value)
        unit = match and _UNITS.get(match[2].lower())
        return None if match is None or unit is None else float(match[1]) * unit
    return value if isinstance(value, Real) and not isinstance(value, bool) else None  # type: ignore[return-value]


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

    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), flags=re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_nbytes() -> int:
    """Return the memory that this process holds now, counted as `tree_held_nbytes` does; its children are left out.

    Returns
    -------
    int
        Bytes.
    """
    import psutil

    return _held_nbytes(psutil.Process(), is_alone=True)


def tree_held_nbytes(pid: int) -> int:
    """Return the memory that a process and all its descendants hold, and nobody could take from them.

    On Linux that is anonymous and shared memory, each page counted once however many forks share it; pages of files
    that are read or mapped are left out, because the system drops them when memory is short. Elsewhere it is the
    resident memory.

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
            total += _held_nbytes(process, is_alone=len(processes) == 1)
        except (psutil.NoSuchProcess, ProcessLookupError):  # it ended between the listing and the look
            continue
    return total


def _held_nbytes(process: psutil.Process, *, is_alone: bool) -> int:
    """Count what one process holds; its part of what it shares with others, unless it is alone."""
    # the first takes the kernel 25 ms a GiB of small pages, the second nothing; they agree where nothing is shared
    sources = [("smaps_rollup", ("Pss_Anon", "Pss_Shmem")), ("status", ("RssAnon", "RssShmem"))]
    for file, names in sources[is_alone:]:
        try:
            text = Path(f"/proc/{process.pid}/{file}").read_text()
        except (FileNotFoundError, PermissionError):  # an older kernel, another system, or gone: psutil will say
            continue
        found = re.findall(rf"^(?:{'|'.join(names)}):\s*(\d+) kB", text, flags=re.MULTILINE)
        if found:
            return sum(map(int, found)) * 1024
    return int(process.memory_info().rss)
