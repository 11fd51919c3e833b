"""What a window is: which rows before and after a row make a sample, and some windows over rows in memory."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dtk.arguments import check_whole, is_whole
from dtk.errors import ArgumentError

__all__ = ["Window", "WindowBlock"]


@dataclass(frozen=True)
class Window:
    """Makes a sample of consecutive rows: the last ones up to a time as inputs, and later ones as the target.

    Parameters
    ----------
    dim : str
        The time: of a table a column of numbers, dates or times; of grids the dimension of the samples.
    history : int
        Rows of the inputs: a time ``t``, and ``history - 1`` rows before it.
    lead : int or sequence of int, optional
        How many rows after ``t`` the target lies: one number, or several rising ones for as many targets. 0 is ``t``
        itself; None makes windows without a target.
    stride : int
        Rows from one window to the next, counted from the start of each run.
    group : str or sequence of str, optional
        Columns, or coordinates along `dim`, that tell series apart: a window holds rows of one group.
    known : sequence of str
        Columns or variables that are known in advance, such as the hour or a forecast: given also at the lead times.
    step : int, float, str, datetime.timedelta or numpy.timedelta64, optional
        The time from one row to the next, a time as in ``"6h"``; the most common one if None.

    Raises
    ------
    ArgumentError
        If an argument cannot work.

    Notes
    -----
    A run is a stretch of rows of one group that are one `step` apart. A window lies inside a run: it crosses no gap,
    no group's border and no place where the time goes back, but any border of chunks and files. So the rows must lie
    sorted by group and time. Steps of floating point may differ by a thousandth.

    Examples
    --------
    >>> Window("time", history=3, lead=[1, 2]).num_rows
    5
    """

    dim: str
    history: int = 1
    lead: int | Sequence[int] | None = 1
    stride: int = 1
    group: str | Sequence[str] | None = None
    known: Sequence[str] = ()
    step: int | float | str | datetime.timedelta | np.timedelta64 | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dim, str):
            raise ArgumentError(f"dim={self.dim!r} must be the name of the time")
        for name in ("history", "stride"):
            value = getattr(self, name)
            check_whole(name, value, 1)
            object.__setattr__(self, name, int(value))
        lead: Any = () if self.lead is None else self.lead
        is_one = not isinstance(lead, Iterable)
        leads = [lead] if is_one else list(lead)
        if not all(is_whole(lead, 0) for lead in leads) or leads != sorted(set(leads)):
            raise ArgumentError(
                f"lead={self.lead!r} must be a whole number, at least 0, or several that rise; rows before the time "
                "belong to the history="
            )
        whole = tuple(map(int, leads))
        object.__setattr__(self, "lead", whole[0] if is_one else whole or None)
        if isinstance(self.known, str):
            raise ArgumentError(f"known={self.known!r} must list names; give known=[{self.known!r}]")
        object.__setattr__(self, "known", _names("known", self.known))
        groups = () if self.group is None else _names("group", self.group)
        object.__setattr__(self, "group", groups[0] if len(groups) == 1 else groups or None)
        if self.known and not leads:
            raise ArgumentError(f"known={list(self.known)!r} are given at the lead times, and lead=None has none")

    @property
    def leads(self) -> tuple[int, ...]:
        """The leads, one or several or none."""
        if self.lead is None or isinstance(self.lead, Sequence):
            return tuple(self.lead or ())
        return (self.lead,)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names that tell series apart, one or several or none."""
        return (self.group,) if isinstance(self.group, str) else tuple(self.group or ())

    @property
    def num_rows(self) -> int:
        """Rows from the first one of the history to the last lead."""
        return self.history + max(self.leads, default=0)


@dataclass(frozen=True)
class WindowBlock:
    """Some windows, and the rows that they are made of.

    Parameters
    ----------
    parts : tuple of pa.Table or ArrayBlock
        The rows, part after part; arrays are one part.
    starts : numpy.ndarray
        An int64 ``[windows]``: the first row of each, rising.
    """

    parts: tuple[Any, ...]
    starts: npt.NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        """Windows."""
        return len(self.starts)

    def slice(self, first: int, num_rows: int) -> WindowBlock:
        """Take some windows, without a copy.

        Parameters
        ----------
        first : int
            The first one.
        num_rows : int
            How many.

        Returns
        -------
        WindowBlock
            Of the same rows.
        """
        return WindowBlock(self.parts, self.starts[first : first + num_rows])

    def rows(self, start: int, stop: int) -> list[Any]:
        """Take a run of rows, without a copy.

        Parameters
        ----------
        start : int
            The first row.
        stop : int
            The row after the last one.

        Returns
        -------
        list of pa.Table or ArrayBlock
            None of them empty.
        """
        found, begin = [], 0
        for part in self.parts:
            low, high = max(start, begin), min(stop, begin + part.num_rows)
            if low < high:
                found.append(part.slice(low - begin, high - low))
            begin += part.num_rows
        return found


def _names(argument: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"{argument}={value!r} must list names")
    return names
