"""Look at data of any size: what each column and variable holds, and what may be wrong with it."""

from __future__ import annotations

from dtk.analytics.profile import profile
from dtk.analytics.query.aggregate import aggregate
from dtk.analytics.query.times import TimeWindow
from dtk.analytics.report import Report
from dtk.analytics.schema import ColumnSchema, DriftLimits, TableSchema, read_schema

__all__ = ["ColumnSchema", "DriftLimits", "Report", "TableSchema", "TimeWindow", "aggregate", "profile", "read_schema"]
