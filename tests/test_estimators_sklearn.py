"""scikit-learn's own checks of its conventions, on both estimators."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from dtk.estimators import TorchClassifier, TorchRegressor

SKIPPED = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a repeated row changes the batches that a seed draws, so the fit is equivalent in expectation only; "
        "tests/training/test_fitting.py checks the weighted gradient itself"
    ),
}


def fast(estimator):
    return estimator(
        {"name": "mlp", "hidden": [32]}, epochs=10, learning_rate=0.05, batch_size=32, random_state=0, progress=False
    )


@parametrize_with_checks([fast(TorchClassifier), fast(TorchRegressor)], expected_failed_checks=lambda _: SKIPPED)
def test_scikit_learn_check(estimator, check):
    check(estimator)
