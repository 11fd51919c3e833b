"""What may be wrong with a table, found from its profile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from dtk.analytics.columns import ColumnProfile
from dtk.analytics.numbers import show_count, show_number, show_share
from dtk.analytics.table import Correlations

__all__ = ["Finding", "find"]

HIGH_MISSING_SHARE: Final = 0.3
NEAR_UNIQUE_SHARE: Final = 0.9
STRONG_SKEWNESS: Final = 5.0
IMBALANCED_SHARE: Final = 0.9
LEAKAGE_CORRELATION: Final = 0.95
_FEW_ROWS: Final = 20  # among so few, unique values and skew mean nothing


@dataclass(frozen=True)
class Finding:
    """Something to look at before training.

    Parameters
    ----------
    column : str
        Where it is.
    code : str
        ``"all_missing"``, ``"constant"``, ``"missing"``, ``"infinite"``, ``"near_unique"``, ``"skewed"``,
        ``"target_missing"``, ``"imbalanced"`` or ``"leakage"``.
    message : str
        What it is and what it means, in one sentence.
    """

    column: str
    code: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        Returns
        -------
        dict
            ``column``, ``code`` and ``message``.
        """
        return asdict(self)


def find(
    columns: Sequence[ColumnProfile], correlations: Correlations | None, *, target: str | None = None
) -> tuple[Finding, ...]:
    """Look for what may be wrong.

    Parameters
    ----------
    columns : sequence of ColumnProfile
        All columns.
    correlations : Correlations or None
        Among them.
    target : str, optional
        The column to predict.

    Returns
    -------
    tuple of Finding
        Those about the target first, then in the order of the columns.
    """
    found: list[Finding] = []
    for column in columns:
        if column.name == target:
            found = [*_about_target(column), *found]
        found += [Finding(column.name, code, message) for code, message in _about_column(column)]
    leaks = [] if correlations is None or target is None else list(_leaks(correlations, target))
    return tuple(leaks + found)


def _about_column(column: ColumnProfile) -> Iterator[tuple[str, str]]:
    if column.num_rows == 0:
        return
    if column.num_present == 0:
        yield "all_missing", "all values are missing; leave the column out"
        return
    if column.num_distinct == 1 and column.distinct_is_exact and column.kind != "other":
        yield "constant", "all values are the same; the column says nothing"
    if column.missing_share > HIGH_MISSING_SHARE:
        yield "missing", f"{show_share(column.missing_share)} of the values are missing"
    if column.num_infinite:
        yield "infinite", f"{show_count(column.num_infinite)} values are infinite; replace them before training"
    is_many = column.num_present >= _FEW_ROWS
    if column.kind == "category" and is_many:
        distinct = column.num_distinct or 0
        if distinct > NEAR_UNIQUE_SHARE * column.num_present:
            share = show_share(distinct / column.num_present)
            yield (
                "near_unique",
                f"{share} of the values occur once or little more; an identifier teaches a model nothing",
            )
        elif not column.distinct_is_exact:
            yield "near_unique", f"more than {show_count(distinct)} distinct values; most are too rare to learn from"
    if column.skewness is not None and abs(column.skewness) > STRONG_SKEWNESS and is_many:
        yield "skewed", f"strongly skewed (skewness {show_number(column.skewness)}); a logarithm may help"


def _about_target(column: ColumnProfile) -> Iterator[Finding]:
    if column.num_missing:
        message = f"the target is missing in {show_count(column.num_missing)} rows; drop them before training"
        yield Finding(column.name, "target_missing", message)
    is_class = column.kind in ("category", "boolean") or column.num_distinct == 2
    if is_class and column.top and (column.num_distinct or 0) > 1:
        value, count = column.top[0]
        if count > IMBALANCED_SHARE * column.num_present:
            share = show_share(count / column.num_present)
            message = (
                f"the target is {value!r} in {share} of the rows; compare accuracy with that, and weigh the classes"
            )
            yield Finding(column.name, "imbalanced", message)


def _leaks(correlations: Correlations, target: str) -> Iterator[Finding]:
    if target not in correlations.columns:
        return
    with_target = correlations.values[correlations.columns.index(target)].tolist()
    for name, value in zip(correlations.columns, with_target, strict=True):
        if name != target and not math.isnan(value) and abs(value) > LEAKAGE_CORRELATION:
            message = f"correlates with the target {target!r} by {value:.3f}; is it known before the target is?"
            yield Finding(name, "leakage", message)
