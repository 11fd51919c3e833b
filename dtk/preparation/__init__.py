"""Preparation of tables: fitted in one pass, applied inside the batch, saved with the model."""

from __future__ import annotations

from dtk.preparation.samples import SampleEncoder
from dtk.preparation.schema import positional_names, table_of_array
from dtk.preparation.table import TablePreparation
from dtk.preparation.target import ClassTarget, NumberTarget, Target, target_from_dict
from dtk.preparation.values import Value

__all__ = [
    "ClassTarget",
    "NumberTarget",
    "SampleEncoder",
    "TablePreparation",
    "Target",
    "Value",
    "positional_names",
    "table_of_array",
    "target_from_dict",
]
