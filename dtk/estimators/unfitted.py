"""What a batch will look like, before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dtk.estimators.inputs import Labelled
from dtk.loader import Field
from dtk.preparation import TablePreparation
from dtk.statistics import infer_kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Unfitted"]


class Unfitted:
    """Columns and fields that a fit would read and make, for a plan.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the training data.
    train : Labelled
        The training data; not read.
    kinds : mapping of str to str, optional
        As for `TablePreparation`.
    task : str
        ``"classification"`` or ``"regression"``.
    """

    def __init__(self, schema: pa.Schema, train: Labelled, kinds: Mapping[str, str] | None, task: str) -> None:
        preparation = TablePreparation(kinds=kinds)
        self.fields = preparation.planned_fields(schema, target=train.target, weight=train.weight)
        self.fields["target"] = Field(np.dtype(np.int64 if task == "classification" else np.float32))
        labels = [name for name in (train.target, train.weight) if name is not None]
        found = {field.name: infer_kind(field.type) for field in schema} | dict(kinds or {})
        inputs = [name for name, kind in found.items() if kind != "ignore" and name not in labels]
        self.columns = (*inputs, *labels)

    def encode(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        """Refuse to encode.

        Parameters
        ----------
        table : pyarrow.Table
            Some rows.

        Returns
        -------
        dict
            Never: a plan reads no rows.
        """
        raise AssertionError("a plan reads no rows")
