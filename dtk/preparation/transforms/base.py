"""What every transform is: fitted from statistics that one scan collects, and applied in two stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import pyarrow as pa
from array_api_compat import array_namespace
from dask.system import CPU_COUNT
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from dtk.errors import ArgumentError
from dtk.preparation.transforms.given import Given, take, without_target
from dtk.preparation.transforms.state import fitted_from_dict, fitted_to_dict
from dtk.preparation.values import KINDS, as_numbers, check_type
from dtk.statistics import RowSample, to_floats

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SAMPLE", "Elementwise", "Found", "Need", "Transform"]

Columns = Sequence[pa.ChunkedArray]
Found = Mapping[str, Sequence[Any]]
"""The statistics that a transform asked for, by its own name for them: one a column, in order."""


@dataclass(frozen=True)
class Need:
    """A statistic that a transform needs of each of its columns; equal needs of a column are filled once.

    Parameters
    ----------
    statistic : type
        Its class.
    options : tuple of (str, object)
        What to make it with.
    with_target : bool
        Whether it is updated with a table of ``"value"`` and ``"target"``.
    """

    statistic: type[Any]
    options: tuple[tuple[str, Any], ...] = ()
    with_target: bool = False

    @property
    def is_sample(self) -> bool:
        """Whether it is a sample of the rows, which all columns share."""
        return self.statistic is RowSample and not self.with_target

    def make(self) -> Any:
        """Make one, empty."""
        return self.statistic(**dict(self.options))

    def __str__(self) -> str:
        return self.statistic.__name__


SAMPLE: Final = Need(RowSample, (("size", 1_000_000),))
"""The sample that quantiles are taken from."""


class _Applied:
    """`transform`, outside of scikit-learn's classes: they would compute what is lazy to set its output."""

    def transform(self, X: Any) -> Any:
        """Apply to data.

        Parameters
        ----------
        X : DataFrame, array, pyarrow.Table, dask.dataframe.DataFrame, dask.array.Array, xarray.Dataset or DataArray
            Shape [rows, columns], with the columns of the fit.

        Returns
        -------
        object
            Lazy where `X` is, and of its type; a NumPy array for pandas and NumPy, unless `set_output` says otherwise.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If columns are missing.
        DataError
            If a column is of another type than at fit.
        """
        assert isinstance(self, Transform)
        check_is_fitted(self)
        return take(self, X, self._kind, reset=False).map(self)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit, and apply to the same data.

        Parameters
        ----------
        X : object
            As for `fit`.
        y : object, optional
            As for `fit`.
        **fit_params : object
            As for `fit`.

        Returns
        -------
        object
            As `transform` returns.
        """
        assert isinstance(self, Transform)
        if self._is_cross_fitted:
            from dtk.preparation.transforms.crossfit import fit_transform_in_folds

            return fit_transform_in_folds(self, X, y, **fit_params)
        return self.fit(X, y, **fit_params).transform(without_target(X, y))


class Transform(_Applied, TransformerMixin, BaseEstimator):
    """A step of preparation: a scikit-learn transformer that is fitted out of core and applied inside the batch.

    A subclass says which statistics it needs (`_needs`), learns from them (`_learn`), and computes in two stages: Arrow
    columns become numbers (`_encode`, on the loader's threads), and numbers are computed with (`_forward`, written once
    for NumPy and torch).
    """

    _kind: ClassVar[str] = "number"
    """What columns it takes: one of `dtk.preparation.values.KINDS`, ``"any"`` or ``"mixed"``."""

    _codes: ClassVar[bool] = False
    """Whether `_encode` gives codes, int64, and not numbers."""

    _gives_codes: ClassVar[bool] = False
    """Whether codes are the result, too: for embeddings."""

    _wide: ClassVar[bool] = False
    """Whether `_forward` needs float64 on the device, too."""

    _on_device: bool = True
    """Whether `_forward` knows torch; what does not is computed while encoding."""

    _jumps: ClassVar[bool] = False
    """Whether the rounding of a number to float32 can change the output by more than that: no work for the device."""

    _cleans: bool = False
    """Whether it turns Arrow columns into such, see `_clean`."""

    def _check(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        """Refuse parameters, and columns that cannot be read, before any row is."""
        if self._kind != "any":
            for name, found in zip(names, types, strict=True):
                check_type(name, found, self._kind)

    def _check_again(self, names: Sequence[str], types: Sequence[pa.DataType]) -> None:
        """Refuse columns of other types than at fit, before any row is read."""
        if self._kind in KINDS:
            for name, found in zip(names, types, strict=True):
                check_type(name, found, self._kind)

    def _begin(self, names: Sequence[str]) -> None:
        """Take note of the columns that go in."""
        if not hasattr(self, "n_features_in_"):
            self.n_features_in_: int = len(names)
            self.feature_names_in_: Any = np.array(names, dtype=object)

    def _needs(self) -> Mapping[str, Need]:
        """Name the statistics that are needed of each column; none for a transform that learns nothing."""
        return {}

    def _learn(self, found: Found) -> None:
        """Set the fitted attributes."""

    def _derives(self, need: Need) -> bool:
        """Whether `_derive` can make this statistic."""
        return False

    def _derive(self, need: Need, statistics: Sequence[Any]) -> list[Any]:
        """Make the statistics of the columns that come out, once fitted, from those of the columns that go in."""
        raise NotImplementedError

    def _clean(self, columns: Columns) -> list[pa.ChunkedArray]:
        """Turn Arrow columns into Arrow columns."""
        raise NotImplementedError

    def _cleaned_types(self, types: Sequence[pa.DataType]) -> list[pa.DataType]:
        """Say what types `_clean` returns."""
        return list(types)

    def _encode(self, names: Sequence[str], columns: Columns) -> NDArray[Any]:
        """Turn Arrow columns into numbers [rows, encoded columns], NaN or -1 where missing."""
        return np.stack([to_floats(as_numbers(name, column)) for name, column in zip(names, columns, strict=True)], 1)

    def _encode_packed(self, names: Sequence[str], columns: Columns) -> list[Any]:
        """As `_encode`: a column each, NumPy or Arrow, to be packed as float32 or int64 on the way into a batch."""
        if self._kind in ("number", "any"):
            return [as_numbers(name, column) for name, column in zip(names, columns, strict=True)]
        return list(self._encode(names, columns).T)

    @property
    def _num_encoded(self) -> int:
        """How many columns `_encode` gives."""
        return int(self.n_features_in_)

    def _planned_encoded(self, num_columns: int) -> int:
        """Say how many columns `_encode` will give at the most, before the fit."""
        return num_columns

    def _parameters(self) -> dict[str, NDArray[Any]]:
        """Name the arrays that `_forward` needs: buffers of the module."""
        return {}

    def _forward(self, x: Any, p: Mapping[str, Any], xp: Any) -> Any:
        """Compute the output [rows, features] from numbers [rows, encoded columns] with functions of `xp`."""
        raise NotImplementedError

    def _target_of(self, y: Any) -> Any:
        """Return the target if it is needed, or a column that must be left out."""
        needed = isinstance(y, str) or any(need.with_target for need in self._needs().values())
        return y if needed else None

    @property
    def _is_cross_fitted(self) -> bool:
        """Whether `fit_transform` must not show a row what was learnt from it, see `_encode_in_folds`."""
        return False

    def _encode_in_folds(self, names: Sequence[str], columns: Columns, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what `transform` would of rows of the fit, had it not seen their fold; by their numbers at fit."""
        raise NotImplementedError

    def _codes_in_folds(self, names: Sequence[str], columns: Columns, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return codes of which `_forward` makes what `_encode_in_folds` returns."""
        raise NotImplementedError

    @property
    def _is_stateless(self) -> bool:
        return not self._needs()

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from data, in one pass over it.

        Parameters
        ----------
        X : DataFrame, array, pyarrow.Table, dask.dataframe.DataFrame, dask.array.Array, xarray.Dataset or DataArray
            Shape [rows, columns], or the path of a Parquet dataset. What is lazy is read chunk by chunk on the current
            Dask client, or here where there is none.
        y : str, array or Series, optional
            The target, or its column in `X`, which is then not transformed. Only some transforms need it.

        Returns
        -------
        Transform
            This object, fitted.

        Raises
        ------
        ArgumentError
            If a parameter is out of its range.
        DataError
            If a column cannot be read, or has no values.
        """
        from dtk.preparation.transforms.passes import fit_alone

        self.__dict__.pop("_seen", None)
        fit_alone(self, take(self, X, self._kind, y=self._target_of(y), reset=True))
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from more data, on top of what was seen by earlier calls.

        Parameters
        ----------
        X : object
            As for `fit`.
        y : object, optional
            As for `fit`.

        Returns
        -------
        Transform
            This object, fitted to all data since the last `fit`, or since it was made.

        Raises
        ------
        ArgumentError
            If a parameter is out of its range, or columns are others than before.
        DataError
            If a column cannot be read.
        """
        from dtk.preparation.transforms.passes import fit_alone

        given = take(self, X, self._kind, y=self._target_of(y), reset="_seen" not in self.__dict__)
        self._seen = fit_alone(self, given, self.__dict__.get("_seen"))
        return self

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Name the columns of the output.

        Parameters
        ----------
        input_features : sequence of str, optional
            The columns of the input, where the fit saw no names.

        Returns
        -------
        numpy.ndarray
            Of str objects [features].
        """
        check_is_fitted(self)
        names: NDArray[Any] = _check_feature_names_in(self, input_features)
        return names

    def as_module(self) -> nn.Module:
        """Return the numeric stage as a torch module.

        Returns
        -------
        torch.nn.Module
            ``forward(x)`` maps numbers [B, encoded columns] to [B, features] on the device of the batch.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If it can only be computed while encoding.
        """
        from dtk.preparation.transforms.modules import TransformModule

        check_is_fitted(self)
        if not self._on_device:
            raise ArgumentError(f"{self!r} has no module; in a ColumnTransformer it is computed while encoding")
        return TransformModule(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all that `transform_from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            Parameters and what was fitted, to the last bit.
        """
        return fitted_to_dict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild a transform.

        Parameters
        ----------
        state : mapping
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        Transform
            That computes the same, bit for bit.
        """
        return fitted_from_dict(cls, state)

    def _apply(self, given: Given) -> NDArray[Any] | list[pa.ChunkedArray]:
        """Apply to columns in memory."""
        if self._cleans:
            return self._clean(given.columns)
        if given.row is not None:
            return self._encode_in_folds(given.names, given.columns, given.row)
        x = self._encode(given.names, given.columns) if given.array is None else given.array
        return self._compute(x)

    def _compute(self, x: NDArray[Any]) -> NDArray[Any]:
        """Run the numeric stage in float64."""
        wide = x.astype(np.float64, copy=False) if x.dtype.kind == "f" else x
        with np.errstate(all="ignore"):  # infinite and missing values are what they are
            return self._forward(wide, self._parameters(), array_namespace(wide))  # type: ignore[no-any-return]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = self._kind in ("any", "category")
        tags.input_tags.categorical = tags.input_tags.string
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Elementwise(Transform):
    """A transform that maps each number for itself: its parameters have one entry a column, along their last axis."""

    @property
    def _keeps_columns(self) -> bool:
        """Whether there comes one column out of each, in order."""
        return True

    def _derives(self, need: Need) -> bool:
        return need.is_sample

    def _derive(self, need: Need, statistics: Sequence[Any]) -> list[Any]:
        return [each.mapped(partial(self._compute_column, column)) for column, each in enumerate(statistics)]

    def _compute_column(self, column: int, values: NDArray[Any]) -> NDArray[Any]:
        parameters = {name: array[..., column : column + 1] for name, array in self._parameters().items()}
        x = np.asarray(values, np.float64)[:, None]
        with np.errstate(all="ignore"):
            mapped: NDArray[Any] = self._forward(x, parameters, array_namespace(x))
        return mapped[:, 0]


def quantiles_of(samples: Sequence[RowSample], q: Sequence[float]) -> NDArray[np.float64]:
    """Return quantiles of samples, several of them at a time.

    Parameters
    ----------
    samples : sequence of RowSample
        One a column.
    q : sequence of float
        Between 0 and 1.

    Returns
    -------
    numpy.ndarray
        float64 [columns, quantiles].
    """
    with ThreadPoolExecutor(min(CPU_COUNT, 8)) as threads:
        found = list(threads.map(lambda sample: sample.quantile(q), samples))
    return np.array(found).reshape(len(samples), len(q))


def refuse(name: str, value: object, wanted: str) -> None:
    """Refuse a parameter.

    Parameters
    ----------
    name : str
        Of the parameter.
    value : object
        What was given.
    wanted : str
        What it must be.

    Raises
    ------
    ArgumentError
        Always.
    """
    raise ArgumentError(f"{name}={value!r} must be {wanted}")
