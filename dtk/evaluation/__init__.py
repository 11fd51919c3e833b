"""Metrics of a task in bounded memory: filled batch by batch, merged over chunks, summed over ranks."""

from __future__ import annotations

from dtk.evaluation.metrics import Metrics, class_logits, make_metrics

__all__ = ["Metrics", "class_logits", "make_metrics"]
