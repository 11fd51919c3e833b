"""Keys that follow from times: parts of a date, and windows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from dtk.analytics.query.engine import text_of
from dtk.errors import ArgumentError
from dtk.sources.columns import close_to

__all__ = ["DATE_PARTS", "TimeWindow", "local_time", "part_sql"]

DATE_PARTS: Final = {
    "year": "year({})",
    "quarter": "quarter({})",
    "month": "month({})",
    "week": "week({})",
    "day": "day({})",
    "day_of_year": "dayofyear({})",
    "day_of_week": "isodow({}) - 1",
    "hour": "hour({})",
    "minute": "minute({})",
    "second": "second({})",
    "date": "({})::DATE",
}
_UNITS: Final = {
    "s": ("seconds", 1), "min": ("seconds", 60), "h": ("seconds", 3600), "d": ("seconds", 86_400),
    "w": ("seconds", 604_800), "mo": ("months", 1), "q": ("months", 3), "y": ("months", 12),
}  # fmt: skip
_DAY_S: Final = 86_400


@dataclass(frozen=True)
class TimeWindow:
    """Windows in time that rows are grouped by, beside the keys.

    Parameters
    ----------
    on : str
        A column of dates or times.
    every : str
        How often a window ends: a number and ``s``, ``min``, ``h``, ``d``, ``w`` (from Monday), ``mo``, ``q`` or ``y``.
    over : str, optional
        How long a window is, a multiple of `every`: windows that are longer overlap (hopping windows, a rolling
        aggregate). By default as long as `every`, so that they follow each other (tumbling); ``"all"`` for all time up
        to the window's end (cumulative).

    Raises
    ------
    ArgumentError
        If a length is not understood, or `over` is no multiple of `every`.

    Notes
    -----
    A window is labelled, in the column `on`, by the start of its last `every`: of a week over days, by its last day.
    There is a row for each window that holds rows of the group. Windows of days and longer start at midnight of the
    column's own time zone.

    Examples
    --------
    >>> TimeWindow("date", every="1d", over="7d")
    TimeWindow(on='date', every='1d', over='7d')
    """

    on: str
    every: str
    over: str | None = None

    def __post_init__(self) -> None:
        unit, length = _length("every", self.every)
        if self.over is None or self.over == "all":
            return
        other_unit, over = _length("over", self.over)
        if other_unit != unit or over % length:
            raise ArgumentError(f"over={self.over!r} must be a multiple of every={self.every!r}, or 'all'")

    @property
    def is_cumulative(self) -> bool:
        """Whether a window holds all that came before."""
        return self.over == "all"

    @property
    def num_steps(self) -> int:
        """How many windows a row is in."""
        if self.over is None or self.is_cumulative:
            return 1
        return _length("over", self.over)[1] // _length("every", self.every)[1]

    def label_sql(self, column: str, kind: pa.DataType) -> str:
        """Say which window a row is in.

        Parameters
        ----------
        column : str
            SQL of the time.
        kind : pa.DataType
            Its type.

        Returns
        -------
        str
            SQL of the start of the first window's last step, and of those of the next ones by a column ``step``.
        """
        unit, length = _length("every", self.every)
        is_local = unit == "months" or length % _DAY_S == 0
        zone = kind.tz if pa.types.is_timestamp(kind) and kind.tz and is_local else None
        time = f"timezone({text_of(zone)}, {column})" if zone else column
        if pa.types.is_date(kind):
            time = f"{time}::TIMESTAMP"
        label = f"time_bucket(to_{unit}({length}), {time})"
        if self.num_steps > 1:
            label = f"({label} + to_{unit}(({length} * step)::{'DOUBLE' if unit == 'seconds' else 'INTEGER'}))"
        return f"timezone({text_of(zone)}, {label})" if zone else label


def _length(name: str, text: str) -> tuple[str, int]:
    match = re.fullmatch(r"\s*(\d+)\s*([a-z]+)\s*", text.lower()) if isinstance(text, str) else None
    if match is None or match[2] not in _UNITS or int(match[1]) == 0:
        raise ArgumentError(f"{name}={text!r} is no length of time; write it as '1d', with one of {', '.join(_UNITS)}")
    unit, size = _UNITS[match[2]]
    return unit, int(match[1]) * size


def local_time(column: str, kind: pa.DataType) -> str:
    """Say what a clock in the column's own zone shows.

    Parameters
    ----------
    column : str
        SQL of the time.
    kind : pa.DataType
        Its type.

    Returns
    -------
    str
        SQL.
    """
    has_zone = pa.types.is_timestamp(kind) and kind.tz
    return f"timezone({text_of(kind.tz)}, {column})" if has_zone else column


def part_sql(column: str, kind: pa.DataType, part: str, *, key: str) -> str:
    """Say what a part of a date is.

    Parameters
    ----------
    column : str
        SQL of the date or time.
    kind : pa.DataType
        Its type.
    part : str
        One of `DATE_PARTS`.
    key : str
        What the user wrote, for an error.

    Returns
    -------
    str
        SQL.

    Raises
    ------
    ArgumentError
        If there is no such part, or it is no date.
    """
    if part not in DATE_PARTS:
        raise ArgumentError(f"by={key!r}: {part!r} is no part of a date; {close_to(part, list(DATE_PARTS))}")
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise ArgumentError(f"by={key!r}: the column holds {kind}, no dates; derive the key before")
    return DATE_PARTS[part].format(local_time(column, kind))
