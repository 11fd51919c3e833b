"""The two stages of fitted steps: what the loader's threads encode, and what the device computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import DataError
from dtk.preparation.transforms.base import Elementwise, Transform
from dtk.preparation.transforms.chains import apply_steps
from dtk.preparation.values import as_numbers
from dtk.sources.columns import close_to
from dtk.statistics import to_floats

__all__ = ["Part", "part_of", "planned_part"]


@dataclass(frozen=True)
class Part:
    """Fitted steps of a group of columns, cut in two.

    Parameters
    ----------
    names : tuple of str
        The columns.
    first : tuple of Transform
        What is applied to Arrow columns while encoding; the last of them may make numbers.
    second : tuple of Transform
        Whose numeric stage is left for the device.
    field : str
        ``"inputs"`` or ``"codes"``: where the encoded columns go.
    width : int
        How many there are.
    wide : tuple of int
        The columns that `second` is computed of in float64 while encoding, and which the device leaves as they are.
    """

    names: tuple[str, ...]
    first: tuple[Transform, ...]
    second: tuple[Transform, ...]
    field: str
    width: int
    wide: tuple[int, ...] = ()

    @property
    def gives_codes(self) -> bool:
        """Whether codes are what comes out: for an embedding, and not as numbers."""
        return self.field == "codes" and not self.second

    def encode(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> list[Any]:
        """Encode rows.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns.
        rows : numpy.ndarray, optional
            int64 [rows]: their numbers at fit, where they are to be encoded out of fold.

        Returns
        -------
        list
            A column each, NumPy or Arrow [rows].

        Raises
        ------
        DataError
            If a column is missing or of another type.
        """
        for name in self.names:
            if name not in table.column_names:
                raise DataError(f"column {name!r} is missing in the data; {close_to(name, table.column_names)}")
        result = apply_steps(self.first, self.names, [table[name] for name in self.names], rows)
        if not isinstance(result, list):
            return list(result.T)
        if not self.second:
            return [as_numbers(name, column) for name, column in zip(self.names, result, strict=True)]
        if rows is not None and self.second[0]._is_cross_fitted:
            return list(self.second[0]._codes_in_folds(self.names, result, rows).T)
        encoded = self.second[0]._encode_packed(self.names, result)
        for column in self.wide:
            values = to_floats(encoded[column])
            for step in self.second:
                assert isinstance(step, Elementwise)
                values = step._compute_column(column, values)
            with np.errstate(over="ignore"):
                encoded[column] = values.astype(np.float32)
        return encoded


def planned_part(steps: Sequence[Transform], num_columns: int) -> tuple[str, int]:
    """Say what the first stage of steps that are not fitted will give.

    Parameters
    ----------
    steps : sequence of Transform
        Of one group, checked.
    num_columns : int
        That go in.

    Returns
    -------
    field : str
        ``"inputs"`` or ``"codes"``.
    width : int
        How many columns there will be at the most, where what is computed while encoding adds none.
    """
    numeric = [step for step in steps if not step._cleans]
    if not numeric:
        return "inputs", num_columns
    width = numeric[0]._planned_encoded(num_columns)
    on_host = any(not step._on_device or step._jumps for step in numeric)
    return ("codes" if numeric[0]._codes and not on_host else "inputs"), width


def part_of(steps: Sequence[Transform], names: Sequence[str], wide: Sequence[int] = ()) -> Part:
    """Cut fitted steps in two.

    Parameters
    ----------
    steps : sequence of Transform
        Of one group.
    names : sequence of str
        Its columns.
    wide : sequence of int
        Columns that float32 cannot hold well enough.

    Returns
    -------
    Part
        With as much as can be left for the device.
    """
    names = tuple(names)
    num_clean = next((number for number, step in enumerate(steps) if not step._cleans), len(steps))
    first, second = tuple(steps[:num_clean]), tuple(steps[num_clean:])
    if not second:
        return Part(names, first, (), "inputs", len(names))
    if second[0]._gives_codes and len(second) == 1:
        return Part(names, tuple(steps), (), "codes", second[0]._num_encoded)
    num_host = max((number + 1 for number, step in enumerate(steps) if not step._on_device or step._jumps), default=0)
    if wide and (num_host or not all(isinstance(step, Elementwise) and step._keeps_columns for step in second)):
        num_host = len(steps)  # columns are mixed with others: all is computed in float64 while encoding
    if num_host:
        width = len(steps[num_host - 1].get_feature_names_out(None))
        return Part(names, tuple(steps[:num_host]), tuple(steps[num_host:]), "inputs", width)
    return Part(names, first, second, "codes" if second[0]._codes else "inputs", second[0]._num_encoded, tuple(wide))
