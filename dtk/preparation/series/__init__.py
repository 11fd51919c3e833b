"""Preparation of series in tables: what a row takes from the rows before it. DataFrame in, DataFrame out."""

from __future__ import annotations

from dtk.preparation.series.scaler import GroupScaler
from dtk.preparation.series.steps import Differencing, Lags, RollingStatistics

__all__ = ["Differencing", "GroupScaler", "Lags", "RollingStatistics"]
