"""The metrics of a task one by one: torchmetrics's own, and an area under the curve in bounded memory.

A module of its own: a sixth of what a rank imports is torchmetrics, which it needs for validation alone.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Final

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of optional packages of its own
    import torchmetrics
    from torchmetrics import classification

__all__ = ["BinnedAUROC", "make_parts"]

_BINS: Final = 2**16  # for two classes, and shared out among more, down to the least
_LEAST_BINS: Final = 1024
_MAX_LOG_ODDS: Final = 16.0
_SLICE_SCORES: Final = 2**20  # taken in at once: some 8 MiB for each intermediate result


class BinnedAUROC(torchmetrics.Metric):
    """Area under the ROC curve from a histogram of log-odds: memory does not grow with the data.

    With two classes, that of the second class; with more, the mean over classes of each against all others. Classes
    that are absent, or the only ones, have none and are left out; NaN where none is left, or where a score is NaN.

    Parameters
    ----------
    num_classes : int
        At least 2.
    **options
        For `torchmetrics.Metric`.

    Notes
    -----
    The log-odds of a class are cut at -16 and 16 into 65,536 bins for two classes, and fewer for more, but at least
    1024. Scores within one bin count as tied, which is the only error: a bin of two classes is 0.0005 wide.
    """

    higher_is_better = True
    full_state_update = False
    counts: Tensor
    num_undefined: Tensor

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = max(_LEAST_BINS, _BINS // max(1, num_classes - 1))
        self.positives = torch.arange(1 if num_classes == 2 else 0, num_classes)
        shape = (len(self.positives), 2, self.num_bins)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, target: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        outputs : torch.Tensor
            Logits [n, classes].
        target : torch.Tensor
            int64 [n].
        """
        num_rows = max(1, _SLICE_SCORES // outputs.shape[1])
        for some, labels in zip(outputs.split(num_rows), target.split(num_rows), strict=True):
            self._count(some, labels)

    def _count(self, outputs: Tensor, target: Tensor) -> None:
        positives = self.positives.to(outputs.device)
        # float64 and expm1: the rest's chance keeps its digits where a class is all but sure
        own = torch.log_softmax(outputs.to(torch.float64), dim=1)[:, positives].clamp(max=-1e-12)
        odds = (own - torch.log(-torch.expm1(own))).clamp(-_MAX_LOG_ODDS, _MAX_LOG_ODDS)
        self.num_undefined += odds.isnan().sum()
        odds = odds.nan_to_num()
        bins = ((odds + _MAX_LOG_ODDS) * (self.num_bins / (2 * _MAX_LOG_ODDS))).long().clamp_(max=self.num_bins - 1)
        is_positive = (target[:, None] == positives).long()
        places = (torch.arange(len(positives), device=outputs.device) * 2 + is_positive) * self.num_bins + bins
        places = places.flatten()
        self.counts.view(-1).index_add_(0, places, self.counts.new_ones(len(places)))

    def compute(self) -> Tensor:
        """Return the area.

        Returns
        -------
        torch.Tensor
            float64 scalar.
        """
        if self.num_undefined:
            return torch.tensor(math.nan, dtype=torch.float64)
        negatives, positives = self.counts.to(torch.float64).unbind(dim=1)
        below = negatives.cumsum(dim=1) - negatives
        wins = (positives * (below + negatives / 2)).sum(dim=1)
        pairs = positives.sum(dim=1) * negatives.sum(dim=1)
        areas = wins[pairs > 0] / pairs[pairs > 0]
        return areas.mean() if len(areas) else torch.tensor(math.nan, dtype=torch.float64)


def make_parts(task: str, num_classes: int) -> dict[str, torchmetrics.Metric]:
    """Make the metrics of a task.

    Parameters
    ----------
    task : str
        ``"classification"`` or ``"regression"``.
    num_classes : int
        Of a classification.

    Returns
    -------
    dict of str to torchmetrics.Metric
        By name; empty, and never synchronised by themselves.
    """
    if task == "regression":
        return {
            "mae": torchmetrics.MeanAbsoluteError(sync_on_compute=False),
            "rmse": torchmetrics.MeanSquaredError(squared=False, sync_on_compute=False),
            "r2": torchmetrics.R2Score(sync_on_compute=False),
        }
    options: dict[str, Any] = {"sync_on_compute": False, "validate_args": False}
    parts: dict[str, torchmetrics.Metric] = {}
    if num_classes == 2:
        parts["accuracy"] = classification.BinaryAccuracy(**options)
        parts["precision"] = classification.BinaryPrecision(**options)
        parts["recall"] = classification.BinaryRecall(**options)
        parts["f1"] = classification.BinaryF1Score(**options)
    else:
        parts["accuracy"] = classification.MulticlassAccuracy(num_classes, average="micro", **options)
        parts["precision"] = classification.MulticlassPrecision(num_classes, average="macro", **options)
        parts["recall"] = classification.MulticlassRecall(num_classes, average="macro", **options)
        parts["f1"] = classification.MulticlassF1Score(num_classes, average="macro", **options)
    parts["auroc"] = BinnedAUROC(num_classes, sync_on_compute=False)
    parts["log_loss"] = torchmetrics.MeanMetric(sync_on_compute=False, nan_strategy="disable")
    return parts
