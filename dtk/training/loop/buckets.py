"""In what order replicas sum their gradients: the same from the first step on, in every launch."""

from __future__ import annotations

import torch
from torch.nn.parallel import DistributedDataParallel

__all__ = ["fix_buckets"]


def fix_buckets(replica: DistributedDataParallel) -> None:
    """Let a replica put its gradients into the buckets that it keeps; all ranks call it before their first step.

    DDP deals gradients into buckets anew after its first backward, in the order in which they came. With three ranks or
    more a bucket's layout decides in which order numbers are added up, so that a training which went on from a
    checkpoint would round otherwise in its first step than one that was not interrupted. Here the first backward is one
    that is of no step: from the last parameter to the first, as a module's own does.

    Parameters
    ----------
    replica : torch.nn.parallel.DistributedDataParallel
        One that does not look for unused parameters: such a one keeps its first buckets.
    """
    trained = [parameter for parameter in replica.module.parameters() if parameter.requires_grad]
    replica.reducer.prepare_for_backward([])
    torch.autograd.backward([parameter.sum() for parameter in trained])
    replica.zero_grad(set_to_none=True)
