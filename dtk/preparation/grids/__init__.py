"""Preparation of grids: xarray in, xarray out, fitted in one pass, and as torch modules on batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dtk.errors import DataError
from dtk.preparation.grids.anomaly import Anomaly
from dtk.preparation.grids.base import GridTransform
from dtk.preparation.grids.mask import Mask
from dtk.preparation.grids.scaler import GridScaler
from dtk.preparation.grids.weights import latitude_weights

__all__ = ["Anomaly", "GridScaler", "GridTransform", "Mask", "grid_transform_from_dict", "latitude_weights"]

_CLASSES: dict[str, type[GridTransform]] = {kind.__name__: kind for kind in (Anomaly, GridScaler, Mask)}


def grid_transform_from_dict(state: Mapping[str, Any]) -> GridTransform:
    """Rebuild a transform of grids.

    Parameters
    ----------
    state : mapping
        What its `to_dict` returned, also after a round trip through JSON.

    Returns
    -------
    GridTransform
        That computes the same, bit for bit.

    Raises
    ------
    DataError
        If it is none that dtk knows.
    """
    if state.get("as") not in _CLASSES:
        raise DataError(f"{state.get('as')!r} is no transform of grids; there are {sorted(_CLASSES)}")
    return _CLASSES[state["as"]].from_dict(state)
