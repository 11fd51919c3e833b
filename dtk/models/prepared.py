"""A network with its preparation in front of it."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["PreparedModel"]


class PreparedModel(nn.Module):
    """Standardises a batch, then runs a network on it.

    Parameters
    ----------
    preparation : torch.nn.Module
        What `TablePreparation.as_module` returns.
    network : torch.nn.Module
        ``network(inputs)`` where there are no codes, else ``network(inputs, codes)``; `inputs` is None where there
        are codes only.
    """

    def __init__(self, preparation: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preparation = preparation
        self.network = network

    def forward(self, inputs: Tensor | None = None, codes: Tensor | None = None) -> Tensor:
        """Compute the outputs of a batch as the loader gives it.

        Parameters
        ----------
        inputs : torch.Tensor, optional
            float32 [B, features], NaN where missing.
        codes : torch.Tensor, optional
            int64 [B, categories].

        Returns
        -------
        torch.Tensor
            [B, outputs].
        """
        inputs, codes = self.preparation(inputs, codes)
        return self.network(inputs) if codes is None else self.network(inputs, codes)  # type: ignore[no-any-return]
