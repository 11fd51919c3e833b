"""From scikit-learn's transformers to those here, fitted or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Final

import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator, clone

from dtk.errors import ArgumentError, DataError
from dtk.preparation.schema import positional_names
from dtk.preparation.transforms.base import Transform
from dtk.preparation.transforms.grouping import GroupingEncoder
from dtk.preparation.transforms.scikit import CARRIED, SklearnTransform, check_carried
from dtk.preparation.transforms.vocabularies import known_values
from dtk.preparation.values import vocabulary_keys

__all__ = ["from_sklearn"]

_NOT_NEEDED: Final = (
    *("copy", "force_int_remainder_cols", "ignore_implicit_zeros", "memory", "n_jobs", "random_state"),
    *("sparse_output", "sparse_threshold", "subsample", "transform_input", "verbose"),
)
"""Parameters that say how scikit-learn computes, and not what."""

_SAME: Final[Mapping[str, tuple[str, ...]]] = {
    "KBinsDiscretizer": ("n_bins_",),
    "MaxAbsScaler": ("max_abs_", "scale_"),
    "MinMaxScaler": ("data_min_", "data_max_", "data_range_", "min_", "scale_"),
    "OneHotEncoder": ("categories_",),
    "OrdinalEncoder": ("categories_",),
    "PowerTransformer": ("lambdas_",),
    "QuantileTransformer": ("n_quantiles_", "references_", "quantiles_"),
    "RobustScaler": ("center_", "scale_"),
    "SimpleImputer": ("statistics_",),
    "StandardScaler": ("mean_", "var_", "scale_", "n_samples_seen_"),
}
"""What a fitted transformer and its twin have in common."""


def from_sklearn(estimator: Any) -> Any:
    """Convert a transformer of scikit-learn.

    Parameters
    ----------
    estimator : sklearn.base.TransformerMixin
        One with a twin of the same name here; one that `SklearnTransform` carries; a ``FunctionTransformer`` of
        ``numpy.log`` or ``numpy.log1p``; or a ``Pipeline`` or ``ColumnTransformer`` of such ones.

    Returns
    -------
    Transform or sklearn.pipeline.Pipeline
        Fitted if `estimator` is, and then equal to it; a ``Pipeline`` of transforms for a ``Pipeline``. The groups of a
        fitted ``ColumnTransformer`` are computed while encoding: nobody knows whether float32 can hold their columns.

    Raises
    ------
    ArgumentError
        If it cannot be converted; the message says what to do.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from_sklearn(StandardScaler().fit([[1.0], [3.0]])).transform(np.array([[5.0]]))
    array([[3.]])
    """
    from dtk.preparation import transforms

    name = type(estimator).__name__
    if isinstance(estimator, Transform):
        return estimator
    if not isinstance(estimator, BaseEstimator) or not type(estimator).__module__.startswith("sklearn."):
        raise ArgumentError(f"{name if isinstance(estimator, BaseEstimator) else estimator!r} is no transform")
    if name == "Pipeline":
        return type(estimator)([(step, from_sklearn(each)) for step, each in estimator.steps if not _is_identity(each)])
    if name == "ColumnTransformer":
        return _columns(estimator)
    if name == "FunctionTransformer":
        return _function(estimator)
    if name in transforms.__all__ and name not in CARRIED:
        return _twin(estimator, getattr(transforms, name))
    check_carried(estimator)
    made = SklearnTransform(clone(estimator))
    if _is_fitted(estimator):
        _note_columns(made, estimator)
        if made._needs():
            made.estimator_, made.is_exact_ = copy(estimator), True
            vars(made.estimator_).pop("feature_names_in_", None)  # it is given arrays
    return made


def _is_identity(step: Any) -> bool:
    is_function = type(step).__name__ == "FunctionTransformer" and step.func is None
    return step is None or (isinstance(step, str) and step == "passthrough") or is_function


def _is_fitted(estimator: Any) -> bool:
    return any(name.endswith("_") and not name.startswith("__") for name in vars(estimator))


def _note_columns(made: Transform, estimator: Any) -> None:
    made.n_features_in_ = estimator.n_features_in_
    if hasattr(estimator, "feature_names_in_"):
        made.feature_names_in_ = np.asarray(estimator.feature_names_in_, object)


def _parameters(estimator: Any, known: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that a twin has, and refuse others that were set."""
    given = estimator.get_params(deep=False)
    defaults = type(estimator)().get_params(deep=False) if "transformers" not in given else {}
    for name, value in given.items():
        is_default = name in defaults and (value is defaults[name] or _is_equal(value, defaults[name]))
        if name not in known and name not in _NOT_NEEDED and not is_default:
            raise ArgumentError(f"{name}={value!r} of {type(estimator).__name__} is not known to dtk; leave it out")
    return {name: value for name, value in given.items() if name in known}


def _is_equal(value: Any, default: Any) -> bool:
    both_missing = isinstance(value, float) and isinstance(default, float) and np.isnan(value) and np.isnan(default)
    return both_missing or (type(value) is type(default) and bool(value == default))


def _twin(estimator: Any, kind: type[Transform]) -> Transform:
    parameters = _parameters(estimator, kind._get_param_names())
    name = type(estimator).__name__
    if name == "OneHotEncoder":
        parameters["sparse_output"] = False  # the same numbers
    if name == "KBinsDiscretizer" and parameters["encode"] == "onehot":
        parameters["encode"] = "onehot-dense"
    made = kind(**parameters)
    if not _is_fitted(estimator):
        return made
    if name not in _SAME:
        raise ArgumentError(f"a fitted {name} cannot be taken over; give it unfitted, and fit what comes of it")
    _note_columns(made, estimator)
    for attribute in _SAME[name]:
        setattr(made, attribute, getattr(estimator, attribute))
    if name in ("QuantileTransformer", "RobustScaler"):
        made.rank_error_ = 0.0
    if name == "PowerTransformer":
        width = estimator.n_features_in_
        made.mean_ = estimator._scaler.mean_ if estimator.standardize else np.zeros(width)
        made.scale_ = estimator._scaler.scale_ if estimator.standardize else np.ones(width)
    if name == "SimpleImputer":
        _take_over_imputer(made, estimator)
    if name == "KBinsDiscretizer":
        made.bin_edges_ = list(estimator.bin_edges_)
    if isinstance(made, GroupingEncoder):
        _take_over_encoder(made, estimator)
    return made


def _take_over_encoder(made: Any, estimator: Any) -> None:
    """Take over groups of categories, if these can be told apart as scikit-learn does."""
    for column, categories in enumerate(estimator.categories_):
        known = known_values(categories)
        try:
            fits = not any(value is None or _is_nan(value) for value in known) and (not known or vocabulary_keys(known))
        except (DataError, pa.ArrowException):
            fits = False
        if not fits:
            raise ArgumentError(
                f"the categories of column {column} of a fitted {type(estimator).__name__} cannot be taken over, "
                f"{categories.tolist()!r}: they must be strings, numbers or booleans, with None or NaN at the end; "
                "give it unfitted, and fit what comes of it"
            )
    num_columns = len(estimator.categories_)
    made.infrequent_indices_ = list(getattr(estimator, "_infrequent_indices", [None] * num_columns))
    made.cut_ = [""] * num_columns
    if hasattr(estimator, "drop_idx_"):
        made.drop_idx_ = None if estimator.drop_idx_ is None else [*estimator.drop_idx_.tolist()]
    made._settle()


def _take_over_imputer(made: Any, estimator: Any) -> None:
    statistics = estimator.statistics_
    made.is_category_ = not all(isinstance(value, float | int | np.number) for value in statistics)
    is_kept = np.array([estimator.keep_empty_features or not _is_nan(value) for value in statistics])
    if estimator.strategy == "constant":  # which says nothing of columns without values
        is_kept[:] = True
    made.kept_ = np.flatnonzero(is_kept).tolist()
    made.indicated_ = estimator.indicator_.features_.tolist() if estimator.add_indicator else []
    if not made.is_category_:
        made.statistics_ = statistics.astype(np.float64)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and bool(np.isnan(value))


def _function(estimator: Any) -> Transform:
    from dtk.preparation.transforms.distributions import LogTransformer

    functions = {np.log: "log", np.log1p: "log1p"}
    if estimator.func not in functions or estimator.kw_args:
        raise ArgumentError(
            f"FunctionTransformer(func={estimator.func!r}) is code, which no bundle carries; numpy.log and numpy.log1p "
            "become a LogTransformer, and other functions are applied to the data with assign or map_partitions"
        )
    made = LogTransformer(functions[estimator.func])
    if _is_fitted(estimator):
        _note_columns(made, estimator)
    return made


def _columns(estimator: Any) -> Transform:
    from dtk.preparation.transforms.composition import ColumnTransformer

    is_fitted = _is_fitted(estimator)
    options = _parameters(estimator, ["transformers", "remainder", "verbose_feature_names_out", "transformer_weights"])
    if options.pop("transformer_weights"):
        raise ArgumentError(
            "transformer_weights of a ColumnTransformer are not known to dtk; scale with a step instead"
        )
    for name, allowed in (("remainder", ("drop", "passthrough")), ("verbose_feature_names_out", (True, False))):
        if not isinstance(options[name], str | bool) or options[name] not in allowed:
            raise ArgumentError(f"{name}={options[name]!r} of a ColumnTransformer must be one of {allowed}")
    known = list(getattr(estimator, "feature_names_in_", positional_names(getattr(estimator, "n_features_in_", 0))))
    options["transformers"] = [
        (name, _steps(each), _named(name, columns, known)) for name, each, columns in options["transformers"]
    ]
    made = ColumnTransformer(**options)
    if is_fitted:
        _note_columns(made, estimator)
        groups = [(name, _steps(each), _named(name, cols, known)) for name, each, cols in estimator.transformers_]
        made.transformers_ = [
            (name, _named_steps(steps, names), names) for name, steps, names in groups if steps != "drop" and names
        ]
        made.num_passes_ = 0
        made.wide_ = [  # nobody knows their values
            [] if any(step._codes for step in steps) else list(range(len(names)))
            for _, steps, names in made.transformers_
        ]
    return made


def _steps(given: Any) -> Any:
    """Return the transforms of a group, or ``"drop"`` or ``"passthrough"``."""
    if isinstance(given, str) and given == "drop":
        return given
    if _is_identity(given):
        return "passthrough"
    made = from_sklearn(given)
    return [step for _, step in made.steps] if hasattr(made, "steps") else [made]


def _named(group: str, columns: Any, known: Sequence[str]) -> list[Any]:
    """Name the columns of a group, where the names are known."""
    if callable(columns) or (isinstance(columns, slice) and not known):
        raise ArgumentError(f"transformers[{group!r}]: columns={columns!r} says nothing before a fit; give names")
    chosen: Any = [columns] if isinstance(columns, str | int) else columns
    if not isinstance(chosen, slice):
        chosen = list(chosen)
        if not known or all(isinstance(column, str) for column in chosen):
            return list(chosen)
    return [str(name) for name in np.array(known, object)[chosen]]


def _named_steps(steps: Any, names: Sequence[str]) -> list[Transform]:
    """Say what goes into each of the fitted steps."""
    for step in [] if steps == "passthrough" else steps:
        step.n_features_in_ = len(names)
        step.feature_names_in_ = np.array(names, dtype=object)
        names = [str(name) for name in step.get_feature_names_out(None)]
    return [] if steps == "passthrough" else list(steps)
