"""Fitted objects as plain JSON, of those that `dtk.preparation.transforms` has no list of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from sklearn.base import BaseEstimator

from dtk.errors import DataError
from dtk.preparation.transforms.state import decode, encode

__all__ = ["StoredTransform"]


class StoredTransform(BaseEstimator):
    """A transform that goes to plain JSON and back: its parameters, and the attributes that end with an underscore."""

    @staticmethod
    def _encoded(value: Any) -> Any:
        """Turn a value into plain JSON."""
        return encode(value)

    @staticmethod
    def _decoded(value: Any) -> Any:
        """Undo `_encoded`."""
        return decode(value)

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            Parameters and what was fitted, to the last bit.
        """
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_") and name[0] != "_"}
        return {
            "as": type(self).__name__,
            "parameters": {name: self._encoded(value) for name, value in self.get_params(deep=False).items()},
            "fitted": {name: self._encoded(value) for name, value in fitted.items()},
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild a transform.

        Parameters
        ----------
        state : mapping
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        StoredTransform
            Of this class, that computes the same, bit for bit.

        Raises
        ------
        DataError
            If it is the state of another class.
        """
        if state.get("as") != cls.__name__:
            raise DataError(f"the state is of {state.get('as')!r}, and not of {cls.__name__!r}")
        made = cls(**{name: cls._decoded(value) for name, value in state["parameters"].items()})
        for name, value in state["fitted"].items():
            setattr(made, name, cls._decoded(value))
        return made
