"""A classifier for tables, with scikit-learn's conventions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from dtk.estimators.base import TorchEstimator
from dtk.models import ModelSpec
from dtk.preparation import ClassTarget, NumberTarget

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TorchClassifier"]


class TorchClassifier(ClassifierMixin, TorchEstimator):
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
    columns : mapping, optional
        Transforms of some columns, in place of those of their kind, see `TablePreparation`.
    memory : int or str
        For the loader of each rank, in bytes; that of validation data takes up to a quarter of it besides.
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
        columns: Mapping[Any, Any] | None = None,
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
            columns=columns,
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
            In the order of `classes_`; lazy for a Dask DataFrame or a path.
        """
        check_is_fitted(self, "bundle_")
        return self.bundle_.predict(self._inputs(X, reset=False), proba=True)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Give the accuracy.

        Parameters
        ----------
        X : object
            As for `predict`.
        y : str, array [rows] or dask.dataframe.Series, optional
            The classes, or their column in `X`; may be left out for a table that holds the target of the fit.
        sample_weight : str or array [rows], optional
            The samples' weights, or their column in `X`; for data in memory.

        Returns
        -------
        float
            Share of rows whose class is predicted right.

        Raises
        ------
        ArgumentError
            If `y` is missing or no column, or there are weights for lazy data.
        """
        return self._scored(X, y, sample_weight, metric="accuracy", score=super().score)

    def _class_weight(self) -> str | Mapping[Any, float] | None:
        return self.class_weight

    def _learn_target(self, target: ClassTarget | NumberTarget) -> None:
        assert isinstance(target, ClassTarget)
        self.classes_ = target.labels

    def _checked_target(self, y: Any, num_rows: int) -> NDArray[Any]:
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_consistent_length(y, np.empty(num_rows))
        check_classification_targets(y)
        return np.asarray(y)
