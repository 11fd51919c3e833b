"""Transformers of scikit-learn that have no twin here: those that apply row by row from plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms.base import SAMPLE, Found, Need, Transform
from dtk.preparation.transforms.state import decode, encode
from dtk.statistics import to_floats

__all__ = ["CARRIED", "SklearnTransform"]

_DECOMPOSED: Final = ("components_", "explained_variance_", "explained_variance_ratio_", "singular_values_")
CARRIED: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "AdditiveChi2Sampler": ("kernel_approximation", ()),
    "Binarizer": ("preprocessing", ()),
    "FastICA": ("decomposition", ("components_", "mixing_", "mean_", "whitening_", "n_iter_", "_whiten")),
    "GaussianRandomProjection": (
        "random_projection",
        ("components_", "n_components_", "inverse_components_", "_n_features_out"),
    ),
    "IncrementalPCA": (
        "decomposition",
        (*_DECOMPOSED, "mean_", "var_", "noise_variance_", "n_components_", "n_samples_seen_", "batch_size_"),
    ),
    "Normalizer": ("preprocessing", ()),
    "Nystroem": ("kernel_approximation", ("components_", "normalization_", "component_indices_", "_n_features_out")),
    "PCA": ("decomposition", (*_DECOMPOSED, "mean_", "noise_variance_", "n_components_", "n_samples_")),
    "PolynomialCountSketch": ("kernel_approximation", ("indexHash_", "bitHash_", "_n_features_out")),
    "PolynomialFeatures": ("preprocessing", ()),
    "RBFSampler": ("kernel_approximation", ("random_weights_", "random_offset_", "_n_features_out")),
    "SkewedChi2Sampler": ("kernel_approximation", ("random_weights_", "random_offset_", "_n_features_out")),
    "SplineTransformer": ("preprocessing", ("bsplines_", "n_features_out_")),
    "TruncatedSVD": ("decomposition", _DECOMPOSED),
    "VarianceThreshold": ("feature_selection", ("variances_",)),
}
"""The module of each class, and the fitted attributes that it needs; none for those that learn nothing."""

_LINEAR: Final = ("FastICA", "GaussianRandomProjection", "IncrementalPCA", "PCA", "TruncatedSVD")
_ON_DEVICE: Final = (*_LINEAR, "Binarizer", "Normalizer", "PolynomialFeatures", "VarianceThreshold")


class SklearnTransform(Transform):
    """A transformer of scikit-learn: one of a list, see Notes, that is carried as JSON and not as a pickle.

    It is fitted to all rows up to a million, and beyond that to a random sample of a million. Fitting refuses missing
    values; when it is applied, a row with a missing or infinite value comes out as NaN.

    Parameters
    ----------
    estimator : sklearn.base.TransformerMixin
        One of the list; left unfitted. Where its ``random_state`` is None, 0 is taken, so that fits can be repeated.

    Attributes
    ----------
    estimator_ : sklearn.base.TransformerMixin
        The fitted one; not there for those that learn nothing.
    is_exact_ : bool
        Whether it was fitted to all rows.

    Notes
    -----
    The list: AdditiveChi2Sampler, Binarizer, FastICA, GaussianRandomProjection, IncrementalPCA, Normalizer, Nystroem,
    PCA, PolynomialCountSketch, PolynomialFeatures, RBFSampler, SkewedChi2Sampler, SplineTransformer, TruncatedSVD and
    VarianceThreshold. Linear maps, Binarizer, Normalizer, PolynomialFeatures and VarianceThreshold run on the device of
    the batch; the others while encoding.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> SklearnTransform(PCA(1)).fit_transform(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])).ravel().round(2)
    array([-1.41,  0.  ,  1.41])
    """

    _wide: ClassVar[bool] = True

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def _check(self, names: Any, types: Any) -> None:
        check_carried(self.estimator)
        super()._check(names, types)

    def _needs(self) -> Mapping[str, Need]:
        check_carried(self.estimator)
        return {"sample": SAMPLE} if CARRIED[type(self.estimator).__name__][1] else {}

    def _learn(self, found: Found) -> None:
        x = np.stack([to_floats(each.values) for each in found["sample"]], 1)
        is_lacking = ~np.isfinite(x).all(axis=0)
        if is_lacking.any():
            column = _check_feature_names_in(self, None)[is_lacking.argmax()]
            raise DataError(
                f"column {column!r} has missing (NaN) or infinite values, and {type(self.estimator).__name__} cannot "
                "learn from them; put a SimpleImputer or Clip before it"
            )
        self.is_exact_ = all(each.is_exact for each in found["sample"])
        self.estimator_ = self._made().fit(x)

    def _made(self) -> Any:
        made = clone(self.estimator).set_output(transform="default")
        if made.get_params().get("random_state", 0) is None:
            made.set_params(random_state=0)
        return made

    @property
    def _fitted(self) -> Any:
        """The fitted estimator; those that learn nothing need to know how many columns there are."""
        if hasattr(self, "estimator_"):
            return self.estimator_
        return self._made().fit(np.zeros((1, self.n_features_in_)))

    @property
    def _on_device(self) -> bool:  # type: ignore[override]
        return type(self.estimator).__name__ in _ON_DEVICE

    def _parameters(self) -> dict[str, NDArray[Any]]:
        name = type(self.estimator).__name__
        if name in _LINEAR:
            return _center_and_matrix(self._fitted)
        if name == "PolynomialFeatures":
            return {"factors": _factors(self._fitted.powers_)}
        return {"kept": self._fitted.get_support(indices=True)} if name == "VarianceThreshold" else {}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        name = type(self.estimator).__name__
        if name in _LINEAR:
            return (x - p["center"]) @ p["matrix"]
        if name == "PolynomialFeatures":
            return _products(x, p["factors"], xp)
        if name == "VarianceThreshold":
            return xp.take(x, p["kept"], axis=1)
        if name == "Normalizer":
            return _normalized(x, self.estimator.norm, xp)
        if name == "Binarizer":
            return xp.where(xp.isnan(x), x, xp.astype(x > self.estimator.threshold, x.dtype))
        is_complete = np.isfinite(x).all(axis=1)
        result = np.full((len(x), len(self.get_feature_names_out())), np.nan)
        if is_complete.any():
            result[is_complete] = self._fitted.transform(x[is_complete])
        return result

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Undo `transform`, where scikit-learn can.

        Parameters
        ----------
        X : array
            Shape [rows, features].

        Returns
        -------
        numpy.ndarray
            Float [rows, columns].

        Raises
        ------
        ArgumentError
            If it has no inverse.
        """
        check_is_fitted(self)
        if not hasattr(self.estimator, "inverse_transform"):
            raise ArgumentError(f"{type(self.estimator).__name__} has no inverse")
        return np.asarray(self._fitted.inverse_transform(np.asarray(X)))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        return np.asarray(self._fitted.get_feature_names_out(names), dtype=object)

    def to_dict(self) -> dict[str, Any]:
        """See `Transform`."""
        name = type(self.estimator).__name__
        check_carried(self.estimator)
        fitted = {key: value for key, value in vars(self).items() if key[-1] == "_" and key != "estimator_"}
        learnt = vars(getattr(self, "estimator_", None) or BaseEstimator())
        attributes = {key: _packed(key, learnt[key]) for key in CARRIED[name][1] if key in learnt}
        return {
            "as": "SklearnTransform",
            "estimator": name,
            "parameters": encode(self.estimator.get_params(deep=False)),
            "fitted": encode(fitted),
            "attributes": encode(attributes),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """See `Transform`."""
        name = state["estimator"]
        if name not in CARRIED:
            raise ArgumentError(f"estimator={name!r} is none that dtk carries: {', '.join(CARRIED)}")
        kind = getattr(import_module(f"sklearn.{CARRIED[name][0]}"), name)
        made = cls(kind(**decode(state["parameters"])))
        for key, value in decode(state["fitted"]).items():
            setattr(made, key, value)
        attributes = decode(state["attributes"])
        if attributes:
            made.estimator_ = made._made()
            made.estimator_.n_features_in_ = made.n_features_in_
            for key in CARRIED[name][1]:
                if key in attributes:
                    setattr(made.estimator_, key, _unpacked(key, attributes[key]))
        return made


def check_carried(estimator: Any) -> None:
    """Refuse what is not on the list.

    Parameters
    ----------
    estimator : object
        What a user gave.

    Raises
    ------
    ArgumentError
        If dtk cannot carry it.
    """
    name = type(estimator).__name__
    if name not in CARRIED or not type(estimator).__module__.startswith("sklearn."):
        raise ArgumentError(
            f"{name} has no twin in dtk.preparation, and is none of the transformers of scikit-learn that dtk carries "
            f"({', '.join(CARRIED)}); leave it out, or write it as a subclass of dtk.preparation.transforms.Transform"
        )


def _packed(name: str, value: Any) -> Any:
    """Take splines apart: their knots, coefficients, degree, and what they do beyond their ends."""
    return [(each.t, each.c, int(each.k), each.extrapolate) for each in value] if name == "bsplines_" else value


def _unpacked(name: str, value: Any) -> Any:
    if name != "bsplines_":
        return value
    from scipy.interpolate import BSpline

    return [BSpline(*parts) for parts in value]


def _center_and_matrix(fitted: Any) -> dict[str, NDArray[Any]]:
    matrix = np.asarray(fitted.components_, np.float64).T
    if getattr(fitted, "whiten", False) is True:  # that of FastICA is text, and its components are white
        scale = np.sqrt(fitted.explained_variance_)
        matrix = matrix / np.maximum(scale, np.finfo(scale.dtype).eps)
    mean = getattr(fitted, "mean_", None)
    return {"center": np.zeros(len(matrix)) if mean is None else np.asarray(mean, np.float64), "matrix": matrix}


def _factors(powers: NDArray[Any]) -> NDArray[np.int64]:
    """Return the columns that are multiplied for each output; the one after the last stands for 1."""
    degree, width = max(1, int(powers.sum(axis=1).max(initial=0))), powers.shape[1]
    factors = np.full((len(powers), degree), width, np.int64)
    for row, each in zip(factors, powers, strict=True):
        chosen = np.repeat(np.arange(width), each)
        row[: len(chosen)] = chosen
    return factors


def _products(x: Any, factors: Any, xp: Any) -> Any:
    with_one = xp.concat([x, xp.ones_like(x[:, :1])], axis=1)
    product = xp.take(with_one, factors[:, 0], axis=1)
    for position in range(1, factors.shape[1]):
        product = product * xp.take(with_one, factors[:, position], axis=1)
    return product


def _normalized(x: Any, kind: str, xp: Any) -> Any:
    if kind == "l2":
        norm = xp.sqrt(xp.sum(x * x, axis=1, keepdims=True))
    else:
        norm = (xp.sum if kind == "l1" else xp.max)(xp.abs(x), axis=1, keepdims=True)
    return x / xp.where(norm == 0, xp.ones_like(norm), norm)
