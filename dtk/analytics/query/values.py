"""Measures that need more than one row a group: which values there are and how often, and how skewed they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from dtk.analytics.query.measures import Column, Measure, Parts
from dtk.analytics.query.plan import Stage

__all__ = ["distinct_stage", "sample_of_groups", "skew_sql", "skew_stage", "values_sql", "values_stage"]

_ROUNDING: Final = 4e-16  # of a mean: all values are the same
_Z_99: Final = 2.576


def values_stage(value: Column, measures: Sequence[Measure], rows: str, keys: Sequence[str]) -> Stage:
    """Count each value of each group, and keep what is asked of that.

    Parameters
    ----------
    value : Column
        Of which.
    measures : sequence of Measure
        Of ``distinct``, ``mode`` and ``top``.
    rows : str
        SELECT of the rows that count.
    keys : sequence of str
        Of the groups.

    Returns
    -------
    Stage
        With a column for each measure.
    """
    grouped, found = ", ".join(keys), {}
    first = "struct_pack(a := -n, b := value)"  # the most frequent, of these the least
    for measure in measures:
        if measure.function == "distinct":
            found["num_distinct"] = "count(*)"
        elif measure.function == "mode":
            found["mode"] = f"arg_min(value, {first})"
        else:
            size = int(measure.numbers()[0])
            found[f"top_{size}"] = f"arg_min(struct_pack(value := value, count := n), {first}, {size})"
    chosen = ", ".join(f"{sql} AS {name}" for name, sql in found.items())
    partial = f"SELECT {grouped}, {value.sql} AS value, count(*) AS n FROM ({rows})"
    return Stage(
        f"{value.sql}_values",
        f"{partial} WHERE {value.sql} IS NOT NULL GROUP BY {grouped}, value",
        f"SELECT {grouped}, value, sum(n)::BIGINT AS n FROM parts GROUP BY {grouped}, value",
        f"SELECT {grouped}, {chosen} FROM parts GROUP BY {grouped}",
    )


def values_sql(measure: Measure, value: Column) -> str:
    """Say how a measure follows from `values_stage`.

    Parameters
    ----------
    measure : Measure
        Which.
    value : Column
        Of which.

    Returns
    -------
    str
        SQL over the stage's table.
    """
    table = f"{value.sql}_values"
    if measure.function == "distinct":
        return f"coalesce({table}.num_distinct, 0)"
    return f"{table}.mode" if measure.function == "mode" else f"{table}.top_{int(measure.numbers()[0])}"


def distinct_stage(value: Column, error: float, rows: str, keys: Sequence[str]) -> Stage:
    """Estimate how many distinct values each group has.

    Parameters
    ----------
    value : Column
        Of which.
    error : float
        Standard error, as a share of the true number.
    rows : str
        SELECT of the rows that count.
    keys : sequence of str
        Of the groups.

    Returns
    -------
    Stage
        With the column ``num_distinct``.

    Notes
    -----
    HyperLogLog of Flajolet et al. (2007), with linear counting where registers are left empty. A part is a row for each
    register that is not empty.
    """
    bits = min(18, max(4, math.ceil(2 * math.log2(1.04 / error))))
    size, grouped = 2**bits, ", ".join(keys)
    hashed = f"SELECT {grouped}, hash({value.sql}) AS h FROM ({rows}) WHERE {value.sql} IS NOT NULL"
    rest = f"(h >> {bits})"
    rank = f"CASE WHEN {rest} = 0 THEN {65 - bits} ELSE {64 - bits} - floor(log2({rest}))::INTEGER END"
    alpha = 0.7213 / (1 + 1.079 / size)
    raw = f"({alpha * size * size!r} / ({size} - count(*) + sum(pow(2.0, -rank))))"
    linear = f"({size} * ln({size}.0 / ({size} - count(*))))"
    estimate = f"CASE WHEN {raw} <= {2.5 * size} AND count(*) < {size} THEN {linear} ELSE {raw} END"
    return Stage(
        f"{value.sql}_registers",
        f"SELECT {grouped}, (h & {size - 1})::INTEGER AS register, max({rank})::INTEGER AS rank FROM ({hashed})"
        f" GROUP BY {grouped}, register",
        f"SELECT {grouped}, register, max(rank) AS rank FROM parts GROUP BY {grouped}, register",
        f"SELECT {grouped}, round({estimate})::BIGINT AS num_distinct FROM parts GROUP BY {grouped}",
    )


def sample_of_groups(value: Column, error: float, parts: Parts) -> str:
    """Sample the values of each group: those of the rows with the least hashes.

    Parameters
    ----------
    value : Column
        Of which.
    error : float
        How far the rank of a quantile may be from the true one, as a share of the group, in 99 of 100 cases.
    parts : Parts
        Takes the columns that are needed.

    Returns
    -------
    str
        SQL over ``base`` of the list of values.
    """
    size = math.ceil((_Z_99 * 0.5 / error) ** 2)
    entry = f"struct_pack(h := hash(row), x := {value.float})"
    name = f"{value.sql}_drawn"
    sample = f"arg_min({entry}, hash(row), {size}) FILTER (WHERE {value.sql} IS NOT NULL)"
    merge = f"list_sort(flatten(list({{0}}) FILTER (WHERE {{0}} IS NOT NULL)))[1:{size}]"
    drawn = parts.add(name, sample, merge)
    return f"list_transform({drawn}, lambda entry: entry.x)"


def skew_stage(value: Column, rows: str, keys: Sequence[str]) -> Stage:
    """Sum powers of what differs from the mean of its group, which the first stage has found.

    Parameters
    ----------
    value : Column
        Of which; its spread is in ``base``.
    rows : str
        SELECT of the rows that count.
    keys : sequence of str
        Of the groups.

    Returns
    -------
    Stage
        With the columns ``d1, d2, d3``.
    """
    grouped = ", ".join(keys)
    matched = " AND ".join(f"r.{key} IS NOT DISTINCT FROM base.{key}" for key in keys)
    differing = (
        f"SELECT {', '.join(f'r.{key}' for key in keys)}, {value.float} - base.{value.sql}_mean AS d"
        f" FROM ({rows}) AS r JOIN base ON {matched}"
    )
    powers = ", ".join(f"sum(d ** {power}) AS d{power}" for power in (1, 2, 3))
    merged = ", ".join(f"sum(d{power}) AS d{power}" for power in (1, 2, 3))
    return Stage(
        f"{value.sql}_powers",
        f"SELECT {grouped}, {powers} FROM ({differing}) WHERE d IS NOT NULL GROUP BY {grouped}",
        f"SELECT {grouped}, {merged} FROM parts GROUP BY {grouped}",
    )


def skew_sql(value: Column) -> str:
    """Say how the skew follows from `skew_stage`: unbiased, as pandas has it.

    Parameters
    ----------
    value : Column
        Of which.

    Returns
    -------
    str
        SQL over the stage's table and ``base``; 0 where all values are the same.
    """
    table, n = f"{value.sql}_powers", f"base.{value.sql}_count"
    mean = f"({table}.d1 / {n})"  # what rounding has left in the mean
    second = f"({table}.d2 / {n} - {mean} ** 2)"
    third = f"({table}.d3 / {n} - 3 * {mean} * {table}.d2 / {n} + 2 * {mean} ** 3)"
    skew = f"sqrt({n} * ({n} - 1.0)) / ({n} - 2) * {third} / {second} ** 1.5"
    is_constant = f"{second} <= ({_ROUNDING} * base.{value.sql}_mean) ** 2"
    return f"CASE WHEN {n} < 3 THEN NULL WHEN {is_constant} THEN 0.0 ELSE {skew} END"
