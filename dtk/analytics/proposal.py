"""A schema proposed from a profile, for a user to edit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from dtk.analytics.columns import ColumnProfile
from dtk.analytics.schema import TableSchema

__all__ = ["propose_schema"]

_MOST_VALUES: Final = 50
_ROWS_PER_VALUE: Final = 2  # fewer, and new values are to be expected
_ONE_DAY: Final = np.timedelta64(1, "D")


def propose_schema(columns: Iterable[ColumnProfile]) -> TableSchema:
    """Propose what a table must be like from what it is.

    Parameters
    ----------
    columns : iterable of ColumnProfile
        Of a table.

    Returns
    -------
    TableSchema
        That this table keeps.
    """
    return TableSchema.model_validate(
        {"extra": False, "columns": {column.name: _propose(column) for column in columns}}
    )


def _propose(column: ColumnProfile) -> dict[str, Any]:
    proposed: dict[str, Any] = {}
    if column.num_rows:
        share = math.ceil(100 * column.missing_share) / 100  # not below the share, for that many hundredths are exact
        proposed["missing"] = share
    if not column.num_present:
        return proposed
    proposed["kind"] = column.kind
    if column.kind == "number":
        bounds = {"min": column.min, "max": column.max}
        proposed |= {name: bound for name, bound in bounds.items() if _is_finite(bound)}
    if column.kind == "date":
        first, last = (np.datetime64(str(end)).astype("datetime64[D]") for end in (column.min, column.max))
        proposed |= {"min": str(first), "max": str(last + _ONE_DAY)}  # ends are told to the second, rounded down
    is_few = len(column.counts) <= min(_MOST_VALUES, column.num_present // _ROWS_PER_VALUE)
    if column.kind == "category" and column.counts and is_few:
        values = [value for value, _ in column.counts]
        proposed["values"] = sorted(values, key=lambda value: (str(type(value)), value))
    return proposed


def _is_finite(bound: object) -> bool:
    return isinstance(bound, (int, float)) and math.isfinite(bound)
