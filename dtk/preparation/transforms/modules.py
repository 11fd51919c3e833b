"""The numeric stage of a transform as a torch module, on the device of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from array_api_compat import array_namespace
from torch import Tensor, nn

if TYPE_CHECKING:
    from dtk.preparation.transforms.base import Transform

__all__ = ["TransformModule"]


class TransformModule(nn.Module):
    """What a fitted transform computes.

    Parameters
    ----------
    transform : Transform
        Fitted; its arrays become buffers, which are no part of the state dict: they come from the transform.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.dtype = torch.float64 if transform._wide else torch.float32
        for name, array in transform._parameters().items():
            values = torch.tensor(array)
            values = values.to(self.dtype) if values.is_floating_point() else values
            self.register_buffer(name, values, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of a batch.

        Parameters
        ----------
        x : torch.Tensor
            [B, encoded columns], NaN where missing.

        Returns
        -------
        torch.Tensor
            [B, features].
        """
        given = x.double() if self.transform._wide else x
        result: Tensor = self.transform._forward(given, dict(self.named_buffers()), array_namespace(x))
        return result.to(x.dtype) if self.transform._wide else result
