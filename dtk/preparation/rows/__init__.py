"""Preparation of rows: which there are, and of what type their values are. DataFrame in, DataFrame out."""

from __future__ import annotations

from dtk.preparation.rows.filters import DropDuplicates, FilterRows
from dtk.preparation.rows.outliers import Outliers
from dtk.preparation.rows.repair import TypeRepair

__all__ = ["DropDuplicates", "FilterRows", "Outliers", "TypeRepair"]
