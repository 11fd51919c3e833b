"""What a network is told about its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

__all__ = ["ModelSchema"]


@dataclass(frozen=True)
class ModelSchema:
    """The shapes that a network must fit: ``forward(inputs, codes) -> outputs``.

    Parameters
    ----------
    num_inputs : int
        Columns of `inputs`, float32 [B, num_inputs]; 0 where there are none.
    cardinalities : tuple of int
        Number of codes of each column of `codes`, int64 [B, len(cardinalities)]; empty where there are none.
    num_outputs : int
        Columns of what the network returns, [B, num_outputs]: one a class, or 1 for a number.
    """

    num_inputs: int
    cardinalities: tuple[int, ...] = ()
    num_outputs: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            The fields by name.
        """
        return {
            "num_inputs": self.num_inputs,
            "cardinalities": list(self.cardinalities),
            "num_outputs": self.num_outputs,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild a schema.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        ModelSchema
            Equal to the first.
        """
        return cls(state["num_inputs"], tuple(state["cardinalities"]), state["num_outputs"])
