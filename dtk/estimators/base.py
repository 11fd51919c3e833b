"""What classifier and regressor share: from data and arguments to a trained bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_feature_names, _check_sample_weight, check_is_fitted, validate_data

from dtk.errors import ArgumentError
from dtk.estimators.arguments import check_arguments
from dtk.estimators.inputs import (
    TARGET,
    WEIGHT,
    Labelled,
    arrow_table,
    column_names,
    is_in_memory,
    is_table,
    new_name,
    opened,
    refuse_loader,
    take_labels,
    with_column,
)
from dtk.estimators.unfitted import Unfitted
from dtk.estimators.validation import (
    check_held,
    held_and_labels,
    held_loader,
    is_share,
    naming,
    num_rows,
    refuse_empty,
    split_share,
)
from dtk.loader import Encoder, Loader, Plan
from dtk.models import ModelSchema, ModelSpec, build
from dtk.preparation import ClassTarget, NumberTarget, SampleEncoder, TablePreparation, table_of_array
from dtk.preparation.fit import fit_target
from dtk.sources import Source, as_source, counted
from dtk.training.fitting import fit_network
from dtk.training.loop.optimizers import resolve_optimizer
from dtk.training.loop.recipe import Recipe
from dtk.training.run import run_recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TorchEstimator"]

LEAST_BATCH: Final = 32
MOST_BATCH: Final = 4096
BATCHES_AN_EPOCH: Final = 64


@dataclass(frozen=True)
class _Pieces:
    """Training data, validation data, and what both are shares of."""

    train: Labelled
    held: Labelled | None = None
    whole: Labelled | None = None


class TorchEstimator(BaseEstimator):
    """What classifier and regressor share.

    Parameters
    ----------
    model, target, epochs, learning_rate, batch_size, patience, kinds, columns : object
        As for `TorchClassifier`.
    memory, ranks, random_state, progress : object
        As for `TorchClassifier`.
    """

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
        columns: Mapping[Any, Any] | None = None,
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
        self.columns = columns
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
            A share of `X`, chosen by a hash of its rows, or other data, of which a table holds the target under the
            name that it has in `X`: it is evaluated after each epoch, each row with the same weight, and the best
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
        self._check_arguments()
        if self.patience is not None and validation is None:
            raise ArgumentError(f"patience={self.patience!r} needs validation data; give validation=")
        pieces = self._pieces(X, y, sample_weight, validation)
        source, held = self._sources(pieces, validation)
        preparation, target = self._prepare(pieces, source)
        if pieces.held is not None and held is not None:
            with naming("validation"):
                check_held(pieces.held, held.schema, preparation, target)
        self._learn_target(target)
        batch_size = self._chosen_batch_size(source)
        weight = pieces.train.weight
        encoder = SampleEncoder(preparation, target=target, weight=weight, class_weight=self._class_weight())
        schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities, target.num_outputs)
        seed = self._seed()
        self.bundle_, self.report_ = fit_network(
            build(self.model, schema, seed=seed),
            self.model,
            preparation,
            target,
            self._loader(source, encoder, seed),
            None if held is None else held_loader(held, preparation, target, batch_size=batch_size, memory=self.memory),
            loss=self._loss,
            optimizer=resolve_optimizer("adam", self.learning_rate),
            recipe=partial(Recipe, epochs=self.epochs, patience=self.patience, seed=seed),
            run=partial(run_recipe, ranks=self.ranks, hang_timeout_s=300.0, progress=self.progress),
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
            Lazy for a Dask DataFrame, with its index and partitions, and for a path, as for what `dtk.open` makes of
            it; an array for data in memory.

        Raises
        ------
        DataError
            If a column is missing, or of another type than at fit.
        """
        check_is_fitted(self, "bundle_")
        return self.bundle_.predict(self._inputs(X, reset=False))

    def plan(self, X: Any, y: Any = None, sample_weight: Any = None, validation: Any = None) -> Plan:
        """Say what a fit on this data would read, in which order, and at what cost; nothing is fitted.

        Parameters
        ----------
        X, y, sample_weight, validation : object
            As for `fit`.

        Returns
        -------
        Plan
            Of the training data. Where a filter or a share for validation hides how many rows there are, they are
            counted first.

        Raises
        ------
        ArgumentError
            If an argument cannot work.
        DataError
            If the data cannot be read.
        """
        fresh = clone(self)  # so that a fitted estimator stays as it is
        if fresh.random_state is None:
            fresh.random_state = 0  # one of those that a fit may draw
        plan: Plan = fresh._own_plan(X, y, sample_weight, validation)
        return plan

    def _own_plan(self, X: Any, y: Any, sample_weight: Any, validation: Any) -> Plan:
        self._check_arguments()
        pieces = self._pieces(X, y, sample_weight, validation)
        source, _ = self._sources(pieces, validation)
        unfitted = Unfitted(source.schema, pieces.train, self._preparation(), self._task)
        return self._loader(source, unfitted, self._seed()).plan

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

    def _checked_target(self, y: Any, num_rows: int) -> NDArray[Any]:
        raise NotImplementedError

    def _check_arguments(self) -> None:
        check_arguments(self.get_params(deep=False))

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _pieces(self, X: Any, y: Any, sample_weight: Any, validation: Any) -> _Pieces:
        """Make tables of training and validation data; nothing is read of what is lazy."""
        shared = validation is not None and is_share(validation)
        train = self._train(X, y, sample_weight)
        if validation is None:
            return _Pieces(train)
        if shared:
            return _Pieces(*split_share(train, validation), train)
        with naming("validation"):
            return _Pieces(train, self._held(*held_and_labels(validation), train.target))

    def _train(self, X: Any, y: Any, sample_weight: Any) -> Labelled:
        """Make a table of training data, and learn the names of its inputs."""
        refuse_loader(X)
        argument, y = ("y", y) if y is not None else ("target", self.target)
        if y is None:
            raise ArgumentError(
                f"target is missing: {type(self).__name__} requires y to be passed, but the target y is None; "
                "give y, or name the column to predict, for example target='late'"
            )
        if not is_table(X):
            return self._train_in_memory(X, y, sample_weight, argument)
        data = opened(X)
        names = column_names(data)
        target = y if isinstance(y, str) else new_name(y, names, TARGET)
        data = with_column(data, target, y, argument=argument)
        weight = None
        if sample_weight is not None:
            is_name = isinstance(sample_weight, str)
            weight = sample_weight if is_name else new_name(sample_weight, [*names, target], WEIGHT)
            data = with_column(data, weight, sample_weight, argument="sample_weight")
        self.feature_names_in_ = np.array([name for name in names if name not in (target, weight)], dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        self._aside = [name for name in (target, weight) if name in names]
        return Labelled(data, target, weight)

    def _train_in_memory(self, X: Any, y: Any, sample_weight: Any, argument: str) -> Labelled:
        inputs, y_values, weights, taken = take_labels(X, y, sample_weight, argument=argument)
        self._aside = taken
        table = self._inputs(inputs, reset=True)
        target = y if isinstance(y, str) else new_name(y, table.column_names, TARGET)
        y_values = self._checked_target(y_values, table.num_rows)
        table = with_column(table, target, y_values, argument=argument)
        weight = None
        if weights is not None:
            weights = _check_sample_weight(weights, np.empty(len(y_values)), dtype=np.float64)
            if (weights < 0).any():
                raise ArgumentError(
                    f"sample_weight is negative in {int((weights < 0).sum())} rows; leave them out, or give 0"
                )
            weight = new_name(sample_weight, table.column_names, WEIGHT)
            table = with_column(table, weight, weights, argument="sample_weight")
        return Labelled(table, target, weight)

    def _held(self, X: Any, y: Any, target: str) -> Labelled:
        """Make a table of validation data, with the target under the name that it has in the training data."""
        refuse_loader(X, "the data")
        data = opened(X) if is_table(X) else X
        if y is None and target not in column_names(data):
            raise ArgumentError(f"there is no column of the target {target!r}; give validation=(X, y)")
        y = target if y is None else y
        if is_table(X):
            return Labelled(with_column(data, target, y, argument="y"), target)
        inputs, values, _, _ = take_labels(data, y, None)
        table = self._inputs(inputs, reset=False)
        values = self._checked_target(values, table.num_rows)
        return Labelled(with_column(table, target, values, argument="y"), target)

    def _sources(self, pieces: _Pieces, validation: Any) -> tuple[Source, Source | None]:
        """Count the rows of all pieces, and refuse those without any."""
        source = counted(as_source(pieces.train.data), progress=bool(self.progress))
        if pieces.held is None:
            return source, None
        with naming("validation"):
            held = counted(as_source(pieces.held.data), progress=bool(self.progress))
        refuse_empty(source, held, share=None if pieces.whole is None else validation)
        return source, held

    def _preparation(self) -> TablePreparation:
        return TablePreparation(kinds=self.kinds, columns=self.columns)

    def _prepare(self, pieces: _Pieces, source: Source) -> tuple[TablePreparation, ClassTarget | NumberTarget]:
        """Fit the preparation on the training data, and learn the classes of all pieces of it."""
        train = pieces.train
        preparation = self._preparation()
        transform = getattr(self, "target_transform", None)
        options: dict[str, Any] = {"target_transform": transform, "progress": bool(self.progress)}
        preparation.fit(source, target=train.target, task=self._task, weight=train.weight, **options)
        target = preparation.target
        if pieces.whole is not None:
            whole = fit_target(pieces.whole.data, source.schema, train.target, self._task)
            target = whole if isinstance(whole, ClassTarget) else target  # numbers are standardised by training data
        assert target is not None
        return preparation, target

    def _chosen_batch_size(self, source: Source) -> int:
        return _batch_size(num_rows(source)) if self.batch_size is None else int(self.batch_size)

    def _loader(self, source: Source, encoder: Encoder, seed: int) -> Loader:
        return Loader(
            source,
            preparation=encoder,
            global_batch_size=min(self._chosen_batch_size(source), max(num_rows(source), 1)),
            seed=seed,
            memory=self.memory,
        )

    def _inputs(self, X: Any, *, reset: bool) -> Any:
        """Check inputs by scikit-learn's rules if they are in memory; leave alone what is a table of its own."""
        if is_table(X):
            return opened(X)
        if (
            isinstance(X, pd.DataFrame) and not reset
        ):  # the table of the fit, target and weight included, may come again
            X = X.drop(columns=[name for name in self._aside if name in X.columns])
        if isinstance(X, pd.DataFrame) and not all(map(_is_number, X.dtypes)):
            _check_feature_names(self, X, reset=reset)
            if reset:
                self.n_features_in_ = X.shape[1]
            return arrow_table(X)
        names = list(X.columns) if isinstance(X, pd.DataFrame) and all(isinstance(name, str) for name in X) else None
        array = validate_data(self, X, ensure_all_finite="allow-nan", reset=reset, dtype="numeric")
        table = table_of_array(array)
        return table.rename_columns(names) if names is not None else table

    def _scored(
        self, X: Any, y: Any, sample_weight: Any, *, metric: str, score: Callable[[Any, Any, Any], float]
    ) -> float:
        """Score on the cluster what is lazy, else by scikit-learn's `score`."""
        check_is_fitted(self, "bundle_")
        refuse_loader(X)
        assert self.bundle_.target is not None
        target = self.bundle_.target.name
        is_whole = isinstance(X, pd.DataFrame) and (y is None or isinstance(y, str))  # may hold more than the inputs
        data = opened(X) if is_table(X) else arrow_table(X) if is_whole else X
        if y is None and target not in column_names(data):
            raise ArgumentError(f"y is missing: X has no column of the target; give {type(self).__name__}.score(X, y)")
        y = target if y is None else y
        if is_in_memory(X):
            inputs, labels, weights, _ = take_labels(data, y, sample_weight)
            return float(score(inputs, labels, weights))
        if sample_weight is not None:
            raise ArgumentError("sample_weight is for data in memory here; compute X, or score it without weights")
        return float(self.bundle_.evaluate(with_column(data, target, y, argument="y"))[metric])


def _is_number(dtype: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(dtype)) and not isinstance(dtype, pd.CategoricalDtype)


def _batch_size(rows: int) -> int:
    """Choose a power of two that makes some 64 steps an epoch.

    >>> _batch_size(200), _batch_size(100_000), _batch_size(10**9)
    (32, 2048, 4096)
    """
    wanted = max(1, rows // BATCHES_AN_EPOCH)
    return int(min(MOST_BATCH, max(LEAST_BATCH, 1 << wanted.bit_length())))
