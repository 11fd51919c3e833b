"""The scikit-learn face: TorchClassifier and TorchRegressor, for data in memory and far beyond it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_feature_names, _check_sample_weight, check_is_fitted, validate_data

from dtk.errors import ArgumentError, DataError
from dtk.loader import Encoder, Field, Loader, Plan
from dtk.models import ModelSchema, ModelSpec, build
from dtk.preparation import ClassTarget, NumberTarget, SampleEncoder, TablePreparation, schema_of, table_of_array
from dtk.sources import TableSource, as_source, counted, split
from dtk.training.fitting import fit_network, resolve_optimizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TorchClassifier", "TorchRegressor"]

TARGET, WEIGHT = "_dtk_target", "_dtk_weight"
LEAST_BATCH, MOST_BATCH, BATCHES_AN_EPOCH = 32, 4096, 64


@dataclass(frozen=True)
class _Table:
    """Data of any kind as one table with named columns for target and weight."""

    data: Any
    target: str
    weight: str | None


@dataclass(frozen=True)
class _Unfitted:
    """The shapes of a batch before anything is fitted, for a plan."""

    columns: tuple[str, ...]
    fields: dict[str, Field]

    def encode(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        raise AssertionError("a plan reads no rows")


class _TorchEstimator(BaseEstimator):
    """What classifier and regressor share."""

    _task: ClassVar[str]
    _loss: ClassVar[str]

    def __init__(
        self,
        model: ModelSpec = "mlp",
        *,
        target: str | None = None,
        epochs: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int | None = None,
        patience: int | None = None,
        kinds: Mapping[str, str] | None = None,
        memory: int | str = "1 GiB",
        ranks: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        progress: bool | None = None,
    ) -> None:
        self.model = model
        self.target = target
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.patience = patience
        self.kinds = kinds
        self.memory = memory
        self.ranks = ranks
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, validation: Any = None) -> Self:
        """Fit the preparation in one pass, then train the network.

        Parameters
        ----------
        X : dask.dataframe.DataFrame, path, pandas.DataFrame, pyarrow.Table, mapping of arrays or array [rows, columns]
            Of the inputs; a table may hold the target and the weight, too.
        y : str, array [rows] or dask.dataframe.Series, optional
            The target, or its column in `X`; by default the estimator's `target`.
        sample_weight : str, array [rows] or dask.dataframe.Series, optional
            The samples' weights in the loss, or their column in `X`.
        validation : float, table or (X, y), optional
            A share of `X`, chosen by a hash of its rows, or other data: it is evaluated after each epoch, and the best
            epoch's weights are kept.

        Returns
        -------
        object
            This estimator, fitted.

        Raises
        ------
        ArgumentError
            If an argument cannot work.
        DataError
            If the data has no rows, one class, missing targets, or columns that cannot be read.
        """
        table = self._table(X, y, sample_weight, reset=True)
        if isinstance(validation, float):
            if not 0 < validation < 1:
                raise ArgumentError(f"validation={validation} must be a share between 0 and 1, or data")
            data, held = split(table.data, fractions=[1 - validation, validation])
            table, check = _Table(data, table.target, table.weight), _Table(held, table.target, table.weight)
        elif validation is not None:
            held, labels = validation if isinstance(validation, tuple) else (validation, None)
            check = self._table(held, labels, None, reset=False)
        else:
            check = None
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        source = counted(as_source(table.data), progress=bool(self.progress))
        preparation = TablePreparation(kinds=self.kinds)
        preparation.fit(source, target=table.target, task=self._task, weight=table.weight, progress=bool(self.progress))
        target = preparation.target
        assert target is not None
        self._learn_target(target)
        assert source.chunk_rows is not None
        batch_size = self.batch_size or _batch_size(int(source.chunk_rows.sum()))
        encoder = SampleEncoder(preparation, target=target, weight=table.weight, class_weight=self._class_weight())
        loader = self._loader(source, encoder, batch_size, seed)
        checked = None
        if check is not None:
            checked = Loader(
                as_source(check.data),
                preparation=SampleEncoder(preparation, target=target),
                global_batch_size=max(batch_size, MOST_BATCH),
                shuffle=False,
                memory=self.memory,
                tail="pad",
            )
        schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities, target.num_outputs)
        self.bundle_, self.report_ = fit_network(
            build(self.model, schema, seed=seed),
            self.model,
            preparation,
            target,
            loader,
            checked,
            loss=self._loss,
            optimizer=resolve_optimizer("adam", self.learning_rate),
            epochs=self.epochs,
            patience=self.patience,
            seed=seed,
            ranks=self.ranks,
            hang_timeout_s=300.0,
            progress=self.progress,
        )
        self.history_ = list(self.report_.history)
        self.n_iter_ = len(self.history_)
        return self

    def predict(self, X: Any) -> Any:
        """Predict the target of each row.

        Parameters
        ----------
        X : dask.dataframe.DataFrame, path, pandas.DataFrame, pyarrow.Table, mapping of arrays or array [rows, columns]
            With the columns of the fit.

        Returns
        -------
        numpy.ndarray [rows] or dask.dataframe.Series
            Lazy, with the same index and partitions, for a Dask DataFrame; an array for anything else.

        Raises
        ------
        DataError
            If a column is missing, or of another type than at fit.
        """
        check_is_fitted(self, "bundle_")
        return self.bundle_.predict(self._inputs(X, reset=False))

    def plan(self, X: Any, y: Any = None) -> Plan:
        """Say what a fit on this data would read, in which order, and at what cost; nothing is fitted.

        Parameters
        ----------
        X, y : object
            As for `fit`.

        Returns
        -------
        Plan
            Of the training data. Where a row filter hides how many rows there are, they are counted first.
        """
        table = self._table(X, y, None, reset=True)
        source = counted(as_source(table.data))
        assert source.chunk_rows is not None
        batch_size = self.batch_size or _batch_size(int(source.chunk_rows.sum()))
        preparation = TablePreparation(kinds=self.kinds)
        fields = preparation.planned_fields(schema_of(source), target=table.target)
        target = Field(np.dtype(np.int64 if self._task == "classification" else np.float32))
        encoder = _Unfitted(tuple(source.schema.names), {**fields, "target": target})
        return self._loader(source, encoder, batch_size, 0).plan

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.non_deterministic = self.random_state is None
        tags.target_tags.required = True
        return tags

    def _learn_target(self, target: ClassTarget | NumberTarget) -> None:
        """Set the attributes that scikit-learn wants of the target."""

    def _class_weight(self) -> str | Mapping[Any, float] | None:
        return None

    def _loader(self, source: Any, encoder: Encoder, batch_size: int, seed: int) -> Loader:
        num_rows = int(source.chunk_rows.sum())
        return Loader(
            source,
            preparation=encoder,
            global_batch_size=min(batch_size, max(num_rows, 1)),
            seed=seed,
            memory=self.memory,
        )

    def _table(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> _Table:
        if isinstance(X, Loader):
            raise ArgumentError("X is a Loader; train on it with dtk.train(module, loader)")
        if not _is_lazy(X):
            return self._table_in_memory(X, y, sample_weight, reset=reset)
        frame = _opened(X)
        names = list(getattr(frame, "column_names", None) or frame.columns)
        target = _column(y if y is not None else self.target, TARGET, "y" if y is not None else "target", names)
        frame = _assigned(frame, target, y)
        weight = None
        if sample_weight is not None:
            weight = _column(sample_weight, WEIGHT, "sample_weight", names)
            frame = _assigned(frame, weight, sample_weight)
        if reset:
            self.feature_names_in_ = np.array([name for name in names if name not in (target, weight)], dtype=object)
            self.n_features_in_ = len(self.feature_names_in_)
            self._aside = [name for name in (target, weight) if name in names]
        return _Table(frame, target, weight)

    def _table_in_memory(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> _Table:
        target, weight, aside = "", None, []
        if isinstance(X, pd.DataFrame) and (y is None or isinstance(y, str)):
            target = _column(y or self.target, TARGET, "y" if y else "target", list(X.columns))
            X, y = X.drop(columns=[target]), X[target]
            aside.append(target)
        if isinstance(sample_weight, str):
            weight = _column(sample_weight, WEIGHT, "sample_weight", list(X.columns))
            X, sample_weight = X.drop(columns=[weight]), X[weight]
            aside.append(weight)
        if y is None and self.target is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None; "
                "give y, or target= and a table"
            )
        target = target or str(getattr(y, "name", None) or TARGET)
        inputs = self._inputs(X, y, reset=reset)
        y = self._checked_target(y, len(inputs))
        if target in inputs.column_names:
            target = TARGET
        columns = {name: inputs.column(name) for name in inputs.column_names} | {target: pa.array(y)}
        if sample_weight is not None:
            columns[WEIGHT] = pa.array(_check_sample_weight(sample_weight, np.empty(len(y)), dtype=np.float64))
            weight = WEIGHT
        if reset:
            self._aside = aside
        return _Table(pa.table(columns), target, weight)

    def _inputs(self, X: Any, y: Any = None, *, reset: bool) -> Any:
        """Check inputs by scikit-learn's rules if they are in memory; leave alone what is lazy."""
        if _is_lazy(X):
            return _opened(X)
        if isinstance(X, pd.DataFrame) and not reset:  # the table of the fit, target and weight included, may come again
            X = X.drop(columns=[name for name in self._aside if name in X.columns])
        if isinstance(X, pd.DataFrame) and not all(map(_is_number, X.dtypes)):
            _check_feature_names(self, X, reset=reset)
            if reset:
                self.n_features_in_ = X.shape[1]
            return pa.Table.from_pandas(X, preserve_index=False)
        names = list(X.columns) if isinstance(X, pd.DataFrame) and all(isinstance(name, str) for name in X) else None
        array = validate_data(self, X, ensure_all_finite="allow-nan", reset=reset, dtype="numeric")
        table = table_of_array(array)
        return table.rename_columns(names) if names is not None else table

    def _checked_target(self, y: Any, num_rows: int) -> NDArray[Any]:
        raise NotImplementedError


class TorchClassifier(ClassifierMixin, _TorchEstimator):
    """Classifies the rows of a table with a PyTorch network, by default a perceptron with embeddings.

    Parameters
    ----------
    model : str, mapping, torch.nn.Module or callable
        A name, ``{"name": ..., **options}``, a module, or ``f(schema) -> torch.nn.Module``.
    target : str, optional
        The column to predict, where it is among those of `X`.
    epochs : int
        At most.
    learning_rate : float
        Of Adam.
    batch_size : int, optional
        Samples a step, over all ranks; by default a 64th of the rows, between 32 and 4096.
    patience : int, optional
        Epochs without a better validation loss after which training stops.
    class_weight : str or mapping, optional
        ``"balanced"``, or the weight by class.
    kinds : mapping of str to str, optional
        Kinds of columns whose type says otherwise, see `TablePreparation`.
    memory : int or str
        For the loader of each rank, in bytes.
    ranks : int, optional
        Training processes. None takes one a GPU or worker of the current Dask cluster; data in memory is trained on in
        this process.
    random_state : int, RandomState or None
        Decides the initial weights, the order of samples, and dropout.
    progress : bool, optional
        Whether to show progress; None shows it for work on a cluster.

    Attributes
    ----------
    bundle_ : Bundle
        The fitted model: predict, evaluate, save.
    classes_ : numpy.ndarray
        The classes, sorted.
    history_ : list of dict
        One entry an epoch.
    report_ : TrainingReport
        How training went: rates, memory, waiting.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> X, y = make_moons(400, noise=0.1, random_state=0)
    >>> model = TorchClassifier(epochs=20, learning_rate=0.01, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.95
    True
    """

    _task = "classification"
    _loss = "cross_entropy"

    def __init__(
        self,
        model: ModelSpec = "mlp",
        *,
        target: str | None = None,
        epochs: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int | None = None,
        patience: int | None = None,
        class_weight: str | Mapping[Any, float] | None = None,
        kinds: Mapping[str, str] | None = None,
        memory: int | str = "1 GiB",
        ranks: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        progress: bool | None = None,
    ) -> None:
        super().__init__(
            model,
            target=target,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            patience=patience,
            kinds=kinds,
            memory=memory,
            ranks=ranks,
            random_state=random_state,
            progress=progress,
        )
        self.class_weight = class_weight

    def predict_proba(self, X: Any) -> Any:
        """Give the probability of each class for each row.

        Parameters
        ----------
        X : dask.dataframe.DataFrame, path, pandas.DataFrame, pyarrow.Table, mapping of arrays or array [rows, columns]
            With the columns of the fit.

        Returns
        -------
        numpy.ndarray [rows, classes] or dask.dataframe.DataFrame
            In the order of `classes_`; lazy for a Dask DataFrame.
        """
        check_is_fitted(self, "bundle_")
        return self.bundle_.predict(self._inputs(X, reset=False), proba=True)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Give the accuracy.

        Parameters
        ----------
        X : object
            As for `predict`.
        y : array [rows], optional
            The classes; may be left out for a table that holds the target.
        sample_weight : array [rows], optional
            For data in memory.

        Returns
        -------
        float
            Share of rows whose class is predicted right.
        """
        if y is None:
            check_is_fitted(self, "bundle_")
            return float(self.bundle_.evaluate(_opened(X))["accuracy"])
        return float(super().score(X, y, sample_weight))

    def _class_weight(self) -> str | Mapping[Any, float] | None:
        return self.class_weight

    def _learn_target(self, target: ClassTarget | NumberTarget) -> None:
        assert isinstance(target, ClassTarget)
        self.classes_ = target.labels

    def _checked_target(self, y: Any, num_rows: int) -> NDArray[Any]:
        from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d

        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_consistent_length(y, np.empty(num_rows))
        check_classification_targets(y)
        return np.asarray(y)


class TorchRegressor(RegressorMixin, _TorchEstimator):
    """Predicts a number for each row of a table with a PyTorch network, by default a perceptron with embeddings.

    The network sees the target standardised; predictions are in its own unit.

    Parameters
    ----------
    model : str, mapping, torch.nn.Module or callable
        A name, ``{"name": ..., **options}``, a module, or ``f(schema) -> torch.nn.Module``.
    target : str, optional
        The column to predict, where it is among those of `X`.
    epochs : int
        At most.
    learning_rate : float
        Of Adam.
    batch_size : int, optional
        Samples a step, over all ranks; by default a 64th of the rows, between 32 and 4096.
    patience : int, optional
        Epochs without a better validation loss after which training stops.
    kinds : mapping of str to str, optional
        Kinds of columns whose type says otherwise, see `TablePreparation`.
    memory : int or str
        For the loader of each rank, in bytes.
    ranks : int, optional
        Training processes. None takes one a GPU or worker of the current Dask cluster; data in memory is trained on in
        this process.
    random_state : int, RandomState or None
        Decides the initial weights, the order of samples, and dropout.
    progress : bool, optional
        Whether to show progress; None shows it for work on a cluster.

    Attributes
    ----------
    bundle_ : Bundle
        The fitted model: predict, evaluate, save.
    history_ : list of dict
        One entry an epoch.
    report_ : TrainingReport
        How training went: rates, memory, waiting.

    Examples
    --------
    >>> X = np.linspace(-1, 1, 400).reshape(-1, 1)
    >>> model = TorchRegressor(epochs=30, learning_rate=0.01, random_state=0).fit(X, 1000 * X[:, 0])
    >>> model.score(X, 1000 * X[:, 0]) > 0.99
    True
    """

    _task = "regression"
    _loss = "mse"

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Give the coefficient of determination, R2.

        Parameters
        ----------
        X : object
            As for `predict`.
        y : array [rows], optional
            The numbers; may be left out for a table that holds the target.
        sample_weight : array [rows], optional
            For data in memory.

        Returns
        -------
        float
            1 for a perfect prediction, 0 for that of the mean.
        """
        if y is None:
            check_is_fitted(self, "bundle_")
            return float(self.bundle_.evaluate(_opened(X))["r2"])
        return float(super().score(X, y, sample_weight))

    def _checked_target(self, y: Any, num_rows: int) -> NDArray[Any]:
        from sklearn.utils import check_array, check_consistent_length, column_or_1d

        y = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(y, np.empty(num_rows))
        return np.asarray(y)


def _is_lazy(X: Any) -> bool:
    """Tell what is read by the loader from what scikit-learn's checks may look into."""
    if hasattr(X, "tocsr"):  # scikit-learn's to refuse; some sparse matrices are mappings, too
        return False
    return isinstance(X, str | os.PathLike | pa.Table | Mapping) or hasattr(X, "dask") or hasattr(X, "data_vars")


def _opened(X: Any) -> Any:
    if hasattr(X, "data_vars") or (hasattr(X, "dask") and not hasattr(X, "columns")):
        raise DataError(
            f"X is a {type(X).__name__}, and this estimator takes tables; write it as one with dtk.write_parquet, "
            "for example of dask.dataframe.from_dask_array(X), and open that"
        )
    if isinstance(X, str | os.PathLike):
        from dtk.sources import open as open_data

        return open_data(X)
    if isinstance(X, Mapping):
        source = as_source(X)
        assert isinstance(source, TableSource)
        return source.table
    return X


def _column(given: Any, new: str, argument: str, names: list[str]) -> str:
    """Name the column of a target or weight: one that is there, or a new one for values that come apart."""
    from dtk.config import did_you_mean

    if given is None:
        raise ArgumentError(f"{argument} is missing: name the column to predict, for example target='late'")
    if not isinstance(given, str):
        return new
    if given not in names:
        raise ArgumentError(f"{argument}={given!r} is no column of the data{did_you_mean(given, names)}")
    return given


def _assigned(frame: Any, name: str, values: Any) -> Any:
    """Add values that come apart as a column, which must be of the same partitions for a lazy table."""
    if values is None or isinstance(values, str):
        return frame
    if isinstance(frame, pa.Table):
        return frame.append_column(name, pa.array(values))
    if not hasattr(values, "dask"):
        raise ArgumentError(
            f"{type(values).__name__} of values beside a lazy table: give the name of a column, or a Dask Series of it"
        )
    return frame.assign(**{name: values})


def _is_number(dtype: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(dtype)) and not isinstance(dtype, pd.CategoricalDtype)


def _batch_size(num_rows: int) -> int:
    """Choose a power of two that makes some 64 steps an epoch.

    >>> _batch_size(200), _batch_size(100_000), _batch_size(10**9)
    (32, 2048, 4096)
    """
    wanted = max(1, num_rows // BATCHES_AN_EPOCH)
    return int(min(MOST_BATCH, max(LEAST_BATCH, 1 << wanted.bit_length())))
