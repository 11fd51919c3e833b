"""Three real ranks: one that goes on rounds as one that was never interrupted."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dtk.training.gang.launching import launch
from dtk.training.loop.buckets import fix_buckets

pytestmark = pytest.mark.usefixtures("no_rank_left")


class Crossed(nn.Module):
    """Of several buckets, and used in another order than it was made."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.third, self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 700), nn.Linear(700, 64)
        self.last = nn.Linear(64, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)

    def forward(self, inputs):
        return self.last(torch.tanh(self.third(torch.tanh(self.second(torch.tanh(self.first(inputs)))))))


def resume(is_fixed):
    """Train 6 steps, and 3 and 3; tell whether the weights are the same."""

    def replica(module):
        made = DistributedDataParallel(module, gradient_as_bucket_view=True, bucket_cap_mb=0.05)
        if is_fixed:
            fix_buckets(made)
            assert all(parameter.grad is None for parameter in module.parameters())
        return made, torch.optim.SGD(module.parameters(), lr=0.01)

    def train(module, steps):
        made, optimizer = replica(module)
        for step in steps:
            generator = torch.Generator().manual_seed(100 * step + distributed.get_rank())
            inputs = torch.randn(16, 64, generator=generator)
            optimizer.zero_grad(set_to_none=True)
            (made(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
        return module

    whole = train(Crossed(), range(6))
    resumed = train(train(Crossed(), range(3)), range(3, 6))
    return all(map(torch.equal, whole.parameters(), resumed.parameters()))


@pytest.mark.slow
def test_three_ranks_go_on_to_the_same_bits():
    from distributed import Client

    with Client(processes=False, n_workers=1, threads_per_worker=3, dashboard_address="127.0.0.1:0"):
        assert launch(resume, True, ranks=3, threads=1) == [True] * 3
        assert launch(resume, False, ranks=3, threads=1) == [False] * 3  # else this test says nothing
