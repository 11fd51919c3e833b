"""Where the examples of violations lie, and the values of those that are known by their row alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from dtk.analytics.numbers import Value
from dtk.analytics.values import plain_value
from dtk.analytics.violations import Violation
from dtk.sources import Source
from dtk.sources.row_numbers import ROW_BITS, first_rows, is_numbered_through

__all__ = ["located"]


def located(violations: Iterable[Violation], data: Any) -> tuple[Violation, ...]:
    """Say in which part a row is where rows can't be numbered through, and look up the values of repeated keys.

    Parameters
    ----------
    violations : iterable of Violation
        With rows as the scan numbered them.
    data : Source or dask.dataframe.DataFrame
        What was scanned. Of a source, one chunk of its columns is read again for each repeated key.

    Returns
    -------
    tuple of Violation
        In their order.
    """
    return tuple(_located(violation, data) for violation in violations)


def _located(violation: Violation, data: Any) -> Violation:
    row, part = violation.row, None
    if row is None:
        return violation
    value = violation.value
    if violation.rule == "unique" and isinstance(data, Source):
        value = _key_at(data, violation.columns, row)
    if not isinstance(data, Source) or not is_numbered_through(data):
        part, row = row >> ROW_BITS, row & ((1 << ROW_BITS) - 1)
    return replace(violation, value=value, row=row, part=part)


def _key_at(source: Source, columns: tuple[str, ...], row: int) -> Value:
    """Read a key; one of several columns as text."""
    first = first_rows(source)
    chunk = int(np.searchsorted(first, row, side="right")) - 1
    at = row - int(first[chunk])
    table = source.read(chunk, list(columns)).slice(at, 1)
    values = [plain_value(table[name]) for name in columns]
    return values[0] if len(values) == 1 else ", ".join(map(str, values))
