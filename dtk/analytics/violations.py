"""What a table should be and is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dtk.analytics.numbers import Value, show_count, show_share

__all__ = ["Violation"]


@dataclass(frozen=True)
class Violation:
    """What a table should be and is not.

    Parameters
    ----------
    columns : tuple of str
        Where: one, but for a key of several columns.
    rule : str
        Which setting of the schema, or which measure of drift.
    wanted : str
        What should be, in words.
    num_rows : int
        Rows that break the rule.
    share : float
        Of all rows.
    value : str, int, float, bool or None
        An example: that of the first row that breaks the rule.
    row : int or None
        The number of that row, from 0.
    part : int or None
        Where rows can't be numbered through, as after a filter: the chunk or partition in which `row` counts.
    error : int
        How far `num_rows` can be off, with 99% confidence; 0 where it is exact.
    origin : {"schema", "drift"}
        Who says so.
    """

    columns: tuple[str, ...]
    rule: str
    wanted: str
    num_rows: int
    share: float
    value: Value = None
    row: int | None = None
    part: int | None = None
    error: int = 0
    origin: Literal["schema", "drift"] = "schema"

    @property
    def column(self) -> str:
        """Where, in words."""
        return ", ".join(self.columns)

    @property
    def place(self) -> str:
        """Which row the example is from, in words."""
        if self.row is None:
            return ""
        return show_count(self.row) if self.part is None else f"{show_count(self.row)} of part {self.part}"

    @property
    def extent(self) -> str:
        """How many rows, in words."""
        about = f" +- {show_count(self.error)}" if self.error else ""
        return f"{show_count(self.num_rows)}{about} ({show_share(self.share)})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        Returns
        -------
        dict
            All fields, and the columns in words.
        """
        return {"column": self.column, **asdict(self), "columns": list(self.columns)}
