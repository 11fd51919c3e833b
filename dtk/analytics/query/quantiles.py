"""Exact quantiles by group in bounded memory: each pass narrows down where the values of some ranks lie.

The first pass samples the rows of each group, which says between which two values a rank almost surely lies. The next
counts the values of each cell that such edges cut, and collects those between them; where these are too many, it
samples them again. What it finds is exact whatever the sample: a rank that lies elsewhere is looked for there in the
next pass.
The edges of a group are columns of a table ``search``, one row a group.

Selection by a sample: Floyd and Rivest, "Expected time bounds for selection" (1975).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from dtk.analytics.query.engine import text_of
from dtk.analytics.query.measures import Column, Parts
from dtk.analytics.query.plan import Stage

__all__ = ["QuantileSearch"]

SAMPLED_ROWS: Final = 4_000_000
"""Values that a pass holds in the end, about, of all groups together; fewer rows than that are read in one pass."""

_DEVIATIONS: Final = 4.0
_SPARE_PASSES: Final = 1


@dataclass(frozen=True)
class QuantileSearch:
    """All quantiles of one value.

    Parameters
    ----------
    value : Column
        Of which.
    shares : tuple of float
        From 0 to 1.
    keys : tuple of str
        ``k0``, ``k1`` and so on.
    num_rows : float
        Of the data, about.
    """

    value: Column
    shares: tuple[float, ...]
    keys: tuple[str, ...]
    num_rows: float

    @property
    def is_sampled(self) -> bool:
        """Whether the first pass does not hold all values."""
        return self.num_rows > SAMPLED_ROWS

    @property
    def num_passes(self) -> int:
        """How often the rows are read after the first pass, at most: most of them end early."""
        if not self.is_sampled:
            return 0
        return _SPARE_PASSES + math.ceil(math.log10(self.num_rows / SAMPLED_ROWS))

    def answer(self, number: int) -> str:
        """Say how a quantile follows from the last pass.

        Parameters
        ----------
        number : int
            Of the share.

        Returns
        -------
        str
            SQL over that pass's table.
        """
        table = self._table(self.num_passes)
        changed = (
            f"error('column ' || {text_of(self.value.name)} || ' is not the same in each pass; write the data first')"
        )
        return f"CASE WHEN NOT {table}.is_done THEN {changed}::DOUBLE ELSE {table}.q{number} END"

    def add(self, parts: Parts) -> None:
        """Add the sample to the first stage.

        Parameters
        ----------
        parts : Parts
            Takes its columns.
        """
        sampled = f" AND random() <= {SAMPLED_ROWS / self.num_rows!r}" if self.is_sampled else ""
        where = f" FILTER (WHERE {self.value.sql} IS NOT NULL{sampled})"
        parts.count(self.value)
        parts.add(self._sample, f"list({self.value.float}){where}", "flatten(list({0}) FILTER (WHERE {0} IS NOT NULL))")

    def stages(self, rows: str) -> list[Stage]:
        """Return the passes after the first.

        Parameters
        ----------
        rows : str
            SELECT of the rows that count, over ``data``.

        Returns
        -------
        list of Stage
            The first one reads nothing: it looks at the sample.
        """
        keys = ", ".join(self.keys)
        first = (
            f"SELECT {keys}, row_number() OVER () AS id, 0 AS cell, {self.value.sql}_count AS n,"
            f" list_sort({self._sample}) AS sorted,"
            f" sorted[1] AS low, sorted[-1] AS high, 0::DOUBLE AS before, n AS total FROM base WHERE n > 0"
        )
        found = [Stage(self._table(0), None, settle=self._settle(first, is_of_sample=self.is_sampled))]
        for number in range(1, self.num_passes + 1):
            before = self._table(number - 1)
            cells = (
                f"SELECT parts.* EXCLUDE (found), {', '.join(f's.{key}' for key in self.keys)},"
                f" list_sort(found) AS sorted,"
                f" sum(n) OVER (of_group ORDER BY cell) - n AS before, sum(n) OVER of_group AS total"
                f" FROM parts JOIN {before} AS s USING (id) WINDOW of_group AS (PARTITION BY id)"
            )
            done = f"SELECT * FROM {before} WHERE is_done"
            settle = f"{done} UNION ALL BY NAME ({self._settle(cells, takes_all=number >= self.num_passes - 1)})"
            needs = f"SELECT 1 FROM {before} WHERE NOT is_done"
            merge = (
                "SELECT id, cell, sum(n)::BIGINT AS n, min(low) AS low, max(high) AS high,"
                " flatten(list(found) FILTER (WHERE found IS NOT NULL)) AS found FROM parts GROUP BY id, cell"
            )
            found.append(Stage(self._table(number), self._partial(rows, before), merge, settle, needs))
        return found

    @property
    def _sample(self) -> str:
        return f"{self.value.sql}_sample"

    def _table(self, number: int) -> str:
        return f"{self.value.sql}_search_{number}"

    def _partial(self, rows: str, search: str) -> str:
        """Count the values of each cell of each group, and collect those that are looked into."""
        edges = [f"{end}_{number}" for number in range(len(self.shares)) for end in ("low", "high")]
        cell = " + ".join(f"(x > {edge})::INTEGER + (x >= {edge})::INTEGER" for edge in edges)
        inside = " OR ".join(f"(x > low_{number} AND x < high_{number})" for number in range(len(self.shares)))
        matched = " AND ".join(f"r.{key} IS NOT DISTINCT FROM s.{key}" for key in self.keys)
        cells = (
            f"SELECT id, {self.value.float} AS x, {cell} AS cell,"
            f" CASE WHEN ({inside}) AND random() <= taken THEN x END AS inner_x"
            f" FROM ({rows}) AS r JOIN (SELECT * FROM {search} WHERE NOT is_done) AS s ON {matched}"
            f" WHERE {self.value.sql} IS NOT NULL"
        )
        return (
            f"SELECT id, cell, count(*) AS n, min(x) AS low, max(x) AS high,"
            f" list(inner_x) FILTER (WHERE inner_x IS NOT NULL) AS found FROM ({cells}) GROUP BY id, cell"
        )

    def _settle(self, cells: str, *, is_of_sample: bool = False, takes_all: bool = False) -> str:
        """Answer what is known, and cut narrower cells for the rest.

        Of a sample from all rows the ends are not known, nor how many values are below: all is told by its shares.
        """
        keys = ", ".join(self.keys)
        positions = ", ".join(
            f"({2 * number + side}, {share!r}::DOUBLE, {side})"
            for number, share in enumerate(self.shares)
            for side in (0, 1)
        )
        rank = "least(total - 1, floor(share * (total - 1)) + side)"
        low, high = ("'-infinity'::DOUBLE", "'infinity'::DOUBLE") if is_of_sample else ("low", "high")
        known = "CASE WHEN low = high THEN low WHEN m = n THEN sorted[(place + 1)::BIGINT] END"
        if is_of_sample:
            known = "CASE WHEN m = n THEN sorted[(place + 1)::BIGINT] END"
        spread = f"{_DEVIATIONS} * sqrt(m * part * (1 - part)) + 2"
        found = (
            f"SELECT {keys}, id, target, n, low, high, sorted, total, coalesce(len(sorted), 0) AS m,"
            f" {rank} - before AS place, (place + 0.5) / n AS part,"
            f" floor(part * m - ({spread}))::BIGINT AS i, ceil(part * m + ({spread}))::BIGINT AS j, {known} AS answer"
            f" FROM ({cells}) CROSS JOIN (VALUES {positions}) AS targets(target, share, side)"
            f" WHERE {rank} >= before AND {rank} < before + n"
        )
        edges = (
            f"SELECT *, coalesce(answer, CASE WHEN i >= 1 AND m > 0 THEN sorted[i] ELSE {low} END) AS low_edge,"
            f" coalesce(answer, CASE WHEN j <= m AND m > 0 THEN sorted[j] ELSE {high} END) AS high_edge,"
            f" CASE WHEN answer IS NULL THEN n * least(1, (j - i + 1) / greatest(m, 1)) ELSE 0 END AS expected"
            f" FROM ({found})"
        )
        columns = [
            f"{function}({column}) FILTER (WHERE target IN ({2 * number}, {2 * number + 1})) AS {name}_{number}"
            for number in range(len(self.shares))
            for function, column, name in (
                ("min", "low_edge", "low"), ("max", "high_edge", "high"),
                ("min", "answer", "below"), ("max", "answer", "above"),
            )
        ]  # fmt: skip
        groups = (
            f"SELECT {keys}, id, max(total) AS total, {', '.join(columns)}, count(*) = count(answer) AS is_done,"
            f" sum(expected) AS expected FROM ({edges}) GROUP BY {keys}, id"
        )
        return (
            f"SELECT * EXCLUDE (expected), {', '.join(map(self._quantile, range(len(self.shares))))},"
            f" CASE WHEN {takes_all} OR sum(expected) OVER () <= {SAMPLED_ROWS} THEN 2.0::DOUBLE"
            f" ELSE {SAMPLED_ROWS} / sum(expected) OVER () END AS taken"
            f" FROM ({groups})"
        )

    def _quantile(self, number: int) -> str:
        """Interpolate between the values of two ranks, as NumPy does."""
        low, high = f"below_{number}", f"above_{number}"
        position = f"{self.shares[number]!r}::DOUBLE * (total - 1)"
        part = f"({position} - floor({position}))"
        return (
            f"CASE WHEN {low} = {high} THEN {low} WHEN {part} >= 0.5 THEN {high} - ({high} - {low}) * (1 - {part})"
            f" ELSE {low} + ({high} - {low}) * {part} END AS q{number}"
        )
