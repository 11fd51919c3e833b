"""What a batch will look like, before anything is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dtk.estimators.inputs import Labelled
from dtk.loader import Field
from dtk.preparation import TablePreparation

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
    preparation : TablePreparation
        What would be fitted.
    task : str
        ``"classification"`` or ``"regression"``.
    """

    def __init__(self, schema: pa.Schema, train: Labelled, preparation: TablePreparation, task: str) -> None:
        inputs, self.fields = preparation.planned(schema, target=train.target, weight=train.weight)
        self.fields["target"] = Field(np.dtype(np.int64 if task == "classification" else np.float32))
        self.columns = (*inputs, *(name for name in (train.target, train.weight) if name is not None))

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
