"""How far new data is from what is known of earlier data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dtk.analytics.checks import Check, CheckPlan, CheckState, Tally
from dtk.analytics.columns import ColumnProfile
from dtk.analytics.known import KnownColumn
from dtk.analytics.numbers import json_fields, show_number, show_share
from dtk.analytics.rules import HasKind, IsOneOf, IsWithin
from dtk.analytics.schema import DriftLimits
from dtk.analytics.violations import Violation

__all__ = ["Drift", "measure_drift", "plan_drift", "psi"]

_NUM_BINS: Final = 10
_MAX_BINS: Final = 50  # of categories; rarer ones are one bin
_Z: Final = 2.576  # 99%, two-sided
_Z_ABOVE: Final = 2.326  # 99%, one-sided
_SAMPLE_FACTOR: Final = math.log(200) / 2
_TEXT_KINDS: Final = ("category", "text")


@dataclass(frozen=True)
class Drift:
    """One measure of how far a column is from what is known of it.

    Parameters
    ----------
    column : str
        The column.
    measure : str
        ``"psi"``, ``"ks"``, ``"mean"``, ``"std"``, ``"missing"``, ``"unseen"`` or ``"out_of_range"``, as in
        `DriftLimits`.
    value : float
        How far; ``inf`` where a constant column varies.
    limit : float
        How far it may be.
    chance : float
        How far it would be by chance alone, with 99% confidence, if nothing had changed. More than the limit for few
        rows.
    error : float
        How far `value` can be off, beside chance.
    """

    column: str
    measure: str
    value: float
    limit: float
    chance: float = 0.0
    error: float = 0.0

    @property
    def is_beyond(self) -> bool:
        """Whether it is further than it may be, and than chance explains."""
        return self.value > self.limit and self.value > self.chance

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        Returns
        -------
        dict
            All fields, and ``is_beyond``. Numbers that JSON cannot write are strings.
        """
        return json_fields(asdict(self) | {"is_beyond": self.is_beyond})


def plan_drift(plan: CheckPlan, known: Sequence[KnownColumn], limits: DriftLimits, found: pa.Schema) -> CheckPlan:
    """Add what a scan has to look at row by row: unseen categories, numbers out of range, and other kinds.

    Parameters
    ----------
    plan : CheckPlan
        What is looked at anyway.
    known : sequence of KnownColumn
        Of earlier data.
    limits : DriftLimits
        How far the data may be from it.
    found : pyarrow.Schema
        Of the new data.

    Returns
    -------
    CheckPlan
        With more checks.
    """
    checks = list(plan.checks)
    for column in known:
        if column.name not in found.names or column.num_present == 0:  # without values it was of any kind
            continue
        kind = HasKind(_accepted(column))
        checks.append(Check(column.name, kind, origin="drift"))
        if column.kind == "number" and column.min is not None and column.max is not None:
            wanted = f"be between {show_number(column.min)} and {show_number(column.max)}, as known"
            rule = IsWithin(column.min, column.max, wanted, "out_of_range")
            checks.append(Check(column.name, rule, limits.out_of_range, "drift", kind))
        if column.categories is not None and column.kind in (*_TEXT_KINDS, "boolean"):
            unseen = IsOneOf(column.categories, "unseen")
            checks.append(Check(column.name, unseen, limits.unseen, "drift", kind))
    absent = [column.name for column in known if column.name not in found.names and not column.is_optional]
    return replace(plan, checks=tuple(checks), absent=tuple(dict.fromkeys([*plan.absent, *absent])))


def _accepted(column: KnownColumn) -> tuple[str, ...]:
    """Return the kinds that a column may be of; a preparation may have taken numbers for categories."""
    if column.kind not in _TEXT_KINDS:
        return (column.kind,)
    of_values = {bool: "boolean", int: "number", float: "number"}
    return tuple(
        {"category": None} | {of_values.get(type(value), "category"): None for value in column.categories or ()}
    )


def measure_drift(
    known: Sequence[KnownColumn],
    columns: Sequence[ColumnProfile],
    sample: Mapping[str, np.ndarray],
    checks: CheckState,
    limits: DriftLimits,
) -> tuple[tuple[Drift, ...], tuple[Violation, ...]]:
    """Compare new data with what is known.

    Parameters
    ----------
    known : sequence of KnownColumn
        Of earlier data.
    columns : sequence of ColumnProfile
        Of new data.
    sample : mapping of str to numpy.ndarray
        float64 [sampled rows] by column, NaN where missing.
    checks : CheckState
        What the scan found of the checks of `plan_drift`.
    limits : DriftLimits
        How far the data may be from it.

    Returns
    -------
    drift : tuple of Drift
        Every measure that what is known allows.
    violations : tuple of Violation
        For those that are beyond their limits, and for columns of another kind.
    """
    by_name = {column.name: column for column in columns}
    found: list[Drift] = []
    violations: list[Violation] = []
    tallies = [
        (check, tally)
        for check, tally in zip(checks.plan.checks, checks.tallies, strict=True)
        if check.origin == "drift"
    ]
    for one in known:
        column = by_name.get(one.name)
        if column is None or not column.num_rows:
            continue
        own = {check.rule.name: (check, tally) for check, tally in tallies if check.column == one.name}
        if "kind" in own and own["kind"][1].num_broken:
            check, broken = own["kind"]
            violations.append(_violation(one.name, "kind", f"{check.rule.wanted}, as known", column, broken))
            continue
        values = sample.get(one.name, np.empty(0))
        for drift in _measures(one, column, values[~np.isnan(values)], own, limits):
            found.append(drift)
            if drift.is_beyond:
                tally = own[drift.measure][1] if drift.measure in own else None
                violations.append(_violation(one.name, drift.measure, _wanted(drift), column, tally))
    return tuple(found), tuple(violations)


def _violation(name: str, rule: str, wanted: str, column: ColumnProfile, tally: Tally | None) -> Violation:
    if tally is None:
        return Violation((name,), rule, wanted, column.num_rows, 1.0, origin="drift")
    share = tally.num_broken / column.num_rows
    return Violation((name,), rule, wanted, tally.num_broken, share, tally.value, tally.row, origin="drift")


def _wanted(drift: Drift) -> str:
    show = show_share if drift.measure in ("missing", "unseen", "out_of_range") else show_number
    told = {
        "psi": "be distributed as known",
        "ks": "be distributed as known",
        "mean": "keep its mean",
        "std": "keep its standard deviation",
        "missing": "be missing no more often than known",
        "unseen": "be a known category",
        "out_of_range": "be in the known range",
    }
    return f"{told[drift.measure]}: {drift.measure} is {show(drift.value)}, and may be {show(drift.limit)}"


def _measures(
    known: KnownColumn,
    column: ColumnProfile,
    values: np.ndarray,
    own: Mapping[str, tuple[Check, Tally]],
    limits: DriftLimits,
) -> Iterator[Drift]:
    n, m = column.num_present, known.num_present
    if known.num_rows and known.num_missing is not None:
        growth = column.missing_share - known.num_missing / known.num_rows
        pooled = (column.num_missing + known.num_missing) / (column.num_rows + known.num_rows)
        chance = _Z * math.sqrt(pooled * (1 - pooled) * (1 / column.num_rows + 1 / known.num_rows))
        yield Drift(known.name, "missing", max(0.0, growth), limits.missing, chance)
    if n == 0:
        return
    if known.kind == "number":
        yield from _of_moments(known, column, limits)
        if known.grid and len(values):
            yield from _of_distribution(known, values, limits)
    if "out_of_range" in own:
        beyond = (
            min(1.0, 6.64 / m) if m else 0.0
        )  # what m values leave outside, with 99% confidence: (1 + x) e**-x = 0.01
        chance = beyond + _Z_ABOVE * math.sqrt(beyond * (1 - beyond) / n)
        yield Drift(known.name, "out_of_range", own["out_of_range"][1].num_broken / n, limits.out_of_range, chance)
    if "unseen" in own:
        # Good and Turing: as many values are yet unseen as occurred once
        unseen = sum(count == 1 for _, count in known.counts) / m if m else 0.0
        chance = unseen + _Z_ABOVE * math.sqrt(unseen * (1 - unseen) / n)
        yield Drift(known.name, "unseen", own["unseen"][1].num_broken / n, limits.unseen, chance)
    if known.counts and column.counts and m:
        shares = dict(column.counts)
        kept = known.counts[:_MAX_BINS]
        before = [count for _, count in kept] + [m - sum(count for _, count in kept)]
        after = [shares.get(value, 0) for value, _ in kept]
        after.append(n - sum(after))
        yield _psi_of(known.name, np.array(before, float), np.array(after, float), limits)


def _of_moments(known: KnownColumn, column: ColumnProfile, limits: DriftLimits) -> Iterator[Drift]:
    """Compare means and deviations; those of infinite values are none."""
    if known.mean is None or known.std is None or column.mean is None or column.std is None:
        return
    if not (math.isfinite(column.mean) and math.isfinite(column.std)):
        return
    n, m = column.num_present, known.num_present or 0
    spread = 1 / n + (1 / m if m else 0.0)
    moved = abs(column.mean - known.mean)
    rounding = 1e-12 * max(abs(column.mean), abs(known.mean))
    if known.std > rounding:
        widest = max(known.std, column.std) / known.std
        yield Drift(known.name, "mean", moved / known.std, limits.mean, _Z * widest * math.sqrt(spread))
        ratio = column.std / known.std
        factor = math.inf if ratio == 0 else max(ratio, 1 / ratio)
        if n > 1:
            yield Drift(known.name, "std", factor, limits.std, math.exp(_Z * math.sqrt(spread / 2)))
    else:
        yield Drift(known.name, "mean", math.inf if moved > rounding else 0.0, limits.mean)
        yield Drift(known.name, "std", math.inf if column.std > rounding else 1.0, limits.std)


def _of_distribution(known: KnownColumn, values: np.ndarray, limits: DriftLimits) -> Iterator[Drift]:
    """Compare a sample with the known quantiles."""
    grid, num_steps = np.array(known.grid), len(known.grid) - 1
    points = np.unique(grid)
    ordered = np.sort(values)
    upto = np.searchsorted(ordered, points, side="right") / len(ordered)
    below = np.searchsorted(ordered, points, side="left") / len(ordered)
    # quantiles at every step tell the known shares to a step: at least so many up to a point, at most so many below
    steps_upto, steps_below = (
        np.searchsorted(grid, points, side="right") - 1,
        np.searchsorted(grid, points, side="left"),
    )
    apart = np.maximum.reduce(
        [
            steps_upto / num_steps - upto,
            upto - np.minimum(steps_upto + 1, num_steps) / num_steps,
            below - steps_below / num_steps,
            np.maximum(steps_below - 1, 0) / num_steps - below,
        ]
    )
    sampled = known.num_sampled or known.num_present or 0
    chance = math.sqrt(_SAMPLE_FACTOR * (1 / len(ordered) + (1 / sampled if sampled else 0.0)))
    yield Drift(known.name, "ks", max(0.0, float(apart.max())), limits.ks, chance, error=2 / num_steps)
    inner = np.unique(grid[:: max(1, num_steps // _NUM_BINS)])
    ends = np.searchsorted(points, inner)
    before, after = (np.diff(shares[ends], prepend=0.0, append=1.0) for shares in (steps_upto / num_steps, upto))
    if sampled:
        yield _psi_of(known.name, before * sampled, after * len(ordered), limits)


def _psi_of(name: str, before: np.ndarray, after: np.ndarray, limits: DriftLimits) -> Drift:
    there = (before > 0) | (after > 0)
    before, after = before[there], after[there]
    n, m = float(after.sum()), float(before.sum())
    # Yurdakul and Naranjo, "Statistical properties of the population stability index" (2020)
    chance = (1 / n + 1 / m) * _chi_square_99(len(before) - 1)
    return Drift(name, "psi", psi(before, after), limits.psi, chance)


def psi(before: np.ndarray, after: np.ndarray) -> float:
    """Return the population stability index: the sum of ``(a - b) log(a / b)`` over the shares in bins.

    Parameters
    ----------
    before, after : numpy.ndarray
        float64 [bins]: counts. Half a count is added to each, so that none is empty.

    Returns
    -------
    float
        0 for equal shares; by custom, 0.1 is a small change and 0.2 one to look at.

    Examples
    --------
    >>> round(psi(np.array([500.0, 500.0]), np.array([400.0, 600.0])), 3)
    0.04
    """
    shares_before, shares_after = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (before, after))
    return float(np.sum((shares_after - shares_before) * np.log(shares_after / shares_before)))


def _chi_square_99(freedom: int) -> float:
    """Return the 99% quantile of chi-square, by Wilson and Hilferty's approximation (1931)."""
    if freedom < 1:
        return 0.0
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + _Z_ABOVE * math.sqrt(part)) ** 3)
