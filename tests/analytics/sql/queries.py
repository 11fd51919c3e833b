"""Random tables, and seeded random queries over them, each with the way that it must run."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

WORDS = ["", "a", "A", "ä ö", "it's", 'say "so"', "%", "日本", "b_c", "null", "\\", "a;b"]
DAY = datetime.date(2020, 1, 1)


def random_tables(seed: int, num_rows: int = 700) -> dict[str, pa.Table]:
    """Make a table of facts and two small ones: with nulls, NaN, decimals, dates, odd names."""
    rng = np.random.default_rng([seed, 1])
    facts = {
        "k": _with_nulls(rng, rng.integers(0, 12, num_rows).tolist()),
        "n": _with_nulls(rng, rng.integers(-(2**40), 2**40, num_rows).tolist()),
        "x": _with_nulls(rng, [float(v) if rng.random() > 0.05 else float("nan") for v in rng.normal(size=num_rows)]),
        "m": _with_nulls(rng, [Decimal(int(v)).scaleb(-2) for v in rng.integers(-9999, 99999, num_rows)]),
        "s": _with_nulls(rng, [WORDS[i] for i in rng.integers(0, len(WORDS), num_rows)]),
        "d": _with_nulls(rng, [DAY + datetime.timedelta(days=int(i)) for i in rng.integers(0, 500, num_rows)]),
        "b": _with_nulls(rng, [bool(v) for v in rng.integers(0, 2, num_rows)]),
        'odd "Name"': _with_nulls(rng, rng.integers(0, 5, num_rows).tolist()),
        "select": [int(v) for v in rng.integers(0, 4, num_rows)],
    }
    kinds = {"m": pa.decimal128(12, 2), "x": pa.float64(), 'odd "Name"': pa.int32()}
    labels = {
        "k": [*range(0, 9), None, 3],
        "label": [*WORDS[:10], "twice"],
        "weight": [float(i) / 2 for i in range(11)],
    }
    days = {"d": [DAY + datetime.timedelta(days=i) for i in range(0, 500, 3)]}
    days["is_holiday"] = [bool(v) for v in rng.integers(0, 2, len(days["d"]))]
    return {
        "facts": pa.table({name: pa.array(values, kinds.get(name)) for name, values in facts.items()}),
        "Labels": pa.table(labels),
        'the "days"': pa.table(days),
    }


def _with_nulls(rng: np.random.Generator, values: list[Any]) -> list[Any]:
    return [None if rng.random() < 0.08 else value for value in values]


class QueryMaker:
    """Writes a query; what it knows of it: whether it must run in parts, and whether its order is total."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 2])
        self.in_parts = True
        self.is_ordered = False
        self.joined = self.counts_distinct = False

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def some(self, choices: list[str], most: int) -> list[str]:
        count = int(self.rng.integers(1, most + 1))
        return [choices[i] for i in self.rng.choice(len(choices), size=min(count, len(choices)), replace=False)]

    def query(self) -> str:
        makers = [
            self.grouped,
            self.grouped,
            self.grouped,
            self.total,
            self.rows,
            self.first,
            self.distinct,
            self.nested,
        ]
        return self.pick(*makers, self.whole)()

    # pieces

    def scalar(self) -> str:
        choices = [
            "f.k", "f.n", "f.x", "f.m", "f.s", "f.d", "f.b", 'f."odd ""Name"""', 'f."select"', "f.K + 1", "f.x * 2 - 1",
            "upper(f.s)", "f.s || '!'", "year(f.d)", "date_trunc('month', f.d)", "f.m * 1.5", "coalesce(f.k, -1)",
            "CASE WHEN f.x > 0 THEN 'up' WHEN f.b THEN 'down' END", "length(f.s)", "f.n % 7", "f.k // 2", "f.k / 2",
            "f.d + INTERVAL 1 MONTH", "CAST(f.x AS INTEGER)" if False else "f.k::VARCHAR", "f.s IS NULL", "NOT f.b",
        ]  # fmt: skip
        if self.joined:
            choices += ["l.label", "l.weight", "l.weight * f.x"]
        return str(self.pick(*choices))

    def key(self) -> str:
        choices = ["f.k", "f.s", "f.b", 'f."odd ""Name"""', '"select"', "year(f.d)", "f.k % 3", "f.x > 0", "upper(f.s)"]
        if self.joined:
            choices += ["l.label", "l.weight > 2"]
        return str(self.pick(*choices))

    def condition(self) -> str:
        choices = [
            "f.k > 3", "f.k IN (1, 2, NULL)", "f.k NOT IN (1, 2)", "f.x BETWEEN -1 AND 1", "f.s LIKE 'a%'",
            "f.s IS NULL",
            "f.s <> ''", "f.d >= DATE '2020-06-01'", "f.d < DATE '2020-02-01' + INTERVAL '3' MONTH", "f.b", "NOT f.b",
            "f.m > 100.25", "f.x = 'nan'::DOUBLE", "f.k = 99", "f.s IN ('it''s', '日本', 'say \"so\"')", "f.n % 2 = 0",
            "f.k IN (SELECT k FROM labels WHERE weight > 1)", "f.k NOT IN (SELECT k FROM labels WHERE k IS NOT NULL)",
            "EXISTS (SELECT * FROM \"the \"\"days\"\"\" h WHERE h.d = f.d AND h.is_holiday)", "f.k IS DISTINCT FROM 2",
            "NOT EXISTS (SELECT 1 FROM labels q WHERE q.k = f.k)", "f.x > (SELECT avg(weight) FROM labels) - 3",
            "coalesce(f.x, 0) < 0.5", "f.x > (SELECT avg(x) FROM facts WHERE x < 100)",
        ]  # fmt: skip
        one = str(self.pick(*choices))
        if self.rng.random() < 0.4:
            one = f"({one} {self.pick('AND', 'OR')} {self.pick(*choices[:16])})"
        return f"NOT ({one})" if self.rng.random() < 0.1 else one

    def tables(self) -> str:
        if self.rng.random() < 0.5:
            return self.pick("facts f", "FACTS AS f", "(SELECT * FROM facts WHERE k IS NULL OR k <> 5) f")
        self.joined = True
        return str(
            self.pick(
                "facts f JOIN labels l ON f.k = l.k",
                "facts f LEFT JOIN labels l ON f.k = l.k AND l.weight > 1",
                "labels l RIGHT JOIN facts f ON f.k = l.k",
                "labels l, facts f",
                "labels l INNER JOIN facts f USING (k)",
                'facts f JOIN "the ""days""" h ON h.d = f.d LEFT JOIN labels l ON l.k = f.k',
                "(SELECT k, max(label) AS label, sum(weight) AS weight FROM labels GROUP BY k) l"
                " JOIN facts f ON f.k = l.k",
            )
        )

    def where(self) -> str:
        return f" WHERE {self.condition()}" if self.rng.random() < 0.6 else ""

    def aggregate(self) -> str:
        value = str(self.pick("f.k", "f.n", "f.x", "f.m", "f.k * f.x", "f.m + 1"))
        any_value = str(self.pick("f.k", "f.x", "f.m", "f.s", "f.d", "f.b"))
        one = str(
            self.pick(
                "count(*)", f"count({any_value})", f"sum({value})", f"avg({value})", f"min({any_value})",
                f"max({any_value})", "bool_and(f.b)", "bool_or(f.x > 1)", f"sum({value})", f"min(DISTINCT {value})",
                f"count(DISTINCT {any_value})" if self.one_distinct() else "count(*)",
                "var_samp(f.k)", "stddev(f.m)", "var_pop(f.n)", "stddev_pop(f.k + 1e5)", "count_if(f.x > 0)",
            )
        )  # fmt: skip
        if self.rng.random() < 0.2:
            one += f" FILTER (WHERE {self.pick('f.x > 0', 'f.b', 'f.s IS NOT NULL', 'f.k > 100')})"
        if self.rng.random() < 0.15:
            one = f"{one.replace(one, one)} IS NULL" if self.rng.random() < 0.5 else f"coalesce({one}, NULL)"
        return one

    def one_distinct(self) -> bool:
        """Distinct values of one column are counted in parts, of two they are not."""
        first, self.counts_distinct = not self.counts_distinct, True
        return first

    # shapes

    def grouped(self) -> str:
        tables = self.tables()
        keys = list(dict.fromkeys(self.key() for _ in range(int(self.rng.integers(1, 4)))))
        measures = [self.aggregate() for _ in range(int(self.rng.integers(1, 4)))]
        outputs = [f"{key} AS key{i}" for i, key in enumerate(keys)]
        outputs += [f"{measure} AS out{i}" for i, measure in enumerate(measures)]
        named = self.pick(
            ", ".join(keys), "ALL", ", ".join(str(i + 1) for i in range(len(keys))),
            ", ".join(f"key{i}" for i in range(len(keys))),
        )  # fmt: skip
        text = f"SELECT {', '.join(outputs)} FROM {tables}{self.where()} GROUP BY {named}"
        if self.rng.random() < 0.3:
            text += f" HAVING {self.pick('count(*) > 3', 'sum(f.k) IS NOT NULL', 'max(f.x) > 1 OR min(f.k) = 0')}"
        if self.rng.random() < 0.15:
            text = text.replace("SELECT ", "SELECT rank() OVER (ORDER BY count(*)) AS place, ", 1)
            if "GROUP BY 1" in text:
                text = text.replace(f"GROUP BY {named}", f"GROUP BY {', '.join(keys)}")
            if named == "ALL":
                self.in_parts = False
        elif self.rng.random() < 0.4:
            text += " ORDER BY " + ", ".join(f"key{i} {self.pick('', 'DESC', 'NULLS FIRST')}" for i in range(len(keys)))
            self.is_ordered = True
            text += self.pick("", " LIMIT 3", " LIMIT 4 OFFSET 2")
        return text

    def total(self) -> str:
        tables = self.tables()
        measures = [self.aggregate() for _ in range(int(self.rng.integers(1, 5)))]
        text = f"SELECT {', '.join(measures)} FROM {tables}{self.where()}"
        return text + (" HAVING count(*) > 100" if self.rng.random() < 0.15 else "")

    def rows(self) -> str:
        tables = self.tables()
        outputs = [f"{self.scalar()} AS o{i}" for i in range(int(self.rng.integers(1, 5)))]
        star = self.rng.random() < 0.15
        return f"SELECT {'f.*' if star else ', '.join(outputs)} FROM {tables}{self.where()}"

    def first(self) -> str:
        count = int(self.rng.integers(1, 5))
        text, self.is_ordered = self.rows(), True
        if "f.*" in text:
            return text + " ORDER BY ALL LIMIT 5" if self._whole() else ""
        count = text.partition(" FROM ")[0].count(" AS o")
        order = ", ".join(f"{i + 1} {self.pick('', 'DESC', 'DESC NULLS LAST', 'NULLS FIRST')}" for i in range(count))
        return f"{text} ORDER BY {order} LIMIT {int(self.rng.integers(0, 20))}" + self.pick("", " OFFSET 3")

    def distinct(self) -> str:
        tables = self.tables()
        outputs = list(dict.fromkeys(self.key() for _ in range(int(self.rng.integers(1, 3)))))
        named = ", ".join(f"{one} AS o{i}" for i, one in enumerate(outputs))
        text = f"SELECT DISTINCT {named} FROM {tables}{self.where()}"
        if self.rng.random() < 0.4:
            self.is_ordered = True
            text += (
                " ORDER BY ALL"
                if self.rng.random() < 0.3
                else " ORDER BY " + ", ".join(f"o{i}" for i in range(len(outputs)))
            )
            text += self.pick("", " LIMIT 4")
        return text

    def nested(self) -> str:
        inner = self.pick(self.grouped, self.total, self.rows)
        if inner == self.rows:
            self.joined = False
            return (
                f"WITH r AS (SELECT k, x, m, s FROM facts f{self.where()}) "
                f"SELECT {self.pick('s', 'k')}, {self.pick('sum(x)', 'count(*), max(m)', 'avg(m)')} FROM r "
                f"{self.pick('WHERE k > 2', '')} GROUP BY 1"
            )
        text = inner()
        self.is_ordered = False
        return str(
            self.pick(
                f"SELECT count(*), 1 FROM ({text}) q",
                f"WITH r AS ({text}) SELECT count(*) FROM r UNION ALL SELECT sum(weight) FROM labels",
                f"WITH r AS ({text}) SELECT * FROM r WHERE (SELECT count(*) FROM r) > 2",
                f"SELECT * FROM ({text}) q WHERE EXISTS (SELECT 1 FROM labels WHERE weight > 4)",
            )
        )

    def whole(self) -> str:
        self.in_parts = False
        return str(
            self.pick(
                "SELECT k, median(x) FROM facts GROUP BY k",
                "SELECT k, s, x, row_number() OVER (PARTITION BY k ORDER BY n, x, s, d, m) AS r FROM facts"
                " QUALIFY r <= 2",
                "SELECT count(*) FROM facts a JOIN facts b ON a.k = b.k AND a.d = b.d",
                "SELECT k, string_agg(s, ',' ORDER BY s) FROM facts GROUP BY ALL",
                "SELECT n FROM facts ORDER BY n",
                "SELECT k FROM facts UNION SELECT k FROM labels",
                "SELECT count(*) FROM labels l FULL JOIN facts f ON f.k = l.k AND f.x > 0",
                "SELECT k, b, sum(x) FROM facts GROUP BY ROLLUP (k, b)",
                "SELECT f.k, f.n FROM facts f WHERE f.x = (SELECT max(g.x) FROM facts g WHERE g.k = f.k)",
                "SELECT k, quantile_cont(x, 0.25), mode(k), first(k ORDER BY k) FROM facts GROUP BY k",
                "SELECT list_sort(list(DISTINCT k)) FROM facts",
                "SELECT * FROM facts FULL JOIN labels USING (k)",
                "SELECT k % 2 AS k, count(*) FROM facts GROUP BY facts.k ORDER BY k + 1, 2",
            )
        )

    def _whole(self) -> bool:
        self.in_parts = False
        return True
