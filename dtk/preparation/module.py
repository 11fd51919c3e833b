"""The numeric stage of groups of columns as a torch module, on the device of the batch.

It stands apart from the transforms: a rank whose columns go through none need not load these, nor scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from dtk.preparation.transforms.parts import Part

__all__ = ["ColumnsModule"]


class ColumnsModule(nn.Module):
    """What fitted groups of columns compute.

    Parameters
    ----------
    parts : sequence of Part
        The groups, in order.

    Notes
    -----
    Codes that no group makes numbers of, for embeddings, are passed on beside the numbers.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.groups = nn.ModuleList()
        self._codes: list[slice] = []
        stops = {"inputs": 0, "codes": 0}
        for part in parts:
            columns = slice(stops[part.field], stops[part.field] + part.width)
            stops[part.field] = columns.stop
            if part.gives_codes:
                self._codes.append(columns)
            else:
                self.groups.append(_Group(part, columns))
        self._all_codes = [slice(0, stops["codes"])] == self._codes

    def forward(self, inputs: Tensor | None = None, codes: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Compute the output of a batch.

        Parameters
        ----------
        inputs : torch.Tensor, optional
            float32 [B, encoded numbers], NaN where missing.
        codes : torch.Tensor, optional
            int64 [B, encoded codes].

        Returns
        -------
        inputs : torch.Tensor or None
            float32 [B, features].
        codes : torch.Tensor or None
            int64 [B, columns] for embeddings.
        """
        found = [group(inputs, codes) for group in self.groups]
        left = None
        if self._codes:
            assert codes is not None
            left = codes if self._all_codes else torch.cat([codes[:, columns] for columns in self._codes], dim=1)
        if not found:
            return None, left
        return found[0] if len(found) == 1 else torch.cat(found, dim=1), left


class _Group(nn.Module):
    """The numeric stage of one group: of the columns in a slice of the inputs or of the codes."""

    is_wide: Tensor

    def __init__(self, part: Part, columns: slice) -> None:
        super().__init__()
        self.steps = nn.Sequential(*(step.as_module() for step in part.second))
        self._field, self._columns, self._has_wide = part.field, columns, bool(part.wide)
        is_wide = torch.zeros(part.width, dtype=torch.bool)
        is_wide[list(part.wide)] = True
        self.register_buffer("is_wide", is_wide, persistent=False)

    def forward(self, inputs: Tensor | None, codes: Tensor | None) -> Tensor:
        """Compute the features [B, features]."""
        given = inputs if self._field == "inputs" else codes
        assert given is not None
        x = given[:, self._columns]
        result: Tensor = self.steps(x)
        return torch.where(self.is_wide, x, result) if self._has_wide else result
