"""Bundles of networks that the user wrote: how they travel, and that none is taken for another."""

from __future__ import annotations

import importlib
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from distributed import Client
from torch import nn

from dtk.bundle import Bundle, load
from dtk.errors import BundleError
from dtk.models import ModelSchema, ModelSpec, build
from dtk.preparation import NumberTarget, TablePreparation

SCHEMA = ModelSchema(2, (), 1)
SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, schema):
        super().__init__()
        self.layer = nn.Linear(schema.num_inputs, schema.num_outputs)

    def forward(self, inputs):
        return self.layer(inputs)
"""


def make_frame() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=["a", "b", "y"])


def make_bundle(model: ModelSpec) -> Bundle:
    network = build(model, SCHEMA)
    target = NumberTarget("y", 0.0, 1.0)
    return Bundle.from_network(network, preparation=TablePreparation.raw(["a", "b"]), target=target, model=model)


def is_as_here(client: Client, bundle: Bundle) -> None:
    frame = make_frame()
    data = dd.from_pandas(frame, npartitions=3)
    predicted = client.compute(bundle.predict(data)).result(timeout=60)
    np.testing.assert_allclose(predicted, bundle.predict(frame), rtol=1e-5)
    assert bundle.evaluate(data) == pytest.approx(bundle.evaluate(frame), rel=1e-5)


def test_a_file_that_the_workers_have_not_travels_along(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.wait_for_workers(1)  # workers that start later would inherit the path
    (tmp_path / "net_of_my_own.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("net_of_my_own")
    is_as_here(client, make_bundle(module.Net))
    is_as_here(client, make_bundle(module.Net(SCHEMA)))


def test_a_package_that_the_workers_have_not_is_an_error(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a wait for ever: a worker that fails to unpickle what it receives never answers."""
    package = types.ModuleType("ghost")
    exec(SOURCE.replace("class Net", "__name__ = 'ghost'\nclass Net"), package.__dict__)
    monkeypatch.setitem(sys.modules, "ghost", package)
    bundle = make_bundle(package.Net)
    data = dd.from_pandas(make_frame(), npartitions=2)
    with pytest.raises(BundleError, match=r"model='ghost:Net' cannot be built here: .*workers cannot import"):
        client.compute(bundle.predict(data)).result(timeout=60)
    with pytest.raises(BundleError, match=r"No module named 'ghost'.*install it there"):
        bundle.evaluate(data)


def define(factor: int) -> type[nn.Module]:
    class Net(nn.Module):
        def __init__(self, schema: ModelSchema) -> None:
            super().__init__()
            self.layer = nn.Linear(schema.num_inputs, schema.num_outputs)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layer(inputs) * factor

    return Net


def test_a_class_defined_anew_is_another_network(client: Client, tmp_path: Path) -> None:
    """As in a notebook: the same name, the same weights, another forward."""
    make_bundle(define(1)).save(tmp_path / "mine")
    frame = make_frame()
    data = dd.from_pandas(frame, npartitions=2)
    first, second = (load(tmp_path / "mine", module=define(factor)) for factor in (1, 1000))
    assert dask.base.tokenize(first) != dask.base.tokenize(second)
    np.testing.assert_allclose(second.predict(frame), 1000 * first.predict(frame), rtol=1e-5)
    lazy = [client.persist(bundle.predict(data)) for bundle in (first, second)]
    np.testing.assert_allclose(lazy[1].compute(), 1000 * lazy[0].compute(), rtol=1e-5)


class Tied(nn.Module):
    """Two layers of one weight, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(2, 1000)
        self.inner = nn.Linear(1000, 1000, bias=False)
        self.again = nn.Linear(1000, 1000, bias=False)
        self.again.weight = self.inner.weight
        self.down = nn.Linear(1000, 1)
        self.register_buffer("shift", torch.tensor(3.0))
        self.register_buffer("scale", torch.tensor(5.0), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.down(self.again(self.inner(self.up(inputs)))) * self.scale + self.shift


def test_weights_travel_once_and_ties_stay() -> None:
    bundle = make_bundle(Tied())
    assert len(pickle.dumps(bundle)) < 1.01 * len(bundle.weights)
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(bundle))))  # from client to scheduler to worker
    np.testing.assert_array_equal(again.predict(make_frame()), bundle.predict(make_frame()))
    network = again.network()
    assert network.again.weight is network.inner.weight
    assert network.inner.weight.requires_grad
    assert dask.base.tokenize(again) == dask.base.tokenize(bundle)


@pytest.mark.parametrize("make", [lambda schema: nn.Linear(schema.num_inputs, schema.num_outputs), nn.LazyLinear])
def test_whatever_makes_a_module_travels(make: Callable[..., nn.Module]) -> None:
    spec = nn.LazyLinear(1) if make is nn.LazyLinear else make
    network = build(spec, SCHEMA)
    network(torch.zeros(1, 2))
    bundle = Bundle.from_network(
        network, preparation=TablePreparation.raw(["a", "b"]), target=NumberTarget("y", 0.0, 1.0), model=spec
    )
    again = pickle.loads(pickle.dumps(bundle))
    np.testing.assert_array_equal(again.predict(make_frame()), bundle.predict(make_frame()))
