"""Replace categories by what the target is there, without showing a row its own target."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.target import refuse_missing
from dtk.preparation.transforms.base import Columns, Found, Need, refuse
from dtk.preparation.transforms.vocabularies import TableEncoder, array_of, has_missing
from dtk.statistics import TargetByCategory
from dtk.statistics.target_by_category import fold_of

__all__ = ["TargetEncoder"]

_TYPES = ("auto", "continuous", "binary", "multiclass")
_Moments = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


class TargetEncoder(TableEncoder):
    """Replace categories by the mean of the target there, shrunk to that of all, as `sklearn`'s ``TargetEncoder``.

    `fit_transform` is cross-fitted: each row gets what was learnt from the rows of other folds, so that a category
    that says nothing of the target does not predict it. Rows are dealt to folds by a hash of their number, and never
    by their contents. ``fit(X, y).transform(X)`` shows rows their own target: use it for new data only. A `dtk.Loader`
    of the data of the fit encodes out of fold, too.

    Missing values are a category of their own. Values not seen at fit become the mean of the target.

    Parameters
    ----------
    target_type : str
        ``"continuous"``, ``"binary"``, ``"multiclass"``, or ``"auto"``: continuous for numbers that are not all whole,
        else by the number of classes.
    smooth : float or str
        How many rows with the mean of the target are added to each category; ``"auto"`` for an empirical Bayes
        estimate.
    cv : int
        In how many folds the rows are dealt.
    random_state : int
        Another one deals them otherwise.
    max_size : int
        Most categories that are counted; the rest of a column that has more of them is taken for unseen, which is said.

    Attributes
    ----------
    categories_ : list of numpy.ndarray
        Of each column, sorted; the last one is NaN where values were missing.
    encodings_ : list of numpy.ndarray
        float64 [categories]: of each column, or of each column and class.
    target_type_ : str
        What the target was found to be.
    target_mean_ : float or numpy.ndarray
        Of the target, or float64 [classes]: the share of each.
    classes_ : numpy.ndarray or None
        Of a target of classes, sorted.
    cut_ : list of str
        What was not counted, in words; empty where all was.

    Notes
    -----
    Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes in classification and prediction
    problems" (2001), equations 5 to 7.

    Examples
    --------
    >>> encoder = TargetEncoder(smooth=1.0).fit(np.array([["UA"], ["AA"], ["UA"]]), np.array([0.5, 2.0, 1.5]))
    >>> encoder.encodings_[0].round(3).tolist(), encoder.transform(np.array([["DL"]])).round(3).tolist()
    ([1.667, 1.111], [[1.333]])
    """

    def __init__(
        self,
        *,
        target_type: str = "auto",
        smooth: float | str = "auto",
        cv: int = 5,
        random_state: int = 0,
        max_size: int = 100_000,
    ) -> None:
        self.target_type = target_type
        self.smooth = smooth
        self.cv = cv
        self.random_state = random_state
        self.max_size = max_size

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        super()._check(names, types)
        if self.target_type not in _TYPES:
            refuse("target_type", self.target_type, f"one of {', '.join(map(repr, _TYPES))}")
        if self.smooth != "auto" and not (isinstance(self.smooth, Real) and self.smooth >= 0):
            refuse("smooth", self.smooth, "'auto' or a number from 0 on")
        if not (isinstance(self.cv, Integral) and self.cv >= 2):
            refuse("cv", self.cv, "a number of folds, 2 or more; splitters of scikit-learn need all rows at once")

    def _needs(self) -> Mapping[str, Need]:
        options = (("num_folds", self.cv), ("seed", self.random_state), ("max_size", self.max_size))
        return {"targets": Need(TargetByCategory, options, with_target=True)}

    @property
    def _is_cross_fitted(self) -> bool:
        return True

    def _learn(self, found: Found) -> None:
        statistics: Sequence[TargetByCategory] = found["targets"]
        refuse_missing("y", statistics[0].missing_targets)
        self.target_type_ = self._type_of(statistics[0])
        self.classes_ = None
        if self.target_type_ != "continuous":
            self.classes_ = array_of(sorted(_classes_of(statistics[0])), with_missing=False)
        self.categories_: list[NDArray[Any]] = []
        self.encodings_: list[NDArray[np.float64]] = []
        self.cut_ = [_cut(each) for each in statistics]
        tables: list[list[NDArray[np.float64]]] = [[] for _ in range(self.cv)]
        for each in statistics:
            by_value = self._append(each)
            for fold, table in enumerate(tables):
                table.append(self._encoded(each, fold, by_value)[0])
        self._fold_tables = tables
        self._warn()
        self._settle()

    def _append(self, statistic: TargetByCategory) -> NDArray[np.int64]:
        """Learn one column, and return the order of its categories."""
        values = statistic.keys.to_pylist()
        by_value = np.array(sorted(range(len(values)), key=values.__getitem__), np.int64)
        counts, _, _ = statistic.moments()
        self.categories_.append(array_of([values[each] for each in by_value], with_missing=counts[0] > 0))
        table, mean = self._encoded(statistic, None, by_value)
        num_known = len(self.categories_[-1])
        self.encodings_ += [np.array(column[:num_known]) for column in table.T]
        self.target_mean_ = mean if self.target_type_ == "multiclass" else float(mean[0])
        return by_value

    def _warn(self) -> None:
        said = [f"column {name!r}: {text}" for name, text in zip(self._names, self.cut_, strict=True) if text]
        if said:
            warnings.warn("; ".join(said), UserWarning, stacklevel=2)

    def _type_of(self, statistic: TargetByCategory) -> str:
        """Decide the type of the target, as scikit-learn does."""
        if self.target_type == "continuous" or (self.target_type == "auto" and statistic.has_fractions):
            if not statistic.is_number:
                raise DataError("y holds text, and target_type='continuous' needs numbers; leave target_type out")
            return "continuous"
        if statistic.classes is None:
            what = (
                "numbers that are not whole" if statistic.has_fractions else f"more than {statistic.max_classes} values"
            )
            raise ArgumentError(
                f"target_type={self.target_type!r}: y holds {what}, too many for classes; give target_type='continuous'"
            )
        if self.target_type == "binary" and len(statistic.classes) > 2:
            raise ArgumentError(f"target_type='binary': y has {len(statistic.classes)} classes; give 'multiclass'")
        return (
            self.target_type
            if self.target_type != "auto"
            else "binary"
            if len(statistic.classes) <= 2
            else "multiclass"
        )

    def _encoded(
        self, statistic: TargetByCategory, without_fold: int | None, by_value: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the table [categories + 2, width] of a column, and the mean of the target [width]."""
        tables, means = [], []
        for moments in self._targets(statistic, without_fold):
            encoded, mean = self._shrunk(*moments)
            known = encoded[2:][by_value]
            missing = encoded[0] if moments[0][0] > 0 else mean
            tables.append(np.append(known, [missing, mean]))
            means.append(mean)
        return np.stack(tables, axis=1), np.array(means)

    def _targets(self, statistic: TargetByCategory, without_fold: int | None) -> list[_Moments]:
        """Return count, mean and squared distances by category: of the target, or of each class's 0 and 1."""
        if self.target_type_ == "continuous":
            return [statistic.moments(without_fold)]  # type: ignore[list-item]
        counts = statistic.class_counts(without_fold)
        positions = {value: number for number, value in enumerate(_classes_of(statistic))}
        assert self.classes_ is not None
        chosen = [positions[value] for value in self.classes_.tolist()]
        if self.target_type_ == "binary":
            chosen = chosen[1:] or [len(positions)]
        counts = np.append(counts, np.zeros((len(counts), 1)), axis=1)  # a class that does not occur
        total = counts.sum(axis=1)
        found = []
        for each in chosen:
            share = counts[:, each] / np.maximum(total, 1)
            found.append((total, share, total * share * (1 - share)))
        return found

    def _shrunk(
        self, count: NDArray[np.float64], mean: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float]:
        """Return the encoding of each category, and the mean of the target."""
        num_rows = max(count.sum(), 1)
        center = float((count * mean).sum() / num_rows)
        variance = float((squares + count * (mean - center) ** 2).sum() / num_rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.smooth == "auto":
                weight = variance * count / (variance * count + squares / count)
                encoded = weight * mean + (1 - weight) * center
            else:
                smooth = float(self.smooth)
                encoded = (count * mean + smooth * center) / (count + smooth)
        return np.where(np.isnan(encoded), center, encoded), center

    def _tables(self) -> list[NDArray[np.float64]]:
        width = len(self.classes_) if self.classes_ is not None and self.target_type_ == "multiclass" else 1
        mean = np.atleast_1d(self.target_mean_)[None, :]
        tables = []
        for column, categories in enumerate(self.categories_):
            known = np.stack(self.encodings_[column * width : (column + 1) * width], axis=1)
            rest = [mean] if has_missing(categories) else [mean, mean]
            of_folds = [each[column] for each in self.__dict__.get("_fold_tables", ())]  # behind that of all rows
            tables.append(np.concatenate([known, *rest, *of_folds]))
        return tables

    def _encode_in_folds(self, names: Sequence[str], columns: Columns, row: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._compute(self._codes_in_folds(names, columns, row))

    def _codes_in_folds(self, names: Sequence[str], columns: Columns, row: NDArray[np.int64]) -> NDArray[np.int64]:
        sizes = np.array([len(keys) + 2 for keys, _ in self._lookups])
        table = fold_of(row, self.cv, self.random_state) + 1  # the first one is that of all rows
        codes: NDArray[np.int64] = self._encode(names, columns) + table[:, None] * sizes
        return codes

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """See `Transform`."""
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        if self.target_type_ != "multiclass" or self.classes_ is None:
            return names  # type: ignore[no-any-return]
        return np.array([f"{name}_{label}" for name in names for label in self.classes_.tolist()], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _classes_of(statistic: TargetByCategory) -> list[Any]:
    assert statistic.classes is not None
    classes: list[Any] = statistic.classes.to_pylist()
    return classes


def _cut(statistic: TargetByCategory) -> str:
    """Say what was cut, in words; empty where all is known."""
    if statistic.is_exact:
        return ""
    return (
        f"{len(statistic.keys):,} of at least {statistic.num_distinct:,} categories are kept, and those left out occur "
        f"at most {statistic.max_error:,} times each"
    )
