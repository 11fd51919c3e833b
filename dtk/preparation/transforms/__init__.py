"""Transforms: scikit-learn's, and those of the field, fitted out of core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dtk.errors import DataError
from dtk.preparation.transforms.base import Transform
from dtk.preparation.transforms.bins import Binarizer, KBinsDiscretizer
from dtk.preparation.transforms.categories import OneHotEncoder, OrdinalEncoder
from dtk.preparation.transforms.composition import ColumnTransformer
from dtk.preparation.transforms.conversion import from_sklearn
from dtk.preparation.transforms.dates import DateFeatures, ParseDates
from dtk.preparation.transforms.distributions import Clip, LogTransformer, PowerTransformer, QuantileTransformer
from dtk.preparation.transforms.frequencies import EmbeddingCodes, FrequencyEncoder
from dtk.preparation.transforms.hashing import HashingEncoder
from dtk.preparation.transforms.imputing import SimpleImputer
from dtk.preparation.transforms.scaling import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from dtk.preparation.transforms.scikit import SklearnTransform
from dtk.preparation.transforms.target_encoding import TargetEncoder
from dtk.preparation.transforms.text import CountVectorizer, TextNormalizer, TfidfVectorizer
from dtk.preparation.transforms.tokens import BpeTokenizer, WordTokenizer, trim_to_bucket
from dtk.sources.columns import close_to

__all__ = [
    "Binarizer",
    "BpeTokenizer",
    "Clip",
    "ColumnTransformer",
    "CountVectorizer",
    "DateFeatures",
    "EmbeddingCodes",
    "FrequencyEncoder",
    "HashingEncoder",
    "KBinsDiscretizer",
    "LogTransformer",
    "MaxAbsScaler",
    "MinMaxScaler",
    "OneHotEncoder",
    "OrdinalEncoder",
    "ParseDates",
    "PowerTransformer",
    "QuantileTransformer",
    "RobustScaler",
    "SimpleImputer",
    "SklearnTransform",
    "StandardScaler",
    "TargetEncoder",
    "TextNormalizer",
    "TfidfVectorizer",
    "Transform",
    "WordTokenizer",
    "from_sklearn",
    "transform_from_dict",
    "trim_to_bucket",
]

_CLASSES: dict[str, type[Transform]] = {
    kind.__name__: kind
    for kind in (
        Binarizer,
        BpeTokenizer,
        Clip,
        ColumnTransformer,
        CountVectorizer,
        DateFeatures,
        EmbeddingCodes,
        FrequencyEncoder,
        HashingEncoder,
        KBinsDiscretizer,
        LogTransformer,
        MaxAbsScaler,
        MinMaxScaler,
        OneHotEncoder,
        OrdinalEncoder,
        ParseDates,
        PowerTransformer,
        QuantileTransformer,
        RobustScaler,
        SimpleImputer,
        SklearnTransform,
        StandardScaler,
        TargetEncoder,
        TextNormalizer,
        TfidfVectorizer,
        WordTokenizer,
    )
}


def transform_from_dict(state: Mapping[str, Any]) -> Transform:
    """Rebuild a transform.

    Parameters
    ----------
    state : mapping
        What its `to_dict` returned, also after a round trip through JSON.

    Returns
    -------
    Transform
        That computes the same, bit for bit.

    Raises
    ------
    DataError
        If it is none that dtk knows.
    """
    if state.get("as") not in _CLASSES:
        raise DataError(f"{state.get('as')!r} is no transform of dtk; {close_to(state.get('as'), list(_CLASSES))}")
    return _CLASSES[state["as"]].from_dict(state)
