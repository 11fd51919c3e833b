"""Write numbers and dates for people, and for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["iso_date", "json_fields", "known_number", "show_count", "show_number", "show_share", "show_value"]

Value = str | int | float | bool | None


def iso_date(nanoseconds: float) -> str | None:
    """Write nanoseconds since 1970 as ISO 8601, to the second.

    Parameters
    ----------
    nanoseconds : float
        In UTC, or in the zone-less time of the column.

    Returns
    -------
    str or None
        Without the time of day at midnight; None for NaN.

    Examples
    --------
    >>> iso_date(1_356_998_400 * 10**9), iso_date(90 * 10**9)
    ('2013-01-01', '1970-01-01T00:01:30')
    """
    if math.isnan(nanoseconds):
        return None
    return str(np.datetime64(int(nanoseconds) // 10**9, "s")).removesuffix("T00:00:00")


def known_number(number: int | float) -> int | float | None:
    """Return a number, or None where there is none.

    Parameters
    ----------
    number : int or float
        NaN where there is none.

    Returns
    -------
    int, float or None
        The same.
    """
    return None if math.isnan(number) else number


def json_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of something as plain JSON values.

    Parameters
    ----------
    fields : mapping of str to object
        Plain values, and tuples and dicts of them.

    Returns
    -------
    dict
        Lists for tuples, and strings for floats that JSON cannot write, such as ``"inf"``.
    """
    return {name: _json_value(value) for name, value in fields.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return json_fields(value) if isinstance(value, dict) else value


def show_count(count: int) -> str:
    """Write a count with separators.

    Parameters
    ----------
    count : int
        How many.

    Returns
    -------
    str
        Such as ``336,776``.
    """
    return f"{count:,}"


def show_share(share: float) -> str:
    """Write a share in percent; what is there at all never shows as 0%.

    Parameters
    ----------
    share : float
        Between 0 and 1.

    Returns
    -------
    str
        Such as ``2.4%``.

    Examples
    --------
    >>> show_share(0), show_share(0.00001), show_share(0.0244), show_share(1)
    ('0%', '<0.1%', '2.4%', '100%')
    """
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.1%}".replace(".0%", "%")


def show_number(number: float | None) -> str:
    """Write a number with at most five significant digits; below a billion, all digits before the point are written.

    Parameters
    ----------
    number : float or None
        None where there is none.

    Returns
    -------
    str
        Empty for None.

    Examples
    --------
    >>> show_number(336776), show_number(1349.123), show_number(336775.5), show_number(1.5e12), show_number(None)
    ('336,776', '1,349.1', '336,776', '1.5e+12', '')
    """
    if number is None:
        return ""
    if abs(number) < 1e9 and (abs(number) >= 1e5 or float(number).is_integer()):
        return f"{number:,.0f}"
    return f"{number:,.5g}"


def show_value(value: Value) -> str:
    """Write any value.

    Parameters
    ----------
    value : str, int, float, bool or None
        A number, or text that stays as it is.

    Returns
    -------
    str
        Empty for None.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return show_number(value)
