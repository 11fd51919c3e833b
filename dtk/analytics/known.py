"""What is known of earlier data: from a saved profile, or from what a fitted preparation saw."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtk.analytics.numbers import Value
from dtk.errors import ArgumentError, NotFoundError

__all__ = ["KnownColumn", "read_known"]


@dataclass(frozen=True)
class KnownColumn:
    """What is known of a column. What isn't known is None or empty.

    Parameters
    ----------
    name : str
        The column.
    kind : str
        As in `ColumnProfile`.
    num_rows : int or None
        Rows that were seen.
    num_missing : int or None
        Of them, without a value.
    num_sampled : int or None
        Values that the grid is from.
    mean, std : float or None
        Of numbers and booleans.
    min, max : float or None
        Of numbers.
    grid : tuple of float
        The quantiles of numbers at 0%, 1%, ... 100%.
    counts : tuple of (value, int)
        How often each category occurs, where all are known.
    categories : tuple or None
        All categories; None where some are not known.
    is_optional : bool
        Whether new data may do without the column, such as a target that is yet to be predicted.
    """

    name: str
    kind: str
    num_rows: int | None = None
    num_missing: int | None = None
    num_sampled: int | None = None
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    grid: tuple[float, ...] = ()
    counts: tuple[tuple[Value, int], ...] = ()
    categories: tuple[Value, ...] | None = None
    is_optional: bool = False

    @property
    def num_present(self) -> int | None:
        """Values that were seen."""
        return None if self.num_rows is None else self.num_rows - (self.num_missing or 0)


def read_known(against: Any) -> tuple[KnownColumn, ...]:
    """Take what is known of earlier data from what knows it.

    Parameters
    ----------
    against : Report, Bundle, TablePreparation, mapping, sequence of KnownColumn, str or path
        A profile or its `to_dict`, a bundle or its preparation, or the path of a profile that was saved as JSON. What
        is known already stays as it is.

    Returns
    -------
    tuple of KnownColumn
        In the order of the columns.

    Raises
    ------
    NotFoundError
        If there is no such file.
    ArgumentError
        If it is none of these, or a profile of arrays.
    """
    if isinstance(against, Sequence) and all(isinstance(column, KnownColumn) for column in against):
        return tuple(against)
    told = repr(against) if isinstance(against, (str, os.PathLike)) else f"<{type(against).__name__}>"
    state = against
    if isinstance(against, (str, os.PathLike)):
        state = _read_json(Path(against))
    elif hasattr(against, "preparation"):
        state = against.preparation.to_dict()
    elif hasattr(against, "to_dict"):
        state = against.to_dict()
    columns = state.get("seen", state.get("columns")) if isinstance(state, Mapping) else None
    if not isinstance(columns, list):
        raise ArgumentError(
            f"against={told} holds no profile of a table; give a profile saved as JSON, a Report, or a bundle"
        )
    try:
        return tuple(_known_column(column) for column in columns)
    except (KeyError, TypeError, ValueError) as error:
        raise ArgumentError(f"against={told} is damaged ({error!r}); save the profile anew") from None


def _read_json(path: Path) -> Any:
    if path.is_dir():
        raise ArgumentError(f"against={str(path)!r} is a folder; give dtk.load({str(path)!r}) if it is a bundle")
    if not path.is_file():
        raise NotFoundError(f"against={str(path)!r} is no file; give a profile saved as JSON")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArgumentError(
            f"against={str(path)!r} is no JSON ({error}); save a profile with report.save('x.json')"
        ) from None


def _known_column(state: Mapping[str, Any]) -> KnownColumn:
    """Read what a profile, or a preparation's fit, says of a column."""
    kind = state["kind"]
    is_number = kind == "number"
    counts = tuple((value, int(count)) for value, count in state.get("counts") or ())
    categories = state.get("categories")
    if categories is None and counts:
        categories = [value for value, _ in counts]
    return KnownColumn(
        name=state["name"],
        kind=kind,
        num_rows=state.get("num_rows"),
        num_missing=state.get("num_missing"),
        num_sampled=state.get("num_sampled"),
        mean=_finite(state.get("mean")),
        std=_finite(state.get("std")),
        min=_number(state.get("min")) if is_number else None,
        max=_number(state.get("max")) if is_number else None,
        grid=tuple(float(value) for value in state.get("grid") or ()),
        counts=counts,
        categories=None if categories is None else tuple(categories),
        is_optional=state.get("is_target", False),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, str) else value


def _finite(value: Any) -> float | None:
    number = _number(value)
    return None if number is None or not math.isfinite(number) else number
