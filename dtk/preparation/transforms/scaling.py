"""Scale numbers: by mean and standard deviation, range, largest value, or quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtk.preparation.transforms.base import SAMPLE, Found, Need, quantiles_of, refuse
from dtk.preparation.transforms.inverses import Invertible
from dtk.preparation.transforms.samples import finite_samples
from dtk.statistics import Moments

__all__ = ["MaxAbsScaler", "MinMaxScaler", "RobustScaler", "StandardScaler"]

_MOMENTS = Need(Moments)


class _Affine(Invertible):
    """Maps x to ``(x - center) / scale``."""

    def _center_and_scale(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return two float64 [columns]."""
        raise NotImplementedError

    def _derives(self, need: Need) -> bool:
        return super()._derives(need) or (need.statistic is Moments and not need.with_target)

    def _derive(self, need: Need, statistics: Sequence[Any]) -> list[Any]:
        if need.statistic is not Moments:
            return super()._derive(need, statistics)
        maps = zip(statistics, *self._center_and_scale(), strict=True)
        return [each.finite.affine(1 / scale, -center / scale) for each, center, scale in maps]

    def _parameters(self) -> dict[str, NDArray[Any]]:
        center, scale = self._center_and_scale()
        return {"center": center, "scale": scale}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        return (x - p["center"]) / p["scale"]

    def _inverse(self, y: NDArray[Any]) -> NDArray[Any]:
        center, scale = self._center_and_scale()
        return np.asarray(y * scale + center)


class StandardScaler(_Affine):
    """Shift and scale each column to mean 0 and standard deviation 1, as `sklearn.preprocessing.StandardScaler`.

    Missing values stay missing; infinite ones do not count in the fit.

    Parameters
    ----------
    with_mean : bool
        Whether to subtract the mean.
    with_std : bool
        Whether to divide by the standard deviation (of the population); constant columns are divided by 1.

    Attributes
    ----------
    mean_, var_, scale_ : numpy.ndarray
        float64 [columns].

    Examples
    --------
    >>> StandardScaler().fit_transform(np.array([[1.0], [3.0], [np.nan]])).ravel()
    array([-1.,  1., nan])
    """

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.with_std = with_std

    def _needs(self) -> Mapping[str, Need]:
        return {"moments": _MOMENTS} if self.with_mean or self.with_std else {}

    def _learn(self, found: Found) -> None:
        moments = [each.finite for each in found["moments"]]
        self.n_samples_seen_ = np.array([each.count for each in moments])
        self.mean_ = np.array([each.mean for each in moments])
        self.var_ = np.array([each.variance for each in moments])
        self.scale_ = scale_of(self.mean_, self.var_, self.n_samples_seen_)

    def _center_and_scale(self) -> tuple[NDArray[Any], NDArray[Any]]:
        width = self.n_features_in_
        return (
            self.mean_ if self.with_mean else np.zeros(width),
            self.scale_ if self.with_std else np.ones(width),
        )


def is_constant(mean: Any, variance: Any, count: Any) -> Any:
    """Tell whether what there is of a variance comes from rounding, as scikit-learn decides it.

    Parameters
    ----------
    mean, variance, count : array
        Of columns, float64 [columns], or of one.

    Returns
    -------
    numpy.ndarray
        bool [columns].
    """
    epsilon = np.finfo(np.float64).eps
    with np.errstate(over="ignore"):
        return (variance <= count * epsilon * variance + (count * mean * epsilon) ** 2) | (variance == 0)


def scale_of(mean: NDArray[Any], variance: NDArray[Any], count: NDArray[Any]) -> NDArray[Any]:
    """Return what to divide by.

    Parameters
    ----------
    mean, variance, count : numpy.ndarray
        Of columns, float64 [columns].

    Returns
    -------
    numpy.ndarray
        float64 [columns]: the standard deviations, and 1 for constants.
    """
    return np.where(is_constant(mean, variance, count), 1.0, np.sqrt(variance))


class MinMaxScaler(_Affine):
    """Shift and scale each column to a range, as `sklearn.preprocessing.MinMaxScaler`.

    Parameters
    ----------
    feature_range : tuple of float
        The wanted range.
    clip : bool
        Whether values beyond those of the fit are set to the ends of the range.

    Attributes
    ----------
    data_min_, data_max_, data_range_, min_, scale_ : numpy.ndarray
        float64 [columns].

    Examples
    --------
    >>> MinMaxScaler().fit_transform(np.array([[1.0], [3.0], [2.0]])).ravel()
    array([0. , 1. , 0.5])
    """

    def __init__(self, feature_range: tuple[float, float] = (0, 1), *, clip: bool = False) -> None:
        self.feature_range = feature_range
        self.clip = clip

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        if not self.feature_range[0] < self.feature_range[1]:
            refuse("feature_range", self.feature_range, "(low, high) with low < high")

    def _needs(self) -> Mapping[str, Need]:
        return {"moments": _MOMENTS}

    def _learn(self, found: Found) -> None:
        moments = [each.finite for each in found["moments"]]
        self.data_min_ = np.array([float(each.min) for each in moments])
        self.data_max_ = np.array([float(each.max) for each in moments])
        self.data_range_ = self.data_max_ - self.data_min_
        low, high = self.feature_range
        self.scale_ = (high - low) / _not_zero(self.data_range_)
        self.min_ = low - self.data_min_ * self.scale_

    def _center_and_scale(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return -self.min_ / self.scale_, 1 / self.scale_

    def _derives(self, need: Need) -> bool:
        return super()._derives(need) and (need.statistic is not Moments or not self.clip)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {"scale": self.scale_, "min": self.min_}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        scaled = x * p["scale"] + p["min"]
        return xp.clip(scaled, *map(float, self.feature_range)) if self.clip else scaled


class MaxAbsScaler(_Affine):
    """Scale each column by its largest absolute value, as `sklearn.preprocessing.MaxAbsScaler`.

    Attributes
    ----------
    max_abs_, scale_ : numpy.ndarray
        float64 [columns].

    Examples
    --------
    >>> MaxAbsScaler().fit_transform(np.array([[1.0], [-4.0]])).ravel()
    array([ 0.25, -1.  ])
    """

    def _needs(self) -> Mapping[str, Need]:
        return {"moments": _MOMENTS}

    def _learn(self, found: Found) -> None:
        moments = [each.finite for each in found["moments"]]
        self.max_abs_ = np.array([max(abs(float(each.min)), abs(float(each.max))) for each in moments])
        self.scale_ = _not_zero(self.max_abs_)

    def _center_and_scale(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.zeros(self.n_features_in_), self.scale_


class RobustScaler(_Affine):
    """Shift each column by its median and scale it by a range of quantiles, as `sklearn.preprocessing.RobustScaler`.

    Quantiles are exact up to a million rows, and beyond that those of a random sample of a million. Missing values stay
    missing; infinite ones do not count in the fit.

    Parameters
    ----------
    with_centering : bool
        Whether to subtract the median.
    with_scaling : bool
        Whether to divide by the range between the quantiles.
    quantile_range : tuple of float
        Their percentages.
    unit_variance : bool
        Whether normally distributed columns come out with variance 1.

    Attributes
    ----------
    center_, scale_ : numpy.ndarray or None
        float64 [columns].
    rank_error_ : float
        How far the rank of a quantile can be off, as a share of the rows, with 99% confidence.

    Examples
    --------
    >>> RobustScaler().fit_transform(np.array([[1.0], [2.0], [3.0]])).ravel()
    array([-1.,  0.,  1.])
    """

    def __init__(
        self,
        *,
        with_centering: bool = True,
        with_scaling: bool = True,
        quantile_range: tuple[float, float] = (25.0, 75.0),
        unit_variance: bool = False,
    ) -> None:
        self.with_centering = with_centering
        self.with_scaling = with_scaling
        self.quantile_range = quantile_range
        self.unit_variance = unit_variance

    def _check(self, names: Any, types: Any) -> None:
        super()._check(names, types)
        low, high = self.quantile_range
        if not 0 <= low <= high <= 100:
            refuse("quantile_range", self.quantile_range, "two percentages, the lower one first")

    def _needs(self) -> Mapping[str, Need]:
        return {"sample": SAMPLE} if self.with_centering or self.with_scaling else {}

    def _learn(self, found: Found) -> None:
        samples = finite_samples(found["sample"])
        low, high = self.quantile_range
        found_at = quantiles_of(samples, [low / 100, 0.5, high / 100])
        self.rank_error_ = max((each.rank_error for each in samples), default=0.0)
        self.center_ = found_at[:, 1] if self.with_centering else None
        self.scale_ = None
        if self.with_scaling:
            self.scale_ = _not_zero(found_at[:, 2] - found_at[:, 0])
            if self.unit_variance:
                from scipy.stats import norm

                self.scale_ = self.scale_ / (norm.ppf(high / 100) - norm.ppf(low / 100))

    def _center_and_scale(self) -> tuple[NDArray[Any], NDArray[Any]]:
        center = getattr(self, "center_", None)
        scale = getattr(self, "scale_", None)
        width = self.n_features_in_
        return np.zeros(width) if center is None else center, np.ones(width) if scale is None else scale


def _not_zero(scale: NDArray[Any]) -> NDArray[Any]:
    """Replace what scikit-learn takes for zero by 1."""
    return np.where(scale < 10 * np.finfo(np.float64).eps, 1.0, scale)
