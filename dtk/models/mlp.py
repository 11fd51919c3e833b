"""The multilayer perceptron, with embeddings for categories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dtk.errors import ArgumentError

__all__ = ["MLP", "embedding_dim"]


def embedding_dim(cardinality: int) -> int:
    """Return the width of an embedding, by the rule of thumb of fastai.

    Parameters
    ----------
    cardinality : int
        Number of codes.

    Returns
    -------
    int
        ``round(1.6 * cardinality**0.56)``, from 1 to 50.

    Examples
    --------
    >>> embedding_dim(3), embedding_dim(10_001)
    (3, 50)
    """
    return max(1, min(50, round(1.6 * math.pow(cardinality, 0.56))))


class MLP(nn.Module):
    """A multilayer perceptron over numbers and embedded categories.

    Parameters
    ----------
    num_inputs : int
        Columns of `inputs`.
    cardinalities : sequence of int
        Number of codes of each column of `codes`.
    num_outputs : int
        Columns of what it returns.
    hidden : sequence of int
        Widths of the hidden layers; none of them makes a linear model.
    dropout : float
        Share of hidden values that is dropped in training, from 0 up to 1.
    norm : str, optional
        ``"layer"`` normalises each hidden layer; None does not.

    Raises
    ------
    ArgumentError
        If an option cannot work.

    Notes
    -----
    The width of embeddings follows Guo and Berkhahn, "Entity embeddings of categorical variables" (2016), in spirit,
    and fastai in its figures; see `embedding_dim`.
    """

    def __init__(
        self,
        num_inputs: int,
        cardinalities: Sequence[int] = (),
        num_outputs: int = 1,
        *,
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        widths = [hidden] if isinstance(hidden, int) else hidden
        if not isinstance(widths, list | tuple) or any(not isinstance(width, int) or width < 1 for width in widths):
            raise ArgumentError(f"hidden={hidden!r} must be widths of at least 1, for example (256, 128)")
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ArgumentError(f"dropout={dropout!r} must be at least 0 and less than 1")
        if norm not in (None, "layer"):
            raise ArgumentError(f"norm={norm!r} must be 'layer' or None")
        self.embeddings = nn.ModuleList(nn.Embedding(number, embedding_dim(number)) for number in cardinalities)
        width = num_inputs + sum(embedding_dim(number) for number in cardinalities)
        layers: list[nn.Module] = []
        for wide in widths:
            layers.append(nn.Linear(width, wide))
            if norm == "layer":
                layers.append(nn.LayerNorm(wide))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = wide
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_outputs))

    def forward(self, inputs: Tensor | None = None, codes: Tensor | None = None) -> Tensor:
        """Compute the outputs of a batch.

        Parameters
        ----------
        inputs : torch.Tensor, optional
            float32 [B, num_inputs]; None where there are none.
        codes : torch.Tensor, optional
            int64 [B, categories]; None where there are none.

        Returns
        -------
        torch.Tensor
            float32 [B, num_outputs].
        """
        parts = [] if inputs is None else [inputs]
        if codes is not None:
            parts += [embedding(codes[:, column]) for column, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])  # type: ignore[no-any-return]
