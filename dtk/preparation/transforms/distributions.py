"""Change the shape of distributions: by quantiles, by powers, by logarithms, and by clipping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from array_api_compat import is_torch_array
from numpy.typing import NDArray

from dtk.errors import DataError
from dtk.preparation.transforms.base import SAMPLE, Elementwise, Found, Need, refuse
from dtk.preparation.transforms.inverses import Invertible
from dtk.preparation.transforms.samples import finite_values
from dtk.preparation.transforms.scaling import is_constant, scale_of
from dtk.statistics import RowSample

__all__ = ["Clip", "LogTransformer", "PowerTransformer", "QuantileTransformer"]

_BOUND: Final = 1e-7  # scikit-learn's: what is nearer to an end than this is at the end
_ENDS: Final = (-5.199337582605575, 5.19933758270342)  # scikit-learn's, of the normal scale: the quantiles of that


class QuantileTransformer(Invertible):
    """Map each column to a uniform or a normal distribution, as `sklearn.preprocessing.QuantileTransformer`.

    Quantiles are exact up to a million rows, and beyond that those of a random sample of a million. Missing values stay
    missing; infinite ones do not count in the fit.

    Parameters
    ----------
    n_quantiles : int
        How many quantiles to hold; as many as there are rows if they are fewer.
    output_distribution : str
        ``"uniform"`` or ``"normal"``.

    Attributes
    ----------
    n_quantiles_ : int
        How many there are.
    references_ : numpy.ndarray
        float64 [quantiles]: their shares of the rows.
    quantiles_ : numpy.ndarray
        float64 [quantiles, columns].
    rank_error_ : float
        How far the rank of a quantile can be off, as a share of the rows, with 99% confidence.

    Examples
    --------
    >>> QuantileTransformer().fit_transform(np.array([[1.0], [100.0], [10.0]])).ravel()
    array([0. , 1. , 0.5])
    """

    _wide: ClassVar[bool] = True

    def __init__(self, *, n_quantiles: int = 1000, output_distribution: str = "uniform") -> None:
        self.n_quantiles = n_quantiles
        self.output_distribution = output_distribution

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        if self.n_quantiles < 1:
            refuse("n_quantiles", self.n_quantiles, "at least 1")
        if self.output_distribution not in ("uniform", "normal"):
            refuse("output_distribution", self.output_distribution, "'uniform' or 'normal'")

    def _needs(self) -> Mapping[str, Need]:
        return {"sample": SAMPLE}

    def _learn(self, found: Found) -> None:
        samples: Sequence[RowSample] = found["sample"]
        self.rank_error_ = max((each.rank_error for each in samples), default=0.0)
        self.n_quantiles_ = max(1, min(self.n_quantiles, *(each.num_rows for each in samples)))
        self.references_ = np.linspace(0, 1, self.n_quantiles_)
        columns = []
        for each in samples:
            values = finite_values(each)
            at = np.quantile(values, self.references_) if len(values) else np.full(self.n_quantiles_, np.nan)
            columns.append(np.maximum.accumulate(at))  # interpolation can undo their order by the last digit
        self.quantiles_ = np.stack(columns, 1)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        references = np.broadcast_to(self.references_[:, None], self.quantiles_.shape)
        return {"quantiles": self.quantiles_, "references": np.ascontiguousarray(references)}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        columns = []
        for column in range(x.shape[1]):
            # copied, because torch searches in contiguous memory
            given, quantiles, references = (
                xp.asarray(array[:, column], copy=True) for array in (x, p["quantiles"], p["references"])
            )
            columns.append(_shares(given, quantiles, references, xp))
        shares = xp.stack(columns, axis=1)
        low, high = p["quantiles"][0, :], p["quantiles"][-1, :]
        if self.output_distribution == "uniform":
            shares = xp.where(x == high, xp.ones_like(shares), shares)
            return xp.where(x == low, xp.zeros_like(shares), shares)
        shares = xp.where(x + _BOUND > high, xp.ones_like(shares), shares)
        shares = xp.where(x - _BOUND < low, xp.zeros_like(shares), shares)
        return xp.clip(_normal_quantile(shares), *_ENDS)

    def _inverse(self, y: NDArray[Any]) -> NDArray[Any]:
        from scipy.special import ndtr

        shares = ndtr(y) if self.output_distribution == "normal" else y
        bound = _BOUND if self.output_distribution == "normal" else 0.0
        columns = [np.interp(shares[:, i], self.references_, self.quantiles_[:, i]) for i in range(y.shape[1])]
        x = np.stack(columns, 1)
        x = np.where(shares + bound > 1, self.quantiles_[-1], x)
        return np.where(np.isnan(y), y, np.where(shares - bound < 0, self.quantiles_[0], x))


def _shares(x: Any, quantiles: Any, references: Any, xp: Any) -> Any:
    """Return the shares of rows below: of equal quantiles, the mean of those of the first and of the last one."""
    above = _interpolate(x, quantiles, references, xp)
    below = -_interpolate(-x, -xp.flip(quantiles, axis=0), -xp.flip(references, axis=0), xp)
    return 0.5 * (above + below)


def _interpolate(x: Any, knots: Any, values: Any, xp: Any) -> Any:
    """Interpolate linearly, as `numpy.interp` does."""
    last = knots.shape[0] - 1
    left = xp.clip(xp.searchsorted(knots, x, side="right") - 1, 0, last)
    right = xp.clip(left + 1, 0, last)
    x0, x1, y0, y1 = (xp.take(array, at, axis=0) for array in (knots, values) for at in (left, right))
    is_between = (x > x0) & (x1 > x0)
    slope = (y1 - y0) / xp.where(is_between, x1 - x0, xp.ones_like(x0))
    return xp.where(xp.isnan(x) | xp.isnan(x0), x * xp.nan, xp.where(is_between, y0 + slope * (x - x0), y0))


def _normal_quantile(shares: Any) -> Any:
    """Return the quantile function of the normal distribution, which the array API lacks."""
    if is_torch_array(shares):
        import torch

        return torch.special.ndtri(shares)
    from scipy.special import ndtri

    return ndtri(shares)


class PowerTransformer(Invertible):
    """Make each column as normal as a power can, as `sklearn.preprocessing.PowerTransformer`.

    The powers have the largest likelihood on all rows up to a million, and beyond that on a random sample of a million.
    Missing values stay missing; infinite ones do not count in the fit. A constant column gets the power 1.

    Parameters
    ----------
    method : str
        ``"yeo-johnson"``, or ``"box-cox"`` for columns of positive numbers; others are NaN when transformed.
    standardize : bool
        Whether to shift and scale the output to mean 0 and standard deviation 1.

    Attributes
    ----------
    lambdas_ : numpy.ndarray
        float64 [columns]: the powers.
    mean_, scale_ : numpy.ndarray
        float64 [columns]: of the output before it is standardised; 0 and 1 if it is not.

    Notes
    -----
    I. Yeo and R. Johnson, "A new family of power transformations to improve normality or symmetry" (2000); G. Box and
    D. Cox, "An analysis of transformations" (1964).

    Examples
    --------
    >>> PowerTransformer().fit_transform(np.array([[1.0], [3.0], [100.0]])).ravel().round(2)
    array([-1.04, -0.3 ,  1.35])
    """

    _wide: ClassVar[bool] = True

    def __init__(self, method: str = "yeo-johnson", *, standardize: bool = True) -> None:
        self.method = method
        self.standardize = standardize

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        if self.method not in ("yeo-johnson", "box-cox"):
            refuse("method", self.method, "'yeo-johnson' or 'box-cox'")

    def _needs(self) -> Mapping[str, Need]:
        return {"sample": SAMPLE}

    def _learn(self, found: Found) -> None:
        columns = [np.sort(finite_values(each)) for each in found["sample"]]  # sums then do not depend on the chunks
        with np.errstate(all="ignore"):
            self.lambdas_ = np.array([self._power(number, values) for number, values in enumerate(columns)])
            facts = []
            for power, values in zip(self.lambdas_, columns, strict=True):
                y = _power_map(values, power, 2 - power, np, self.method == "yeo-johnson")
                facts.append((y.mean(), y.var(), len(y)) if self.standardize and len(y) else (0.0, 1.0, 1))
        mean, variance, count = map(np.array, zip(*facts, strict=True))
        self.mean_, self.scale_ = mean, scale_of(mean, variance, count)

    def _power(self, number: int, values: NDArray[np.float64]) -> float:
        """Return the power of the largest likelihood."""
        from scipy import stats

        if self.method == "box-cox" and (not len(values) or values.min() <= 0):
            facts = f"has values down to {values.min()}" if len(values) else "has no values"
            remedy = "and Box-Cox needs positive ones; take method='yeo-johnson'"
            raise DataError(f"column {self.get_feature_names_out()[number]!r} {facts}, {remedy}")
        if not len(values) or is_constant(values.mean(), values.var(), np.asarray(len(values))):
            return 1.0
        if self.method == "box-cox":
            return float(stats.boxcox_normmax(values, method="mle"))
        return float(stats.yeojohnson_normmax(values))

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {"power": self.lambdas_, "other": 2 - self.lambdas_, "mean": self.mean_, "scale": self.scale_}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        y = _power_map(x, p["power"], p["other"], xp, self.method == "yeo-johnson")
        return (y - p["mean"]) / p["scale"]

    def _inverse(self, y: NDArray[Any]) -> NDArray[Any]:
        y = y * self.scale_ + self.mean_
        power = self.lambdas_
        if self.method == "box-cox":
            return np.asarray(np.exp(_log_of_power(y, power)))
        above = np.expm1(_log_of_power(np.where(y > 0, y, 0), power))
        below = np.expm1(_log_of_power(np.where(y < 0, -y, 0), 2 - power))
        return np.where(np.isnan(y), y, above - below)


def _power_map(x: Any, power: Any, other: Any, xp: Any, is_signed: bool) -> Any:
    """Raise to a power, on the logarithmic scale; with Yeo and Johnson, what is below 0 to another power."""
    if not is_signed:
        return _power_of_log(xp.log(x), power, xp)
    zero = xp.zeros_like(x)
    above = _power_of_log(xp.log1p(xp.where(x > 0, x, zero)), power, xp)
    below = _power_of_log(xp.log1p(xp.where(x < 0, -x, zero)), other, xp)
    return xp.where(xp.isnan(x), x, above - below)


def _power_of_log(log: Any, power: Any, xp: Any) -> Any:
    """Return ``(exp(log) ** power - 1) / power``, and its limit where the power is 0."""
    power = xp.asarray(power)
    is_zero = xp.abs(power) < np.finfo(np.float64).eps
    return xp.where(is_zero, log, xp.expm1(power * log) / xp.where(is_zero, xp.ones_like(power), power))


def _log_of_power(y: NDArray[Any], power: NDArray[Any]) -> NDArray[Any]:
    """Undo `_power_of_log`; NaN where no number has that power."""
    is_zero = np.abs(power) < np.finfo(np.float64).eps
    return np.where(is_zero, y, np.log1p(power * y) / np.where(is_zero, 1.0, power))


class LogTransformer(Invertible):
    """Take logarithms; nothing is learnt.

    Parameters
    ----------
    function : str
        ``"log1p"``: ``log(1 + x)``; ``"log"``: ``log(x)``; ``"signed"``: ``sign(x) * log(1 + abs(x))``, for numbers on
        both sides of 0. Where a logarithm has no value the output is NaN, and -inf at its pole.
    offset : float
        Is added to x first.

    Examples
    --------
    >>> LogTransformer("signed").fit_transform(np.array([[np.e - 1], [1 - np.e]])).ravel()
    array([ 1., -1.])
    """

    def __init__(self, function: str = "log1p", *, offset: float = 0.0) -> None:
        self.function = function
        self.offset = offset

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        if self.function not in ("log", "log1p", "signed"):
            refuse("function", self.function, "'log', 'log1p' or 'signed'")

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        x = x + self.offset
        if self.function == "signed":
            return xp.sign(x) * xp.log1p(xp.abs(x))
        return xp.log(x) if self.function == "log" else xp.log1p(x)

    def _inverse(self, y: NDArray[Any]) -> NDArray[Any]:
        if self.function == "signed":
            x = np.sign(y) * np.expm1(np.abs(y))
        else:
            x = np.exp(y) if self.function == "log" else np.expm1(y)
        return np.asarray(x - self.offset)


class Clip(Elementwise):
    """Set what lies beyond bounds to the bounds: an outlier rule that keeps the rows. Missing values stay missing.

    Parameters
    ----------
    low, high : float, optional
        The bounds; None leaves that side open.
    by : str
        ``"quantile"``: they are shares of the rows, and the bounds of each column are learnt, exactly up to a million
        rows, and beyond that from a random sample of a million. ``"value"``: they are the bounds; nothing is learnt.

    Attributes
    ----------
    low_, high_ : numpy.ndarray
        float64 [columns]: the bounds, where they were learnt; infinite on an open side.

    Examples
    --------
    >>> Clip(0, None, by="value").fit_transform(np.array([[-3.0], [1.0]])).ravel()
    array([0., 1.])
    """

    def __init__(self, low: float | None = 0.01, high: float | None = 0.99, *, by: str = "quantile") -> None:
        self.low = low
        self.high = high
        self.by = by

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        if self.by not in ("quantile", "value"):
            refuse("by", self.by, "'quantile' or 'value'")
        low, high = self._bounds()
        if not low <= high:
            refuse("low", self.low, f"at most high={self.high!r}")
        for name, share in (("low", self.low), ("high", self.high)):
            if self.by == "quantile" and share is not None and not 0 <= share <= 1:
                refuse(name, share, "a share of the rows, from 0 to 1; for a bound give by='value'")

    def _bounds(self) -> tuple[float, float]:
        """Return the bounds, or their shares; infinite where a side is open."""
        return -np.inf if self.low is None else self.low, np.inf if self.high is None else self.high

    def _needs(self) -> Mapping[str, Need]:
        return {"sample": SAMPLE} if self.by == "quantile" else {}

    def _learn(self, found: Found) -> None:
        bounds = []
        for each in found["sample"]:
            values = finite_values(each)
            shares = (self.low, self.high) if len(values) else (None, None)
            open_ends = (-np.inf, np.inf)
            bounds.append(
                [end if at is None else np.quantile(values, at) for at, end in zip(shares, open_ends, strict=True)]
            )
        self.low_, self.high_ = np.array(bounds, np.float64).T

    def _parameters(self) -> dict[str, NDArray[Any]]:
        if self.by == "quantile":
            return {"low": self.low_, "high": self.high_}
        low, high = self._bounds()
        return {"low": np.full(self.n_features_in_, low), "high": np.full(self.n_features_in_, high)}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        return xp.clip(x, p["low"], p["high"])
