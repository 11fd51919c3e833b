"""Rules for values that lie far from the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Any, Literal

import numpy as np
import pandas as pd

from dtk.errors import ArgumentError
from dtk.preparation.frames import FrameTransform, number_columns
from dtk.preparation.transforms.base import SAMPLE, Found, Need, Transform, quantiles_of
from dtk.preparation.transforms.samples import finite_samples
from dtk.statistics import Moments

__all__ = ["Outliers"]


class Outliers(FrameTransform):
    """Drop, clip or blank values that lie outside of bounds learnt from the data.

    Parameters
    ----------
    method : str
        ``"zscore"``: the mean, plus and minus `threshold` standard deviations (3 by default). ``"iqr"``: the quartiles,
        and `threshold` times their distance beyond (1.5). ``"quantile"``: the quantiles `threshold` and ``1 -
        threshold`` (0.01).
    threshold : float, optional
        See `method`.
    action : str
        ``"drop"`` leaves out rows with such a value, ``"clip"`` moves it to the bound, ``"missing"`` makes it NaN.
    columns : sequence of str, optional
        Which; all columns of numbers by default.

    Attributes
    ----------
    lower_, upper_ : dict of str to float
        The bounds, which are no outliers themselves.
    rank_error_ : float
        How far the rank of a quantile can be off, as a share of the rows, with 99% confidence; 0 up to a million rows.

    Notes
    -----
    One scan fits all columns. Infinite values do not count in it, and are outliers; missing ones are none. On Dask each
    row is looked at by itself, so that `dtk.Loader` still reads the files in place. Whole numbers stay such where they
    are clipped, to the next one inside; ``"missing"`` makes them floats.

    Examples
    --------
    >>> data = pd.DataFrame({"x": [1.0, 2.0, 3.0, 2.0, 99.0]})
    >>> Outliers("iqr").fit_transform(data)["x"].tolist()
    [1.0, 2.0, 3.0, 2.0]
    """

    def __init__(
        self,
        method: Literal["zscore", "iqr", "quantile"] = "iqr",
        *,
        threshold: float | None = None,
        action: Literal["drop", "clip", "missing"] = "drop",
        columns: Sequence[str] | None = None,
    ) -> None:
        self.method = method
        self.threshold = threshold
        self.action = action
        self.columns = columns

    def _fit(self, data: Any) -> None:
        if self.action not in ("drop", "clip", "missing"):
            raise ArgumentError(f"action={self.action!r} must be 'drop', 'clip' or 'missing'")
        names = number_columns(self.columns, data)
        bounds = _Bounds(self.method, self.threshold)
        if names:
            bounds.fit(data[names])
        self.lower_ = dict(zip(names, map(float, getattr(bounds, "lower_", ())), strict=True))
        self.upper_ = dict(zip(names, map(float, getattr(bounds, "upper_", ())), strict=True))
        self.rank_error_ = float(getattr(bounds, "rank_error_", 0.0))

    def _apply(self, data: Any) -> Any:
        bounds = {name: (self.lower_[name], self.upper_[name]) for name in self.lower_}
        bounds = {name: pair for name, pair in bounds.items() if not math.isnan(pair[0])}
        if not bounds:
            return data
        if self.action == "drop":
            keeps = [data[name].between(*pair) | data[name].isna() for name, pair in bounds.items()]
            return data[reduce(and_, keeps)]
        if self.action == "clip":
            return data.assign(**{name: _clipped(data[name], *pair) for name, pair in bounds.items()})
        changed = {}
        for name, pair in bounds.items():
            column = data[name]
            floats = column if _is_float(column.dtype) else column.astype("float64")
            changed[name] = floats.where(floats.between(*pair))
        return data.assign(**changed)


class _Bounds(Transform):
    """Learns the bounds of columns, as any transform learns from a scan."""

    def __init__(self, method: str = "iqr", threshold: float | None = None) -> None:
        self.method = method
        self.threshold = threshold

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        if self.method not in ("zscore", "iqr", "quantile"):
            raise ArgumentError(f"method={self.method!r} must be 'zscore', 'iqr' or 'quantile'")
        most = 0.5 if self.method == "quantile" else math.inf
        if not 0 <= self._threshold < most:
            raise ArgumentError(f"threshold={self.threshold!r} must be at least 0 and less than {most}")

    @property
    def _threshold(self) -> float:
        default = {"zscore": 3.0, "iqr": 1.5, "quantile": 0.01}[self.method]
        return default if self.threshold is None else self.threshold

    def _needs(self) -> Mapping[str, Need]:
        return {"moments": Need(Moments)} if self.method == "zscore" else {"sample": SAMPLE}

    def _learn(self, found: Found) -> None:
        if self.method == "zscore":
            moments = [each.finite for each in found["moments"]]
            mean = np.array([each.mean if each.count else np.nan for each in moments])
            spread = np.array([each.std if each.count else np.nan for each in moments])
            self.lower_, self.upper_ = mean - self._threshold * spread, mean + self._threshold * spread
            return
        samples = finite_samples(found["sample"])
        self.rank_error_ = max((each.rank_error for each in samples), default=0.0)
        if self.method == "quantile":
            self.lower_, self.upper_ = quantiles_of(samples, [self._threshold, 1 - self._threshold]).T
            return
        low, high = quantiles_of(samples, [0.25, 0.75]).T
        self.lower_, self.upper_ = low - self._threshold * (high - low), high + self._threshold * (high - low)


def _clipped(column: Any, lower: float, upper: float) -> Any:
    if _is_float(column.dtype):
        return column.clip(lower, upper)
    name = str(column.dtype).lower().split("[")[0]
    limits = np.iinfo(name)
    return column.clip(max(math.ceil(lower), int(limits.min)), min(math.floor(upper), int(limits.max)))


def _is_float(dtype: Any) -> bool:
    return bool(pd.api.types.is_float_dtype(dtype))
