"""A whole table in one pass: its columns, and how its numbers hang together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dtk.analytics.checks import CheckPlan, CheckState
from dtk.analytics.columns import ColumnProfile, ColumnState, kind_of_column, summarise_column
from dtk.statistics import RowSample, TableSample, category_keys, to_floats
from dtk.statistics.kinds import plain_chunks

__all__ = ["Correlations", "TableState", "correlate", "summarise_table"]

SAMPLE_ROWS: Final = 100_000
SAMPLE_NBYTES: Final = 256 * 2**20
_MAX_CORRELATED: Final = 100
_SAMPLED_KINDS: Final = ("number", "date", "boolean")


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlations of numbers and booleans, from the sampled rows that have both values.

    Parameters
    ----------
    columns : tuple of str
        The first 100 numbers and booleans, and the target.
    values : numpy.ndarray
        float64 [columns, columns]; NaN where a column is constant.
    """

    columns: tuple[str, ...]
    values: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values.

        Returns
        -------
        dict
            ``columns``, and ``values`` as nested lists with None for NaN.
        """
        rows = [[None if math.isnan(value) else value for value in row] for row in self.values.tolist()]
        return {"columns": list(self.columns), "values": rows}


class TableState:
    """What one pass gathers of a table.

    Parameters
    ----------
    schema : pyarrow.Schema
        The table's columns.
    target : str, optional
        The column whose values are sampled even if they are strings.
    checks : CheckPlan, optional
        What is looked at besides.
    total_rows : int, optional
        Rows of the whole table, where that is known: the parts of a scan then share the sample's memory.
    """

    def __init__(
        self,
        schema: pa.Schema,
        target: str | None = None,
        *,
        checks: CheckPlan | None = None,
        total_rows: int | None = None,
    ) -> None:
        self.checks = CheckState(checks or CheckPlan(), total_rows)
        self.columns = {field.name: ColumnState(field.name, kind_of_column(field.type)) for field in schema}
        self.sampled = [name for name, column in self.columns.items() if column.kind in _SAMPLED_KINDS]
        is_category = target is not None and self.columns[target].kind == "category"
        self.target = target if is_category else None
        nbytes_per_row = 8 * max(1, len(self.sampled))
        size = min(SAMPLE_ROWS, max(1, SAMPLE_NBYTES // nbytes_per_row))
        self.sample = TableSample(self.sampled, size, total_rows=total_rows)
        self.target_sample = RowSample(size, total_rows=total_rows)  # of the same rows
        self.num_rows = 0

    def update(self, table: pa.Table, first_row: int) -> None:
        """Take in one chunk.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns of the schema.
        first_row : int
            The number of its first row.
        """
        for name, column in self.columns.items():
            column.update(table[name])
        self.checks.update(table, first_row)
        self.num_rows += table.num_rows
        row = np.arange(first_row, first_row + table.num_rows)
        if self.sampled:
            self.sample.update(table, row)
        if self.target is not None:  # as text, whatever the types of the chunk
            keys = [category_keys(chunk).cast(pa.large_string()) for chunk in plain_chunks(table[self.target])]
            self.target_sample.update(pa.chunked_array(keys, pa.large_string()), row)

    def merge(self, other: TableState) -> None:
        """Take in what another state has seen.

        Parameters
        ----------
        other : TableState
            Of the same schema and target; left as it is.
        """
        for name, column in self.columns.items():
            column.merge(other.columns[name])
        self.checks.merge(other.checks)
        self.num_rows += other.num_rows
        self.sample.merge(other.sample)
        self.target_sample.merge(other.target_sample)

    @property
    def num_sampled(self) -> int:
        """Rows in the sample; all of them where no column is sampled."""
        if self.sampled:
            return self.sample.num_sampled
        return self.num_rows if self.target is None else self.target_sample.num_sampled

    @property
    def sample_nbytes(self) -> int | None:
        """The memory that cut the sample short; None where it did not."""
        return SAMPLE_NBYTES if self.sample.size < SAMPLE_ROWS and self.num_sampled < self.num_rows else None

    def sampled_values(self) -> dict[str, np.ndarray]:
        """Return the sampled rows.

        Returns
        -------
        dict of str to numpy.ndarray
            float64 [sampled rows] by column, NaN where missing; a target of two classes as 0 and 1.
        """
        if not self.num_rows:
            return {}
        found = {name: values.astype(np.float64, copy=False) for name, values in self.sample.values.items()}
        if self.target is not None:
            encoded = self.target_sample.values.dictionary_encode()
            if len(encoded.dictionary) == 2:
                found[self.target] = to_floats(encoded.indices)
        return found


def summarise_table(state: TableState, schema: pa.Schema) -> tuple[tuple[ColumnProfile, ...], dict[str, np.ndarray]]:
    """Sum up all columns.

    Parameters
    ----------
    state : TableState
        After the scan.
    schema : pyarrow.Schema
        The table's columns.

    Returns
    -------
    columns : tuple of ColumnProfile
        In the order of the schema.
    sample : dict of str to numpy.ndarray
        float64 [sampled rows] by column.
    """
    sample = state.sampled_values()
    nothing = np.empty(0)
    columns = tuple(
        summarise_column(
            state.columns[field.name],
            field.type,
            sample.get(field.name, nothing),
            sample_is_exact=state.num_sampled == state.num_rows,
        )
        for field in schema
    )
    return columns, sample


def correlate(
    columns: Sequence[ColumnProfile], sample: dict[str, np.ndarray], *, target: str | None = None
) -> Correlations | None:
    """Correlate numbers and booleans, and the target where it has two classes.

    Parameters
    ----------
    columns : sequence of ColumnProfile
        All columns.
    sample : dict of str to numpy.ndarray
        float64 [sampled rows] by column.
    target : str, optional
        The column that is there in any case.

    Returns
    -------
    Correlations or None
        None for fewer than two columns.
    """
    names = [column.name for column in columns if column.kind in ("number", "boolean") and column.name in sample]
    names = names[:_MAX_CORRELATED]
    if target in sample and target not in names:
        names.append(target)
    if len(names) < 2:
        return None
    import pandas as pd

    frame = pd.DataFrame({number: sample[name] for number, name in enumerate(names)})
    frame = frame.where(np.isfinite(frame))
    return Correlations(tuple(names), frame.corr(min_periods=2).to_numpy())
