"""One-pass statistics that merge: the same answer for every chunking, and for every order of merging."""

from __future__ import annotations

from dtk.statistics.base import Statistic
from dtk.statistics.categories import Categories
from dtk.statistics.kinds import Kind, category_keys, infer_kind, to_floats, to_numbers
from dtk.statistics.moments import Moments
from dtk.statistics.sample import RowSample
from dtk.statistics.scan import ScanState, scan

__all__ = [
    "Categories",
    "Kind",
    "Moments",
    "RowSample",
    "ScanState",
    "Statistic",
    "category_keys",
    "infer_kind",
    "scan",
    "to_floats",
    "to_numbers",
]
