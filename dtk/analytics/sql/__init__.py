"""SQL: queries run in parts on the cluster where that can be, and whole on one worker where not."""

from __future__ import annotations

from dtk.analytics.sql.query import sql

__all__ = ["sql"]
