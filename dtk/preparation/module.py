"""The part of preparation that runs inside the network, on the device of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dtk.preparation.columns import Feature

__all__ = ["Standardise"]


class Standardise(nn.Module):
    """Imputes and standardises inputs: ``clip((inputs - mean) / scale)``, and a fixed value where missing.

    Parameters
    ----------
    features : sequence of Feature
        One a column of the inputs.

    Notes
    -----
    The buffers are no part of the state dict: they are rebuilt from the fitted preparation.
    """

    mean: Tensor
    scale: Tensor
    fill: Tensor
    bound: Tensor

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        for name in ("mean", "scale", "fill", "bound"):
            numbers = torch.tensor([getattr(feature, name) for feature in features], dtype=torch.float32)
            self.register_buffer(name, numbers, persistent=False)

    def forward(self, inputs: Tensor | None = None, codes: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Prepare a batch.

        Parameters
        ----------
        inputs : torch.Tensor, optional
            float32 [B, features], NaN where missing.
        codes : torch.Tensor, optional
            int64 [B, categories].

        Returns
        -------
        tuple
            `inputs` imputed and standardised, and `codes` as they were.
        """
        if inputs is None:
            return None, codes
        standard = torch.clamp((inputs - self.mean) / self.scale, -self.bound, self.bound)
        return torch.where(torch.isnan(inputs), self.fill, standard), codes
