"""The scikit-learn face: TorchClassifier and TorchRegressor, for data in memory and far beyond it."""

from __future__ import annotations

from dtk.estimators.classifier import TorchClassifier
from dtk.estimators.regressor import TorchRegressor

__all__ = ["TorchClassifier", "TorchRegressor"]
