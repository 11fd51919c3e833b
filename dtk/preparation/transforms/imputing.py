"""Fill in missing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms.base import SAMPLE, Columns, Elementwise, Found, Need, quantiles_of, refuse
from dtk.preparation.values import check_type, vocabulary_keys
from dtk.statistics import Categories, Moments, infer_kind

__all__ = ["SimpleImputer"]

_STRATEGIES: Final = ("mean", "median", "most_frequent", "constant")


class SimpleImputer(Elementwise):
    """Fill in missing values: null, NaN and None, as `sklearn.impute.SimpleImputer`.

    Medians are exact up to a million rows, and beyond that those of a random sample of a million. A column without any
    value at fit is left out.

    Parameters
    ----------
    strategy : str
        ``"mean"`` or ``"median"``, for numbers; ``"most_frequent"`` or ``"constant"``, for numbers or categories.
    fill_value : float or str, optional
        The constant; 0 for numbers and ``"missing_value"`` for categories by default.
    add_indicator : bool
        Whether to add a column of 0 and 1 for each one that had missing values at fit; for numbers.
    keep_empty_features : bool
        Whether to keep columns without any value at fit, filled with the constant, or with 0.

    Attributes
    ----------
    statistics_ : numpy.ndarray
        float64 or object [columns]: what missing values are replaced by.

    Examples
    --------
    >>> SimpleImputer().fit_transform(np.array([[1.0], [np.nan], [3.0]])).ravel()
    array([1., 2., 3.])
    """

    _kind = "any"

    kept_: list[int]
    indicated_: list[int]

    def __init__(
        self,
        *,
        strategy: str = "mean",
        fill_value: Any = None,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
    ) -> None:
        self.strategy = strategy
        self.fill_value = fill_value
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        if self.strategy not in _STRATEGIES:
            refuse("strategy", self.strategy, f"one of {', '.join(map(repr, _STRATEGIES))}")
        kinds = {infer_kind(found) for found in types if not pa.types.is_null(found)}
        self.is_category_ = not kinds <= {"number", "boolean"}
        wanted = "category" if self.is_category_ else "number"
        if self.is_category_ and (self.strategy in ("mean", "median") or self.add_indicator):
            wanted = "number"  # refused where a column is none
        for name, found in zip(names, types, strict=True):
            check_type(name, found, wanted)
        if self.strategy == "constant":
            for name, found in zip(names, types, strict=True):
                self._check_constant(name, found)

    def _check_constant(self, name: str, found: pa.DataType) -> None:
        if self.is_category_:
            try:
                check_type(name, found, "category", vocabulary_keys([self._constant]).type)
                return
            except DataError:
                pass
        elif not isinstance(self.fill_value, str):
            return
        raise ArgumentError(f"fill_value={self._constant!r} does not fit {name!r}, which holds {found}")

    @property
    def _constant(self) -> Any:
        """What columns without any value are filled with, and all of them where that is the strategy."""
        return self.fill_value if self.fill_value is not None else ("missing_value" if self.is_category_ else 0)

    @property
    def _cleans(self) -> bool:  # type: ignore[override]
        return bool(getattr(self, "is_category_", False))

    def _check_again(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        for name, found in zip(names, types, strict=True):
            check_type(name, found, "category" if self.is_category_ else "number")

    @property
    def _is_known(self) -> bool:
        """Whether nothing is learnt: all columns are kept, and filled with the constant."""
        return self.strategy == "constant" and self.keep_empty_features and not self.add_indicator

    def _begin(self, names: Sequence[str]) -> None:
        super()._begin(names)
        if self._is_known:
            dtype = object if self._cleans else np.float64
            self.statistics_ = np.full(self.n_features_in_, self._constant, dtype)
            self.kept_ = list(range(self.n_features_in_))
            self.indicated_ = []

    def _needs(self) -> Mapping[str, Need]:
        if self._is_known:
            return {}
        if self.strategy == "most_frequent" or self._cleans:
            return {"counts": Need(Categories)}
        return {"values": SAMPLE if self.strategy == "median" else Need(Moments)}

    def _learn(self, found: Found) -> None:
        (statistics,) = found.values()
        fills = self._fills(statistics)
        kept = [self.keep_empty_features or fill is not None for fill in fills]
        self.statistics_ = np.array(
            [self._constant if fill is None or self.strategy == "constant" else fill for fill in fills],
            dtype=object if self._cleans else np.float64,
        )
        self.kept_ = np.flatnonzero(kept).tolist()
        missing = [_num_missing(each) > 0 for each in statistics] if self.add_indicator else []
        self.indicated_ = np.flatnonzero(missing).tolist()

    def _fills(self, statistics: Sequence[Any]) -> list[Any]:
        """Return what the values of each column say; None where there is none."""
        if isinstance(statistics[0], Categories):
            return [top[0][0] if top else None for top in (each.top(1) for each in statistics)]
        if isinstance(statistics[0], Moments):
            values = [each.finite.mean for each in statistics]
        else:
            values = quantiles_of(statistics, [0.5])[:, 0].tolist()
        return [None if np.isnan(value) else value for value in values]

    @property
    def _keeps_columns(self) -> bool:
        return len(self.kept_) == self.n_features_in_ and not self.indicated_

    def _derives(self, need: Need) -> bool:
        return not (self.add_indicator or need.with_target)

    def _derive(self, need: Need, statistics: Sequence[Any]) -> list[Any]:
        return [statistics[column].filled(self.statistics_[column]) for column in self.kept_]

    def _clean(self, columns: Columns) -> list[pa.ChunkedArray]:
        return [_filled(columns[number], self.statistics_[number]) for number in self.kept_]

    def _parameters(self) -> dict[str, NDArray[Any]]:
        kept, indicated = np.array(self.kept_, np.int64), np.array(self.indicated_, np.int64)
        return {"statistics": self.statistics_, "kept": kept, "indicated": indicated}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        missing = xp.isnan(x)
        filled = xp.where(missing, p["statistics"], x)
        if len(self.kept_) < self.n_features_in_:
            filled = xp.take(filled, p["kept"], axis=1)
        if not self.indicated_:
            return filled
        indicators = xp.take(missing, p["indicated"], axis=1)
        return xp.concat([filled, xp.astype(indicators, filled.dtype)], axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        return np.concatenate(
            [names[self.kept_], np.array([f"missingindicator_{names[i]}" for i in self.indicated_], object)]
        )


def _num_missing(statistic: Any) -> int:
    if isinstance(statistic, Moments | Categories):
        return statistic.missing
    return int(np.isnan(statistic._numbers()).sum())


def _filled(column: pa.ChunkedArray, value: Any) -> pa.ChunkedArray:
    """Replace nulls and NaN."""
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if pa.types.is_null(plain.type):
        plain = plain.cast(pa.scalar(value).type)
    if pa.types.is_floating(plain.type):
        plain = pc.if_else(pc.is_nan(plain), pa.scalar(None, plain.type), plain)
    return pc.fill_null(plain, pa.array([value]).cast(plain.type)[0])  # a date is known by its text
