"""The result of a profile: as an object, as text, as JSON and as a page."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtk.analytics.arrays import DimProfile, VariableProfile
from dtk.analytics.columns import ColumnProfile
from dtk.analytics.drift import Drift
from dtk.analytics.findings import Finding
from dtk.analytics.numbers import show_count, show_number, show_share, show_value
from dtk.analytics.table import Correlations
from dtk.analytics.violations import Violation
from dtk.errors import ArgumentError
from dtk.memory import format_nbytes
from dtk.pages import save_page
from dtk.statistics.sample import rank_error

if TYPE_CHECKING:
    from dtk.analytics.schema import TableSchema

__all__ = ["Report"]

_SHOWN_ROWS = 20
_WIDTH = 28
_WIDE = 60
COLUMN_HEADS = ("column", "kind", "missing", "distinct", "min", "median", "max", "mean", "std")
VIOLATION_HEADS = ("column", "rule", "should", "rows", "example", "row")
DRIFT_HEADS = ("column", "measure", "value", "limit", "by chance", "")
VARIABLE_HEADS = ("variable", "type", "dims", "shape", "chunks", "missing", "min", "max", "mean", "std")


@dataclass(frozen=True, repr=False)
class Report:
    """What a profile found. Made by `dtk.profile`.

    Parameters
    ----------
    title : str
        The data's name.
    num_rows : int or None
        Rows of a table; None for a Dataset.
    columns : tuple of ColumnProfile
        Of a table.
    correlations : Correlations or None
        Among numbers and booleans.
    findings : tuple of Finding
        What may be wrong.
    target : str or None
        The column to predict.
    num_sampled : int
        Rows that quantiles, histograms and correlations are from.
    sample_nbytes : int or None
        The memory that cut the sample short; None where it did not.
    dims : tuple of DimProfile
        Of a Dataset.
    variables : tuple of VariableProfile
        Of a Dataset.
    num_rules : int or None
        Rules of a schema, and of drift, that were checked row by row; None where there was nothing to check against.
    violations : tuple of Violation
        What the table should be and is not.
    drift : tuple of Drift
        How far the table is from earlier data.
    notes : tuple of str
        What was not checked, or not of every row.
    """

    title: str
    num_rows: int | None = None
    columns: tuple[ColumnProfile, ...] = ()
    correlations: Correlations | None = None
    findings: tuple[Finding, ...] = ()
    target: str | None = None
    num_sampled: int = 0
    sample_nbytes: int | None = None
    dims: tuple[DimProfile, ...] = ()
    variables: tuple[VariableProfile, ...] = ()
    num_rules: int | None = None
    violations: tuple[Violation, ...] = ()
    drift: tuple[Drift, ...] = ()
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        parts: list[ColumnProfile | VariableProfile] = [*self.columns, *self.variables]
        for part in parts:
            if part.name == name:
                return part
        raise KeyError(name)

    @property
    def summary(self) -> str:
        """What it is about, in one line."""
        if self.num_rows is None:
            dims = ", ".join(f"{dim.name}: {dim.size}" for dim in self.dims)
            return f"{len(self.variables)} variables ({dims})"
        return f"{show_count(self.num_rows)} rows, {len(self.columns)} columns, {len(self.findings)} warnings"

    @property
    def is_valid(self) -> bool:
        """Whether nothing is violated; True also where nothing was checked."""
        return not self.violations

    @property
    def verdict(self) -> str:
        """What the checks found, in one line; empty where there were none."""
        if self.num_rules is None:
            return ""
        compared = f" and {len(self.drift)} measures of drift" if self.drift else ""
        found = "nothing is violated" if self.is_valid else f"{len(self.violations)} violated"
        return f"{self.num_rules} rules{compared} checked: {found}"

    @property
    def accuracy(self) -> str:
        """Which figures are exact, and how far the others can be off, in one sentence."""
        if self.num_rows is None or self.num_sampled == self.num_rows:
            return "All figures are exact."
        error = rank_error(self.num_sampled)
        limit = (
            "" if self.sample_nbytes is None else f" (what {format_nbytes(self.sample_nbytes)} hold of so many columns)"
        )
        return (
            "Counts, means, deviations and ranges are exact. Quantiles, histograms and correlations are from "
            f"{show_count(self.num_sampled)} sampled rows{limit}: a quantile's rank is within {error:.2%} with 99% "
            "confidence, more where values are missing."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the whole report as plain JSON values.

        Returns
        -------
        dict
            Numbers that JSON cannot write are strings, such as ``"inf"``.
        """
        if self.num_rows is None:
            return {
                "title": self.title,
                "dims": [dim.to_dict() for dim in self.dims],
                "variables": [variable.to_dict() for variable in self.variables],
            }
        return {
            "title": self.title,
            "num_rows": self.num_rows,
            "num_sampled": self.num_sampled,
            "sample_nbytes": self.sample_nbytes,
            "target": self.target,
            "columns": [column.to_dict() for column in self.columns],
            "correlations": None if self.correlations is None else self.correlations.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "is_valid": self.is_valid,
            "num_rules": self.num_rules,
            "violations": [violation.to_dict() for violation in self.violations],
            "drift": [drift.to_dict() for drift in self.drift],
            "notes": list(self.notes),
        }

    def propose_schema(self) -> TableSchema:
        """Propose a schema that this table keeps, to be edited.

        Returns
        -------
        TableSchema
            Kinds, ranges, shares of missing values, and the values of columns that have few. Its ``to_yaml`` is what
            a file holds.

        Raises
        ------
        ArgumentError
            If the report is of a Dataset.
        """
        from dtk.analytics.proposal import propose_schema

        if self.num_rows is None:
            raise ArgumentError("a schema is for tables, and this report is of a Dataset")
        return propose_schema(self.columns)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs nothing else, or JSON to compare other data with, in place of what is there.

        Parameters
        ----------
        path : str or path
            A file in a folder that exists: JSON where it ends in ``.json``, and HTML otherwise. It appears whole or not
            at all.

        Returns
        -------
        pathlib.Path
            Where it is.

        Raises
        ------
        ArgumentError
            If the folder does not exist, or `path` is a folder.
        """
        if str(path).endswith(".json"):
            text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=1)
            return save_page(path, text + "\n", example="profile.json")
        from dtk.analytics.page import render_page

        return save_page(path, render_page(self), example="profile.html")

    def table_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the overview as text cells, one row a column or variable.

        Returns
        -------
        heads : tuple of str
            What the cells are.
        rows : list of tuple of str
            As many cells each.
        """
        if self.num_rows is None:
            return VARIABLE_HEADS, [_variable_cells(variable) for variable in self.variables]
        return COLUMN_HEADS, [_column_cells(column) for column in self.columns]

    def violation_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the violations as text cells.

        Returns
        -------
        heads : tuple of str
            What the cells are.
        rows : list of tuple of str
            As many cells each.
        """
        rows: list[tuple[str, ...]] = [
            (one.column, one.rule, one.wanted, one.extent, show_value(one.value), one.place) for one in self.violations
        ]
        return VIOLATION_HEADS, rows

    def drift_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the measures of drift as text cells, those nearest to their limits or beyond first.

        Returns
        -------
        heads : tuple of str
            What the cells are.
        rows : list of tuple of str
            As many cells each.
        """
        return DRIFT_HEADS, [_drift_cells(one) for one in sorted(self.drift, key=_nearness, reverse=True)]

    def to_text(self) -> str:
        """Return the overview and the warnings as plain text.

        Returns
        -------
        str
            Several lines; long values are cut.
        """
        heads, rows = self.table_rows()
        lines = [f"{self.title}: {self.summary}", "", *_aligned(heads, rows)]
        if self.findings:
            lines += ["", "warnings", *(f"  {_cut(one.column)}: {_printable(one.message)}" for one in self.findings)]
        for title, (heads, rows), num_left in (
            ("violations", self.violation_rows(), 3),
            ("drift, the most first", self.drift_rows(), 2),
        ):
            if rows:
                lines += ["", title, *_aligned(heads, rows[:_SHOWN_ROWS], width=_WIDE, num_left=num_left)]
            if len(rows) > _SHOWN_ROWS:
                lines.append(f"... and {len(rows) - _SHOWN_ROWS} more")
        lines += ["", *map(_printable, self.notes)] if self.notes else []
        lines += ["", self.verdict] if self.verdict else []
        return "\n".join([*lines, "", self.accuracy])

    def __repr__(self) -> str:
        heads, rows = self.table_rows()
        shown = _aligned(heads, rows[:_SHOWN_ROWS])
        more = [f"... and {len(rows) - _SHOWN_ROWS} more"] if len(rows) > _SHOWN_ROWS else []
        return "\n".join([f"<dtk.Report {self.title}: {self.summary}>", *shown, *more])

    def _repr_html_(self) -> str:
        heads, rows = self.table_rows()
        more = f"<p>... and {len(rows) - _SHOWN_ROWS} more</p>" if len(rows) > _SHOWN_ROWS else ""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[:_SHOWN_ROWS]
        )
        summary = f"<p><b>{escape(self.title)}</b>: {escape(self.summary)}</p>"
        return f"{summary}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _column_cells(column: ColumnProfile) -> tuple[str, ...]:
    distinct = "" if column.num_distinct is None else show_count(column.num_distinct)
    return (
        column.name,
        column.kind,
        show_share(column.missing_share),
        distinct if column.distinct_is_exact else f">= {distinct}",
        show_value(column.min),
        show_value((column.quantiles or {}).get("0.5")),
        show_value(column.max),
        show_number(column.mean),
        show_number(column.std),
    )


def _variable_cells(variable: VariableProfile) -> tuple[str, ...]:
    share = variable.missing_share
    return (
        variable.name,
        f"{variable.dtype}, {format_nbytes(variable.nbytes)}",
        ", ".join(variable.dims),
        " x ".join(map(str, variable.shape)),
        "in memory" if variable.chunks is None else " x ".join(map(str, variable.chunks)),
        "" if share is None else show_share(share),
        show_value(variable.min),
        show_value(variable.max),
        show_number(variable.mean),
        show_number(variable.std),
    )


def _nearness(drift: Drift) -> tuple[bool, float]:
    return drift.is_beyond, drift.value / drift.limit if drift.limit else drift.value


def _drift_cells(drift: Drift) -> tuple[str, ...]:
    shown = (drift.value, drift.limit, drift.chance)
    return (drift.column, drift.measure, *map(show_number, shown), "beyond" if drift.is_beyond else "")


def _aligned(
    heads: tuple[str, ...], rows: list[tuple[str, ...]], *, width: int = _WIDTH, num_left: int = 1
) -> list[str]:
    """Lay cells out in columns: the first ones to the left, the others to the right."""
    cells = [tuple(_cut(cell, width) for cell in row) for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < num_left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _printable(text: str) -> str:
    """Escape line ends and control characters, which could garble a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _cut(text: str, width: int = _WIDTH) -> str:
    text = _printable(text)
    return text if len(text) <= width else text[: width - 3] + "..."
