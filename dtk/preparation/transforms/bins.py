"""Cut numbers into bins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError
from dtk.preparation.schema import positional_names
from dtk.preparation.transforms.base import SAMPLE, Elementwise, Found, Need, refuse
from dtk.preparation.transforms.inverses import checked_features, columns_as_array, positions_of
from dtk.preparation.transforms.samples import finite_values
from dtk.statistics import Moments

__all__ = ["Binarizer", "KBinsDiscretizer"]

_METHODS: Final = (
    "averaged_inverted_cdf",
    "inverted_cdf",
    "closest_observation",
    "interpolated_inverted_cdf",
    "hazen",
    "weibull",
    "linear",
    "median_unbiased",
    "normal_unbiased",
)
_SMALLEST_WIDTH: Final = 1e-8


class KBinsDiscretizer(Elementwise):
    """Replace numbers by their bin, as `sklearn.preprocessing.KBinsDiscretizer`.

    Quantiles are exact up to a million rows, and beyond that those of a random sample of a million. Infinite values do
    not count in the fit, and fall into the outer bins. Missing values stay missing, or are in no bin. In a composition
    bins are found while encoding, in float64: in float32 numbers near an edge would fall into the next one.

    Parameters
    ----------
    n_bins : int or list of int
        Of all columns, or of each; at least 2.
    encode : str
        ``"onehot-dense"``: a column of 0 and 1 a bin; or ``"ordinal"``: the number of the bin.
    strategy : str
        ``"quantile"``: as many rows in each bin; or ``"uniform"``: bins of the same width.
    quantile_method : str
        One of those of `numpy.quantile`.

    Attributes
    ----------
    bin_edges_ : list of numpy.ndarray
        float64 [bins + 1]: of each column.
    n_bins_ : numpy.ndarray
        int64 [columns]: fewer than were asked for where edges fall together.

    Examples
    --------
    >>> bins = KBinsDiscretizer(2, encode="ordinal", strategy="uniform")
    >>> bins.fit_transform(np.array([[1.0], [9.0], [4.0], [np.nan]])).ravel()
    array([ 0.,  1.,  0., nan])
    """

    _jumps = True

    def __init__(
        self,
        n_bins: int | Sequence[int] = 5,
        *,
        encode: str = "onehot-dense",
        strategy: str = "quantile",
        quantile_method: str = "averaged_inverted_cdf",
    ) -> None:
        self.n_bins = n_bins
        self.encode = encode
        self.strategy = strategy
        self.quantile_method = quantile_method

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        super()._check(names, types)
        if self.strategy == "kmeans":
            raise ArgumentError(
                "strategy='kmeans' needs many passes over the data; give 'quantile' or 'uniform', or fit "
                "scikit-learn's on a sample"
            )
        if self.strategy not in ("quantile", "uniform"):
            refuse("strategy", self.strategy, "'quantile' or 'uniform'")
        if self.encode == "onehot":
            raise ArgumentError("encode='onehot' is sparse, and batches are dense; give 'onehot-dense' or 'ordinal'")
        if self.encode not in ("onehot-dense", "ordinal"):
            refuse("encode", self.encode, "'onehot-dense' or 'ordinal'")
        if self.quantile_method not in _METHODS:
            refuse("quantile_method", self.quantile_method, f"one of {', '.join(map(repr, _METHODS))}")
        counts = np.atleast_1d(np.asarray(self.n_bins))
        if counts.dtype.kind not in "iu" or (counts < 2).any():
            refuse("n_bins", self.n_bins, "2 or more")
        if np.ndim(self.n_bins) and len(counts) != len(names):
            raise ArgumentError(f"n_bins has {len(counts)} numbers for {len(names)} columns")

    def _needs(self) -> Mapping[str, Need]:
        return {"values": SAMPLE if self.strategy == "quantile" else Need(Moments)}

    def _learn(self, found: Found) -> None:
        width = len(found["values"])
        wanted = np.broadcast_to(np.asarray(self.n_bins, np.int64), width)
        names = list(getattr(self, "feature_names_in_", positional_names(width)))
        self.bin_edges_ = [
            self._edges(name, statistic, int(count))
            for name, statistic, count in zip(names, found["values"], wanted, strict=True)
        ]
        self.n_bins_ = np.array([len(edges) - 1 for edges in self.bin_edges_], np.int64)

    def _edges(self, name: str, statistic: Any, n_bins: int) -> NDArray[np.float64]:
        if self.strategy == "quantile":
            values = finite_values(statistic)
            low, high = (values.min(), values.max()) if len(values) else (np.nan, np.nan)
        else:
            moments = statistic.finite
            low, high = float(moments.min), float(moments.max)
        edges = np.empty(0)
        if low < high and self.strategy == "uniform":
            edges = np.linspace(low, high, n_bins + 1)
        elif low < high:
            levels = np.linspace(0, 100, n_bins + 1)
            edges = np.percentile(values, levels, method=self.quantile_method)  # type: ignore[call-overload]
            edges = edges[np.ediff1d(edges, to_begin=np.inf) > _SMALLEST_WIDTH]
        if len(edges) < 2:
            warnings.warn(f"column {name!r} is constant; it has one bin", UserWarning, stacklevel=2)
            return np.array([-np.inf, np.inf])
        if len(edges) - 1 < n_bins:
            warnings.warn(
                f"column {name!r} has {len(edges) - 1} bins, since others would be narrower than {_SMALLEST_WIDTH}; "
                "give a smaller n_bins",
                UserWarning,
                stacklevel=2,
            )
        return np.asarray(edges, np.float64)

    def _derives(self, need: Need) -> bool:
        return self.encode == "ordinal" and super()._derives(need)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        num_inner = int(self.n_bins_.max(initial=1)) - 1
        edges = np.full((num_inner, len(self.bin_edges_)), np.inf)
        for column, own in enumerate(self.bin_edges_):
            edges[: len(own) - 2, column] = own[1:-1]
        found: dict[str, NDArray[Any]] = {"edges": edges, "last": self.n_bins_ - 1.0}
        if self.encode != "ordinal":
            found["column"] = np.repeat(np.arange(len(self.n_bins_)), self.n_bins_)
            found["slot"] = np.concatenate([np.empty(0), *map(np.arange, self.n_bins_)]).astype(np.float64)
        return found

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        last = p["last"]
        codes = xp.zeros_like(x * last)
        for number in range(p["edges"].shape[0]):
            codes = codes + xp.astype(x >= p["edges"][number, :], last.dtype)
        codes = xp.where(codes > last, last, codes)  # infinity is beyond the edges that fill up, too
        codes = xp.where(xp.isnan(x), x, codes)
        if self.encode == "ordinal":
            return codes
        return xp.astype(xp.take(codes, p["column"], axis=1) == p["slot"], last.dtype)

    def inverse_transform(self, X: Any) -> NDArray[np.float64]:
        """Return the middles of bins.

        Parameters
        ----------
        X : array
            What `transform` returns, in memory.

        Returns
        -------
        numpy.ndarray
            float64 [rows, columns]; NaN where missing or in no bin, and for constant columns, whose bin has no end.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If it has another number of columns than the output, or there is no such bin.
        """
        check_is_fitted(self)
        num_bins = self.n_bins_.tolist()
        is_ordinal = self.encode == "ordinal"
        X = checked_features(X, len(num_bins) if is_ordinal else sum(num_bins)).astype(np.float64)
        stops = np.cumsum(num_bins)
        middles = []
        for column, (edges, count) in enumerate(zip(self.bin_edges_, num_bins, strict=True)):
            own = X[:, column] if is_ordinal else X[:, stops[column] - count : stops[column]]
            is_missing = np.isnan(own) if is_ordinal else ~own.any(axis=1)
            codes = own if is_ordinal else own.argmax(axis=1)
            chosen = positions_of(self, column, np.where(is_missing, 0, codes), count)
            with np.errstate(invalid="ignore"):
                centers = (edges[1:] + edges[:-1]) * 0.5
            middles.append(np.where(is_missing, np.nan, centers[chosen]))
        return columns_as_array(middles)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        names: NDArray[Any] = _check_feature_names_in(self, input_features)
        if self.encode == "ordinal":
            return names
        pairs = zip(names, self.n_bins_.tolist(), strict=True)
        return np.array([f"{name}_{float(each)}" for name, count in pairs for each in range(count)], dtype=object)


class Binarizer(Elementwise):
    """Replace numbers by whether they are larger than a threshold, as `sklearn.preprocessing.Binarizer`.

    Missing values stay missing; nothing is learnt.

    Parameters
    ----------
    threshold : float
        Numbers beyond it become 1, all others 0.

    Examples
    --------
    >>> Binarizer(threshold=2.0).fit_transform(np.array([[1.0], [2.0], [3.0]])).ravel()
    array([0., 0., 1.])
    """

    _jumps = True

    def __init__(self, *, threshold: float = 0.0) -> None:
        self.threshold = threshold

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {"threshold": np.full(self.n_features_in_, float(self.threshold))}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        over = xp.astype(x > p["threshold"], p["threshold"].dtype)
        return xp.where(xp.isnan(x), x, over)
