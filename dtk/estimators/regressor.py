"""A regressor for tables, with scikit-learn's conventions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from dtk.estimators.base import TorchEstimator
from dtk.models import ModelSpec
from dtk.preparation.target_transform import target_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TorchRegressor"]


class TorchRegressor(RegressorMixin, TorchEstimator):
    """Predicts a number for each row of a table with a PyTorch network, by default a perceptron with embeddings.

    The network sees the target transformed and standardised, and so does the loss; predictions are in its own unit.

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
    target_transform : str, mapping, Transform or list of these, optional
        What the target goes through before it is standardised: ``"log1p"``, ``"log"``, ``"signed_log"``,
        ``"yeo-johnson"``, ``"box-cox"``, ``"quantile"``, or ``{"clip": [low, high]}`` with None for an open side; or
        transforms of `dtk.preparation.transforms`, or scikit-learn's. Predictions are what undoes all of it.
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

    def __init__(
        self,
        model: ModelSpec = "mlp",
        *,
        target: str | None = None,
        epochs: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int | None = None,
        patience: int | None = None,
        target_transform: Any = None,
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
        self.target_transform = target_transform

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Give the coefficient of determination, R2.

        Parameters
        ----------
        X : object
            As for `predict`.
        y : str, array [rows] or dask.dataframe.Series, optional
            The numbers, or their column in `X`; may be left out for a table that holds the target of the fit.
        sample_weight : str or array [rows], optional
            The samples' weights, or their column in `X`; for data in memory.

        Returns
        -------
        float
            1 for a perfect prediction, 0 for that of the mean.

        Raises
        ------
        ArgumentError
            If `y` is missing or no column, or there are weights for lazy data.
        """
        return self._scored(X, y, sample_weight, metric="r2", score=super().score)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        target_steps(self.target_transform)

    def _checked_target(self, y: Any, num_rows: int) -> NDArray[Any]:
        y = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(y, np.empty(num_rows))
        return np.asarray(y)
