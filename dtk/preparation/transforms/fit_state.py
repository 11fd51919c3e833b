"""What a scan fills for transforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dtk.preparation.transforms.base import Need, Transform
from dtk.preparation.transforms.chains import apply_steps
from dtk.statistics import TableSample

__all__ = ["FitState", "Request"]


@dataclass(frozen=True)
class Request:
    """What is needed of the columns that come out of some fitted steps.

    Parameters
    ----------
    names : tuple of str
        The columns of the data.
    steps : tuple of Transform
        Fitted.
    columns : tuple of str
        What comes out of them.
    needs : tuple of Need
        Of each column.
    """

    names: tuple[str, ...]
    steps: tuple[Transform, ...]
    columns: tuple[str, ...]
    needs: tuple[Need, ...]


class FitState:
    """What a scan fills for transforms: the statistics that they need, each once.

    Parameters
    ----------
    requests : sequence of Request
        What is needed.
    target : str, optional
        The column of the target.
    first_row : int
        How many rows were seen before these data.
    total_rows : int, optional
        Rows of these data, if that is known.
    """

    def __init__(
        self, requests: Sequence[Request], target: str | None, first_row: int = 0, total_rows: int | None = None
    ) -> None:
        self.requests = requests
        self.target = target
        self.first_row = first_row
        self.num_rows = 0
        self._statistics: dict[tuple[int, int, Need], Any] = {}
        sampled: dict[Need, list[str]] = {}
        for number, request in enumerate(requests):
            for need in request.needs:
                if need.is_sample:
                    sampled.setdefault(need, []).extend(_key(number, each) for each in range(len(request.columns)))
                else:
                    made = {(number, each, need): need.make() for each in range(len(request.columns))}
                    self._statistics |= made
        self._samples = {
            need: TableSample(keys, total_rows=total_rows, **dict(need.options)) for need, keys in sampled.items()
        }

    def update(self, table: pa.Table, first_row: int) -> None:
        """Take in one chunk.

        Parameters
        ----------
        table : pyarrow.Table
            Some rows; there may be none.
        first_row : int
            The number of its first row in the whole data.
        """
        self.num_rows += table.num_rows
        row = np.arange(first_row, first_row + table.num_rows) + self.first_row
        sampled: dict[Need, dict[str, Any]] = {need: {} for need in self._samples}
        for number, request in enumerate(self.requests):
            for each, values in enumerate(_columns_for(request, table)):
                for need in request.needs:
                    if need.is_sample:
                        sampled[need][_key(number, each)] = values
                    elif need.with_target:
                        both = pa.table({"value": values, "target": table[self.target]})
                        self._statistics[number, each, need].update(both, row)
                    else:
                        self._statistics[number, each, need].update(values, row)
        for need, columns in sampled.items():
            self._samples[need].update(pa.table(columns), row)

    def merge(self, other: FitState) -> None:
        """Take in what another state has seen.

        Parameters
        ----------
        other : FitState
            Of other rows; left as it is.
        """
        self.num_rows += other.num_rows
        for key, statistic in self._statistics.items():
            statistic.merge(other._statistics[key])
        for need, sample in self._samples.items():
            sample.merge(other._samples[need])

    def found(self, request: int, need: Need) -> list[Any]:
        """Return the statistics of the columns of a request.

        Parameters
        ----------
        request : int
            Its position.
        need : Need
            One of its needs.

        Returns
        -------
        list
            One a column.
        """
        columns = range(len(self.requests[request].columns))
        if need.is_sample:
            return [self._samples[need].column(_key(request, each)) for each in columns]
        return [self._statistics[request, each, need] for each in columns]


def _key(request: int, column: int) -> str:
    return f"{request}.{column}"


def _columns_for(request: Request, table: pa.Table) -> list[Any]:
    """Return the columns that come out of the steps of a request, as Arrow."""
    if not request.needs:
        return []
    columns = [table[name] for name in request.names]
    if request.steps:  # they get text as text
        columns = [_as_text(column) for column in columns]
    given = apply_steps(request.steps, request.names, columns)
    return given if isinstance(given, list) else [pa.array(np.ascontiguousarray(column)) for column in given.T]


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
