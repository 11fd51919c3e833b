"""Transforms: scikit-learn's, and those of the field, fitted out of core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dtk.errors import DataError
from dtk.preparation.transforms.base import Transform
from dtk.preparation.transforms.bins import Binarizer, KBinsDiscretizer
from dtk.preparation.transforms.booleans import AsBooleans
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
from dtk.preparation.transforms.specs import steps_from_spec
from dtk.preparation.transforms.target_encoding import TargetEncoder
from dtk.preparation.transforms.text import CountVectorizer, TextNormalizer, TfidfVectorizer
from dtk.preparation.transforms.tokens import BpeTokenizer, WordTokenizer, trim_to_bucket
from dtk.sources.columns import close_to

__all__ = [
    "AsBooleans",
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
    "steps_from_spec",
    "transform_from_dict",
    "trim_to_bucket",
]

TRANSFORMS: Final[dict[str, type[Transform]]] = {
    kind.__name__: kind
    for kind in (
        AsBooleans,
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
    if state.get("as") not in TRANSFORMS:
        raise DataError(f"{state.get('as')!r} is no transform of dtk; {close_to(state.get('as'), list(TRANSFORMS))}")
    return TRANSFORMS[state["as"]].from_dict(state)
