"""scikit-learn's own checks of every transform."""

from __future__ import annotations

from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

from dtk.preparation import transforms

NO_ESTIMATORS = (
    *("ColumnTransformer", "SklearnTransform", "Transform", "from_sklearn", "steps_from_spec"),
    *("transform_from_dict", "trim_to_bucket"),
    # these take text or dates, and the checks give arrays of floats
    *("BpeTokenizer", "CountVectorizer", "TextNormalizer", "TfidfVectorizer", "WordTokenizer"),
    *("DateFeatures", "ParseDates"),
    "AsBooleans",  # turns Arrow columns into such, and what comes out of an array are objects
)
EVERY = [getattr(transforms, name)() for name in transforms.__all__ if name not in NO_ESTIMATORS]


@parametrize_with_checks(EVERY)
def test_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)
