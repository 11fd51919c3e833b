"""Compact facts about a source, kept with a saved state, so that a changed source can be refused by what changed.

A source's `facts` are plain values, a few kilobytes however many files there are; its `changes` says in words how it
differs from such facts. Long lists of files are kept as runs: the name of the first one, how many follow, their digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "changed_columns",
    "changed_files",
    "changes",
    "column_facts",
    "facts_of",
    "file_facts",
    "named",
    "short_digest",
]

_MOST_RUNS: Final = 64
_MOST_COLUMNS: Final = 128
_MOST_NAMED: Final = 3


def facts_of(source: Any) -> dict[str, Any]:
    """Return a source's facts.

    Parameters
    ----------
    source : Source or ArraySource
        Any source.

    Returns
    -------
    dict
        Plain values, fit for JSON; empty for a source that has none.
    """
    return dict(getattr(source, "facts", {}))


def changes(source: Any, facts: Mapping[str, Any]) -> list[str]:
    """Say how a source differs from what it was.

    Parameters
    ----------
    source : Source or ArraySource
        As it is now.
    facts : mapping
        What `facts_of` returned then.

    Returns
    -------
    list of str
        One for each difference that the facts tell, such as ``"b.parquet is gone"``.
    """
    now = facts_of(source)
    if not facts or not now:
        return []
    if facts.get("kind") != now["kind"]:
        return [f"it was {facts.get('kind')} and is {now['kind']}"]
    found: list[str] = source.changes(facts)
    return found


def short_digest(*parts: str | bytes) -> str:
    """Hash some text to 16 hex digits.

    Parameters
    ----------
    *parts : str or bytes
        In order.

    Returns
    -------
    str
        The digest.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


def column_facts(schema: pa.Schema) -> dict[str, Any]:
    """Describe columns.

    Parameters
    ----------
    schema : pa.Schema
        The columns.

    Returns
    -------
    dict
        How many there are, their digest and, unless they are very many, the type of each.
    """
    types = {field.name: str(field.type) for field in schema}
    return {
        "number": len(types),
        "digest": short_digest(*types, *types.values()),
        "types": types if len(types) <= _MOST_COLUMNS else {},
    }


def changed_columns(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which columns changed.

    Parameters
    ----------
    then : mapping
        What `column_facts` returned.
    now : mapping
        The same, now.

    Returns
    -------
    list of str
        One for each kind of change.
    """
    if then["digest"] == now["digest"]:
        return []
    old, new = then["types"], now["types"]
    if not old or not new:
        return [f"its columns changed ({then['number']:,} then, {now['number']:,} now)"]
    said = named([name for name in new if name not in old], "column", "is new", "are new")
    said += named([name for name in old if name not in new], "column", "is gone", "are gone")
    said += [
        f"column {name} is {new[name]} and was {old[name]}" for name in old if new.get(name, old[name]) != old[name]
    ]
    return said or ["its columns come in another order"]


def file_facts(names: Sequence[str], versions: Sequence[str], sizes: npt.NDArray[np.int64]) -> list[list[Any]]:
    """Describe files by at most 64 runs of them.

    Parameters
    ----------
    names : sequence of str
        The files, in order.
    versions : sequence of str
        What changes when the file does.
    sizes : numpy.ndarray
        An int64 ``[files]``: rows or bytes of each.

    Returns
    -------
    list of list
        For each run the name of the first file, how many there are, their digest and the sum of their sizes.
    """
    length = max(1, -(-len(names) // _MOST_RUNS))
    return [
        _run(names, versions, sizes, start, min(start + length, len(names))) for start in range(0, len(names), length)
    ]


def changed_files(
    then: Sequence[Sequence[Any]],
    names: Sequence[str],
    versions: Sequence[str],
    sizes: npt.NDArray[np.int64],
    *,
    what: str = "file",
    unit: str = "rows",
) -> list[str]:
    """Say which files were added, removed and rewritten.

    Parameters
    ----------
    then : sequence
        What `file_facts` returned.
    names : sequence of str
        The files, now.
    versions : sequence of str
        What changes when the file does.
    sizes : numpy.ndarray
        An int64 ``[files]``: rows or bytes of each.
    what : str
        What a file is called.
    unit : str
        What the sizes count.

    Returns
    -------
    list of str
        One for each kind of change, with the names of a few; exact where each run was of one file.
    """
    place = {name: number for number, name in enumerate(names)}
    known = [run for run in then if run[0] in place]
    gone = [run for run in then if run[0] not in place]
    starts = [place[run[0]] for run in known]
    if starts != sorted(starts):
        return [f"its {what}s come in another order"]
    stops = [*starts, len(names)]
    is_exact = all(run[1] == 1 for run in gone)
    new = list(names[: stops[0]]) if is_exact else []
    rewritten = []
    for (first, count, digest, size), start, stop in zip(known, starts, stops[1:], strict=True):
        now = _run(names, versions, sizes, start, min(start + count, stop))
        if now[1:3] == [count, digest]:
            new += names[start + count : stop] if is_exact else []
        elif count == 1:
            numbers = f" ({size:,} {unit} then, {now[3]:,} now)" if now[3] != size else ""
            rewritten.append(f"{what} {first} was rewritten{numbers}")
            new += names[start + 1 : stop] if is_exact else []
        else:
            rewritten.append(f"of the {count:,} {what}s from {first} on, some changed")
    said = named(new, what, "is new", "are new")
    said += named([run[0] for run in gone], what, "is gone", "are gone") if is_exact else []
    said += [f"of the {run[1]:,} {what}s from {run[0]} on, some are gone" for run in gone[:_MOST_NAMED] if run[1] > 1]
    more = [f"{len(rewritten) - _MOST_NAMED:,} more changed"] if len(rewritten) > _MOST_NAMED else []
    return [*said, *rewritten[:_MOST_NAMED], *more]


def _run(
    names: Sequence[str], versions: Sequence[str], sizes: npt.NDArray[np.int64], start: int, stop: int
) -> list[Any]:
    own = (name.rpartition("/")[2] for name in names[start:stop])  # what they are below may be told from elsewhere
    digest = short_digest("\0".join(own), "\0".join(versions[start:stop]))
    return [names[start], stop - start, digest, int(sizes[start:stop].sum())]


def named(names: Iterable[str], what: str, one: str, several: str) -> list[str]:
    """Say something about names, a few of them by name.

    Parameters
    ----------
    names : iterable of str
        What it is about.
    what : str
        What they are called.
    one : str
        What is said of one.
    several : str
        What is said of several.

    Returns
    -------
    list of str
        Empty if there are no names.

    Examples
    --------
    >>> named(["a", "b", "c", "d"], "file", "is new", "are new")
    ['4 files are new: a, b, c, ...']
    """
    names = list(names)
    if len(names) <= 1:
        return [f"{what} {name} {one}" for name in names]
    dots = ", ..." if len(names) > _MOST_NAMED else ""
    return [f"{len(names):,} {what}s {several}: {', '.join(names[:_MOST_NAMED])}{dots}"]
