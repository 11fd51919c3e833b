"""What the fit of a table watches of each column, what is kept of it, and what it says of the target."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from dtk.errors import DataError
from dtk.preparation.target import ClassTarget, NumberTarget, Target, refuse_missing
from dtk.preparation.target_transform import TransformFit
from dtk.preparation.transforms.base import Need, Transform
from dtk.preparation.transforms.chains import Chain
from dtk.preparation.transforms.dates import DateSpread
from dtk.preparation.transforms.passes import fit_chains
from dtk.statistics import Categories, Moments

__all__ = ["WATCHED", "fit_target", "seen_of", "target_chain", "target_of"]

_NUMBERS: Final = Need(Moments)
_COUNTS: Final = Need(Categories)
WATCHED: Final[Mapping[str, Need]] = {
    "number": _NUMBERS,
    "boolean": _COUNTS,
    "date": Need(DateSpread, (("zone", None),)),
    "category": _COUNTS,
}
"""What is watched of a column, by its kind."""

_MAX_CLASSES: Final = 10_000
_MAX_COUNTS: Final = 1000


def seen_of(name: str, kind: str, statistic: Any, max_categories: int) -> dict[str, Any]:
    """Say what was seen of a column: what new data can be compared with.

    Parameters
    ----------
    name : str
        Of the column.
    kind : str
        Of its values.
    statistic : object or None
        What was watched of it; None where nothing was.
    max_categories : int
        Up to how many categories are kept.

    Returns
    -------
    dict
        Plain JSON values by the names of `dtk.analytics.ColumnProfile`.
    """
    seen: dict[str, Any] = {"name": name, "kind": kind}
    if statistic is None:
        return seen
    values = statistic.finite if isinstance(statistic, Moments) else statistic
    seen |= {"num_rows": values.count + values.missing, "num_missing": values.missing}
    if isinstance(values, Moments):
        figures = {key: float(getattr(values, key)) for key in ("mean", "std", "min", "max")}
        return seen | {key: value for key, value in figures.items() if math.isfinite(value)}
    return seen | _seen_counts(kind, values, max_categories) if isinstance(values, Categories) else seen


def _seen_counts(kind: str, categories: Categories, max_categories: int) -> dict[str, Any]:
    """Keep categories where they are few enough to be all known."""
    top = categories.top()
    if kind == "boolean":
        num_true = sum(count for value, count in top if value)
        return {"counts": [[True, num_true], [False, categories.count - num_true]]}
    if not categories.is_exact or categories.num_distinct > max_categories:
        return {}
    if any(isinstance(value, float) and not math.isfinite(value) for value, _ in top):
        return {}
    if len(top) > _MAX_COUNTS:
        return {"categories": [value for value, _ in top]}
    return {"counts": [[value, count] for value, count in top]}


def target_chain(schema: pa.Schema, name: str, task: str, steps: Sequence[Transform] = ()) -> Chain:
    """Return what a scan collects of a target.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the data.
    name : str
        The column.
    task : str
        ``"classification"`` or ``"regression"``.
    steps : sequence of Transform
        What numbers go through before they are standardised; not fitted.

    Returns
    -------
    Chain
        Without steps.
    """
    watched = [_COUNTS if task == "classification" else _NUMBERS]
    if steps:
        told = json.dumps([step.to_dict() for step in steps])
        watched.append(Need(TransformFit, (("name", name), ("steps", told))))
    return Chain((name,), (schema.field(name).type,), [], watched=tuple(watched))


def target_of(chain: Chain) -> tuple[Target, dict[str, Any]]:
    """Return the target that a scan has seen.

    Parameters
    ----------
    chain : Chain
        What `target_chain` returned, after the scan.

    Returns
    -------
    target : ClassTarget or NumberTarget
        Fitted.
    seen : dict
        As `seen_of` says it.

    Raises
    ------
    DataError
        If values are missing, or there are fewer than two classes.
    """
    (name,) = chain.names
    statistic, *transformed = (found for (found,) in chain.seen.values())
    if isinstance(statistic, Categories):
        target: Target = _classes(name, statistic)
        seen = seen_of(name, "category", statistic, _MAX_CLASSES)
    else:
        target = _number(name, statistic, *transformed)
        seen = seen_of(name, "number", statistic, 0)
    return target, seen | {"is_target": True}


def fit_target(data: Any, schema: pa.Schema, name: str, task: str) -> Target:
    """Learn a target alone, in one pass over its column.

    Parameters
    ----------
    data : object
        What `dtk.statistics.scan` reads.
    schema : pyarrow.Schema
        Of the data.
    name : str
        The column.
    task : str
        ``"classification"`` or ``"regression"``.

    Returns
    -------
    ClassTarget or NumberTarget
        Fitted.

    Raises
    ------
    DataError
        If there are no rows, values are missing, or there is one class.
    """
    chain = target_chain(schema, name, task)
    fit_chains([chain], data, label="target")
    return target_of(chain)[0]


def _classes(name: str, categories: Categories) -> ClassTarget:
    refuse_missing(name, categories.missing)
    num_classes = categories.num_distinct
    if num_classes > _MAX_CLASSES or not categories.is_exact:
        raise DataError(
            f"target={name!r} has {num_classes} or more classes, and dtk takes up to {_MAX_CLASSES}; "
            "train a regression on a number, or choose another target"
        )
    counts = categories.counts
    values = sorted(counts)
    if any(isinstance(value, float) and not value.is_integer() for value in values):
        raise DataError(f"target={name!r} holds fractions, which are no classes; train a regression")
    if len(values) == 1:
        raise DataError(
            f"target={name!r} has one class ({values[0]!r}), and a classifier needs two; "
            "choose another target, or more data"
        )
    return ClassTarget(name, tuple(values), tuple(counts[value] for value in values))


def _number(name: str, moments: Moments, transformed: TransformFit | None = None) -> NumberTarget:
    refuse_missing(name, moments.missing)
    if moments.num_infinite:
        raise DataError(f"target={name!r} holds {moments.num_infinite} infinite values; filter them out first")
    if transformed is None:
        return NumberTarget(name, *_mean_and_scale(moments))
    transform, moments = transformed.finish(float(moments.min), float(moments.max))
    return NumberTarget(name, *_mean_and_scale(moments), transform)


def _mean_and_scale(moments: Moments) -> tuple[float, float]:
    """Return mean and standard deviation; the latter 1 where nothing varies, or the spread has no float64."""
    if moments.min == moments.max:
        return float(moments.min), 1.0  # a mean of equal values may be off by its rounding
    scale = float(moments.std)
    return float(moments.mean), scale if scale > 0 and math.isfinite(scale) else 1.0
