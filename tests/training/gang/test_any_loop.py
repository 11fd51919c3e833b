"""`dtk.launch` carries loops that are not dtk's, each fed by a loader: plain torch, Lightning, Accelerate."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import dtk
from dtk.errors import ClusterError, DependencyError
from dtk.training.gang import rank
from dtk.training.lightning import trainer_options

pytestmark = pytest.mark.usefixtures("no_rank_left")

EPOCHS = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    table = {f"x{number}": rng.standard_normal(512).astype("f4") for number in range(4)}
    table["y"] = table["x0"] - 2 * table["x1"]
    path = tmp_path_factory.mktemp("any_loop") / "data.parquet"
    pq.write_table(pa.table(table), path, row_group_size=64)
    return path


@pytest.fixture
def loader(data):
    return dtk.Loader(data, target="y", global_batch_size=64, memory="64 MiB")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))


@pytest.fixture(scope="module")
def expected(data):
    """The weights that one process gets by a loop that is written out."""
    loader, module = dtk.Loader(data, target="y", global_batch_size=64, memory="64 MiB"), network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(EPOCHS):
        for batch in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(module(batch["inputs"])[:, 0], batch["target"]).backward()
            optimizer.step()
    return module.state_dict()


def assert_as_expected(ranks, expected):
    for number, (found, samples, state) in enumerate(ranks):
        assert found == number
        assert samples == EPOCHS * 512 // len(ranks)
        for name in expected:
            torch.testing.assert_close(state[name], expected[name], rtol=1e-4, atol=1e-5)


def by_torch(loader):
    module = DistributedDataParallel(network())
    optimizer, samples = torch.optim.SGD(module.parameters(), lr=0.1), 0
    for _ in range(EPOCHS):
        for batch in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(module(batch["inputs"])[:, 0], batch["target"]).backward()
            optimizer.step()
            samples += len(batch["target"])
    return distributed.get_rank(), samples, module.module.state_dict()


def by_lightning(loader):
    from lightning.pytorch import LightningModule, Trainer

    from dtk.training.lightning import trainer_options

    class Regression(LightningModule):
        def __init__(self):
            super().__init__()
            self.module, self.samples = network(), 0

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def training_step(self, batch, number):
            self.samples += len(batch["target"])
            return nn.functional.mse_loss(self.module(batch["inputs"])[:, 0], batch["target"])

    regression = Regression()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=EPOCHS, **quiet, **trainer_options())
    trainer.fit(regression, loader)
    assert trainer.world_size == distributed.get_world_size()
    return trainer.global_rank, regression.samples, regression.module.state_dict()


def by_accelerate(loader):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    module = network()
    module, optimizer = accelerator.prepare(module, torch.optim.SGD(module.parameters(), lr=0.1))
    samples = 0
    for _ in range(EPOCHS):
        for batch in loader:  # it gives each rank its part already: it is not prepared
            optimizer.zero_grad()
            accelerator.backward(nn.functional.mse_loss(module(batch["inputs"])[:, 0], batch["target"]))
            optimizer.step()
            samples += len(batch["target"])
    assert accelerator.num_processes == distributed.get_world_size()
    return accelerator.process_index, samples, accelerator.unwrap_model(module).state_dict()


@pytest.mark.parametrize("loop", [by_torch, by_lightning, by_accelerate])
def test_a_loop_of_another_library_learns_the_same_on_two_ranks(client, loader, expected, loop):
    package = loop.__name__.removeprefix("by_")
    pytest.importorskip(package, reason=f"{package} is not installed: this example is NOT tested")
    assert_as_expected(dtk.launch(loop, loader, ranks=2), expected)


def test_trainer_options_are_for_ranks():
    with pytest.raises(ClusterError, match="this process is no rank"):
        trainer_options()


def test_lightning_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(rank, "_current", rank.RankContext(0, 1, "cpu", print))
    for name in ("lightning", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match="Lightning is not installed; pip install lightning"):
        trainer_options()
