"""Look at data of any size: what each column and variable holds, and what may be wrong with it."""

from __future__ import annotations

from dtk.analytics.profile import profile
from dtk.analytics.report import Report

__all__ = ["Report", "profile"]
