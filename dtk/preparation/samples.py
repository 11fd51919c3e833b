"""What the loader encodes of each row: inputs and codes, the target, and the weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.preparation.table import TablePreparation
from dtk.preparation.target import ClassTarget, Target
from dtk.preparation.values import as_numbers, check_column

if TYPE_CHECKING:
    from dtk.loader import Field, Packed

__all__ = ["SampleEncoder"]


class SampleEncoder:
    """Encodes whole samples: what a fitted preparation makes of the inputs, the target, and the weight.

    Parameters
    ----------
    preparation : TablePreparation
        Fitted.
    target : ClassTarget or NumberTarget, optional
        Fitted; without one, samples have inputs only.
    weight : str, optional
        The column of sample weights.
    class_weight : str or mapping, optional
        ``"balanced"``, or the weight by class; multiplied with the sample weight.

    Raises
    ------
    ArgumentError
        If there is a `class_weight` without classes, or it names none of them.
    """

    def __init__(
        self,
        preparation: TablePreparation,
        *,
        target: Target | None = None,
        weight: str | None = None,
        class_weight: str | Mapping[Any, float] | None = None,
    ) -> None:
        self.preparation = preparation
        self.target = target
        self.weight = weight
        self._class_weights: NDArray[np.float32] | None = None
        if class_weight is not None:
            if not isinstance(target, ClassTarget):
                raise ArgumentError(f"class_weight={class_weight!r} needs a target of classes; use weight= instead")
            self._class_weights = target.weights(class_weight)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        names = [*self.preparation.columns]
        if self.target is not None:
            names.append(self.target.name)
        if self.weight is not None and self.weight not in names:
            names.append(self.weight)
        return tuple(names)

    @property
    def target_column(self) -> str | None:
        """The column that "target" is made of."""
        return None if self.target is None else self.target.name

    @property
    def fields(self) -> dict[str, Field]:
        """What `encode` returns, by name: dtype, and shape of one sample."""
        from dtk.loader import Field

        fields = self.preparation.fields
        if self.target is not None:
            fields["target"] = Field(self.target.dtype, ())
        if self._has_weight:
            fields["weight"] = Field(np.dtype(np.float32), ())
        return fields

    @property
    def _has_weight(self) -> bool:
        return self.weight is not None or self._class_weights is not None

    def is_cross_fitted_to(self, source: Any) -> bool | None:
        """Tell whether rows are those that the preparation was cross-fitted to.

        Parameters
        ----------
        source : Source
            The rows.

        Returns
        -------
        bool or None
            None where nothing is cross-fitted.
        """
        ask = getattr(self.preparation, "is_cross_fitted_to", None)
        return None if ask is None else ask(source)

    def encode(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """Turn rows into arrays.

        Parameters
        ----------
        table : pyarrow.Table
            With at least `columns`, in any order.
        rows : numpy.ndarray, optional
            int64 [n]: their numbers, where they are to be encoded out of fold.

        Returns
        -------
        dict
            What the preparation returns; "target": int64 or float32 [n]; "weight": float32 [n], where there is one.

        Raises
        ------
        DataError
            If a column is missing or of another type, a target or weight is missing, or a weight is negative.
        """
        numbered = {} if rows is None else {"rows": rows}
        return {**self.preparation.encode(table, **numbered), **self._encode_labels(table)}

    def pack(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any] | Packed]:
        """Turn rows into arrays, of which the inputs are packed on their way into the batches.

        Parameters
        ----------
        table : pyarrow.Table
            With at least `columns`, in any order.
        rows : numpy.ndarray, optional
            int64 [n]: their numbers, where they are to be encoded out of fold.

        Returns
        -------
        dict
            As `encode`.

        Raises
        ------
        DataError
            If a column is missing or of another type, a target or weight is missing, or a weight is negative.
        """
        numbered = {} if rows is None else {"rows": rows}
        return {**self.preparation.pack(table, **numbered), **self._encode_labels(table)}

    def _encode_labels(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        encoded: dict[str, NDArray[Any]] = {}
        if self.target is not None:
            self.target.check(table.schema)
            encoded["target"] = self.target.encode(table[self.target.name])
        if self._has_weight:
            weights = np.ones(table.num_rows, dtype=np.float32)
            if self.weight is not None:
                check_column(table.schema, self.weight, "number")
                weights = self._sample_weights(table[self.weight])
            if self._class_weights is not None:
                weights = weights * self._class_weights[encoded["target"]]
            encoded["weight"] = weights
        return encoded

    def _sample_weights(self, values: pa.ChunkedArray) -> NDArray[np.float32]:
        assert self.weight is not None
        weights: NDArray[np.float32] = as_numbers(self.weight, values).to_numpy().astype(np.float32)
        unfit = ~(np.isfinite(weights) & (weights >= 0))  # NaN compares as unfit too
        if unfit.any():
            raise DataError(
                f"weight={self.weight!r} is missing, negative or infinite in {int(unfit.sum())} rows; "
                "filter them out, or set the weight to 0"
            )
        return weights
