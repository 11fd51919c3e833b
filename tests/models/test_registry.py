from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from torch import nn

from dtk.errors import ArgumentError
from dtk.models import MLP, ModelSchema, PreparedModel, build, check_model, spec_to_dict
from dtk.preparation import TablePreparation

SCHEMA = ModelSchema(num_inputs=3, cardinalities=(5, 2), num_outputs=2)


class Net(nn.Module):
    """A user's network, made from the schema."""

    def __init__(self, schema: ModelSchema) -> None:
        super().__init__()
        self.layer = nn.Linear(schema.num_inputs, schema.num_outputs)

    def forward(self, inputs: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        return self.layer(inputs)


def make_net(schema: ModelSchema) -> nn.Module:
    return Net(schema)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


@pytest.mark.parametrize(
    "spec", ["mlp", {"name": "mlp", "hidden": [8, 4], "dropout": 0.1, "norm": "layer"}, Net, make_net]
)
def test_a_seed_decides_the_weights_and_torchs_own_state_is_left_alone(spec: object) -> None:
    before = torch.random.get_rng_state()
    first, second, other = build(spec, SCHEMA, seed=1), build(spec, SCHEMA, seed=1), build(spec, SCHEMA, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same_weights(first, second)
    assert not same_weights(first, other)
    check_model(first, SCHEMA)


def test_a_module_is_copied() -> None:
    mine = Net(SCHEMA)
    built = build(mine, SCHEMA)
    assert same_weights(mine, built)
    with torch.no_grad():
        built.layer.bias += 1
    assert not same_weights(mine, built)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mpl", "model='mpl' is no model of dtk; did you mean 'mlp'"),
        ({"dropout": 0.1}, "model=None is no model of dtk"),
        ({"name": "mlp", "droput": 0.1}, "model='mlp' has no option 'droput'; did you mean 'dropout'"),
        ({"name": "mlp", "num_inputs": 3}, "has no option 'num_inputs'"),
        ({"name": "mlp", "hidden": [0]}, r"hidden=\[0\] must be widths"),
        ({"name": "mlp", "hidden": "64"}, r"hidden='64' must be widths"),
        ({"name": "mlp", "hidden": [64.0]}, r"hidden=\[64.0\] must be widths"),
        ({"name": "mlp", "dropout": 1.0}, r"dropout=1.0 must be"),
        ({"name": "mlp", "dropout": np.nan}, r"dropout=nan must be"),
        ({"name": "mlp", "dropout": "0.1"}, r"dropout='0.1' must be"),
        ({"name": "mlp", "dropout": torch.tensor(0.1)}, r"dropout=tensor.* is Tensor, which a bundle cannot hold"),
        ({"name": "mlp", "norm": "batch"}, r"norm='batch' must be 'layer' or None"),
        (3, "model=3 must be a name"),
        (lambda schema: None, "returned NoneType; it must return a torch module"),
    ],
)
def test_wrong_specs_are_refused(spec: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build(spec, SCHEMA)
    if isinstance(spec, str | dict):  # nor are they described
        with pytest.raises(ArgumentError, match=message):
            spec_to_dict(spec)


def test_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"Linear fails on a batch of shapes \[2, 3\]: RuntimeError"):
        check_model(nn.Linear(7, 2), ModelSchema(3, (), 2))
    with pytest.raises(ArgumentError, match=r"returns \[2, 1\] for 2 rows; it must return \[2, 2\]"):
        check_model(nn.Linear(3, 1), ModelSchema(3, (), 2))
    with pytest.raises(ArgumentError, match=r"returns \[2\] for 2 rows; it must return \[2, outputs\]"):
        check_model(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), ModelSchema(3, (), 1))
    with pytest.raises(ArgumentError, match=r"returns tuple for 2 rows"):
        check_model(nn.LSTM(3, 2), ModelSchema(3, (), 2))
    network = nn.Linear(3, 2).train()
    check_model(network, ModelSchema(3, (), 2))
    assert network.training


def test_specs_are_described_in_json() -> None:
    named = spec_to_dict({"name": "mlp", "hidden": (8, 4)})
    assert json.loads(json.dumps(named)) == named == {"name": "mlp", "hidden": [8, 4]}
    assert same_weights(build(named, SCHEMA), build({"name": "mlp", "hidden": (8, 4)}, SCHEMA))
    assert spec_to_dict("mlp") == {"name": "mlp"}
    state = torch.random.get_rng_state()
    spec = spec_to_dict({"name": "mlp", "hidden": np.array([8, 4]), "dropout": np.float64(0.5)})
    assert json.loads(json.dumps(spec)) == {"name": "mlp", "hidden": [8, 4], "dropout": 0.5}
    assert torch.equal(torch.random.get_rng_state(), state)
    for custom in (Net, Net(SCHEMA)):
        assert spec_to_dict(custom)["custom"].endswith(":Net")
    assert spec_to_dict(make_net)["custom"].endswith(":make_net")
    assert spec_to_dict(functools.partial(make_net))["custom"] == "functools:partial"
    assert ModelSchema.from_dict(json.loads(json.dumps(SCHEMA.to_dict()))) == SCHEMA


@pytest.mark.parametrize("schema", [ModelSchema(3, (), 1), ModelSchema(0, (4,), 3), ModelSchema(2, (4, 10_001), 2)])
def test_mlp_takes_inputs_codes_or_both(schema: ModelSchema) -> None:
    network = build("mlp", schema)
    check_model(network, schema)
    assert isinstance(network, MLP)
    assert [embedding.num_embeddings for embedding in network.embeddings] == list(schema.cardinalities)


def test_every_category_reaches_the_output() -> None:
    network = build("mlp", SCHEMA).eval()
    inputs = torch.zeros(5, 3)
    codes = torch.stack([torch.arange(5), torch.zeros(5, dtype=torch.int64)], dim=1)
    assert len(torch.unique(network(inputs, codes), dim=0)) == 5


def test_no_hidden_layer_is_a_linear_model() -> None:
    network = build({"name": "mlp", "hidden": []}, ModelSchema(3, (), 1))
    assert [type(layer) for layer in network.layers] == [nn.Linear]


def test_prepared_model_standardises_and_saves_the_network_alone() -> None:
    table = {"x": torch.tensor([1.0, 3.0]).numpy()}
    preparation = TablePreparation().fit(table)
    network = nn.Linear(1, 1)
    model = PreparedModel(preparation.as_module(), network)
    expected = network(torch.tensor([[-1.0], [1.0], [0.0]]))
    torch.testing.assert_close(model(torch.tensor([[1.0], [3.0], [float("nan")]])), expected)
    assert set(model.state_dict()) == {"network.weight", "network.bias"}
