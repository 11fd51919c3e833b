"""A loader of the rows that a preparation was cross-fitted to encodes each without what its own target taught."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dtk
from dtk.loader import Loader
from dtk.preparation.samples import SampleEncoder
from dtk.preparation.transforms import ColumnTransformer, SimpleImputer, StandardScaler, TargetEncoder
from dtk.sources import as_source, counted
from dtk.sources.row_numbers import RowNumbers, first_rows

ROWS = 4000


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    category = pd.Series(rng.integers(0, 800, ROWS).astype("str")).where(rng.random(ROWS) > 0.05)
    return pd.DataFrame(
        {
            "id": category,
            "kind": rng.integers(0, 5, ROWS),
            "n": np.arange(ROWS, dtype=np.float64),
            "x": rng.normal(size=ROWS),
            "y": rng.normal(size=ROWS),
        }
    )


def written(frame, path, row_group_size=250):
    path.mkdir()
    for number, start in enumerate(range(0, len(frame), 1000)):
        table = pa.Table.from_pandas(frame[start : start + 1000], preserve_index=False)
        pq.write_table(table, path / f"{number}.parquet", row_group_size=row_group_size)
    return str(path)


def preparation(**options):
    return ColumnTransformer(
        [
            ("id", TargetEncoder(**options), ["id"]),
            ("kind", [TargetEncoder(**options), StandardScaler()], ["kind"]),
            ("n", "passthrough", ["n"]),
        ]
    )


def encoded(prepare, loader):
    """Return what the module makes of all samples of an epoch: a row of features for each `n`."""
    module, found = prepare.as_module(), []
    for batch in loader:
        features, _ = module(batch.get("inputs"), batch.get("codes"))
        found.append(features[batch["weight"] > 0].double().numpy())
    rows = np.concatenate(found)
    return rows[np.argsort(rows[:, -1], kind="stable")]


def in_folds(prepare, frame, numbers):
    """Return what the fit makes of rows by their numbers."""
    return np.concatenate(
        [_applied(steps, frame[names], numbers) for _, steps, names in prepare.transformers_ if steps]
        + [frame[["n"]].to_numpy()],
        axis=1,
    )


def _applied(steps, columns, numbers):
    from dtk.preparation.transforms.chains import apply_steps
    from dtk.preparation.transforms.given import given_frame

    given = given_frame(columns, None)
    return apply_steps(steps, given.names, given.columns, numbers)


def assert_equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def small(data, prepare, **options):
    return Loader(data, preparation=prepare, target="y", global_batch_size=100, tail="pad", **options)


@pytest.mark.parametrize("row_group_size", [1000, 150])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_rows_of_the_fit_are_encoded_as_fit_transform_does(frame, tmp_path, row_group_size, shuffle):
    expected = preparation().fit_transform(frame, "y")
    path = written(frame, tmp_path / "data", row_group_size)
    for data in (path, dtk.open(path), dtk.open(path)[["id", "kind", "n", "y"]], dtk.open(path).assign(w=1.0)):
        prepare = preparation().fit(dtk.open(path), "y")
        loader = small(data, prepare, shuffle=shuffle)
        assert loader.in_folds
        assert_equal(encoded(prepare, loader), expected)
    assert not np.allclose(expected, preparation().fit(frame, "y").transform(frame))


def test_ranks_see_the_same_rows_encoded_alike(frame, tmp_path):
    path = written(frame, tmp_path / "data", 61)
    prepare = preparation().fit(path, "y")
    loader = small(path, prepare)
    parts = [encoded(prepare, pickle.loads(pickle.dumps(loader.on_rank(rank, 2)))) for rank in range(2)]
    both = np.concatenate(parts)
    assert_equal(both[np.argsort(both[:, -1])], preparation().fit_transform(frame, "y"))


def of_scan(prepare, source):
    """Return what rows of a source are encoded as by the numbers that a scan gives them."""
    counts = counted(source)
    numbers = RowNumbers.of(counts).at(np.arange(int(counts.chunk_rows.sum())))
    rows = pd.concat([source.read(chunk).to_pandas() for chunk in range(source.num_chunks)])
    found = in_folds(prepare, rows, numbers)
    return found[np.argsort(found[:, -1])]


def test_rows_below_a_filter_are_encoded_by_the_numbers_of_the_scan(frame, tmp_path):
    path = written(frame, tmp_path / "data", 500)
    train, valid = dtk.split(dtk.open(path), fractions=[0.7, 0.3], seed=3)
    for fitted_to in (train, counted(as_source(train)), train.assign(x=0.0)[["id", "kind", "n", "x", "y"]]):
        prepare = preparation().fit(fitted_to, "y")
        loader, held = small(train, prepare), small(valid, prepare)
        assert loader.in_folds
        assert_equal(encoded(prepare, loader), of_scan(prepare, as_source(train)))
        assert held.in_folds is False
        whole = prepare.transform(valid.compute())
        assert_equal(encoded(prepare, held), whole[np.argsort(whole[:, -1])])


def test_row_groups_that_are_joined_keep_their_numbers(frame, tmp_path, monkeypatch):
    monkeypatch.setattr("dtk.loader.joining._POOL_BLOCKS", 8)  # else only thousands of row groups are
    data = dtk.open(written(frame, tmp_path / "data", 61))
    data = data[data["x"] > -2.5]
    prepare = preparation().fit(data, "y")
    loader = small(data, prepare)
    assert loader.plan.num_chunks < as_source(data).num_chunks
    assert_equal(encoded(prepare, loader), of_scan(prepare, as_source(data)))


def test_row_groups_in_slices_keep_their_numbers(frame, tmp_path):
    path = str(tmp_path / "one.parquet")
    wide = pd.concat([frame] * 25, ignore_index=True).assign(n=np.arange(25 * ROWS, dtype=np.float64))
    pq.write_table(pa.Table.from_pandas(wide), path, row_group_size=len(wide))
    prepare = preparation().fit(path, "y")
    loader = small(path, prepare, memory="6 MiB")
    assert loader.plan.slice_rows
    assert_equal(encoded(prepare, loader), preparation().fit_transform(wide, "y"))


def test_data_in_memory_is_known_by_its_values(frame):
    prepare = preparation().fit(frame.drop(columns="y"), frame["y"])
    expected = preparation().fit_transform(frame, "y")
    given = (frame, pa.Table.from_pandas(frame), {name: frame[name].to_numpy() for name in frame})
    for data in given:
        for memory in ("1 GiB", "350 kB"):  # all encoded at once, or as it is read
            loader = small(data, prepare, memory=memory)
            assert loader.in_folds
            assert_equal(encoded(prepare, loader), expected)
    for other in (frame[::-1], frame[:-1], frame.assign(kind=frame["kind"] + 1)):
        assert small(other, prepare).in_folds is False


def test_rows_drawn_with_replacement_keep_their_numbers(frame, tmp_path):
    path = written(frame.assign(w=np.abs(frame["x"])), tmp_path / "data")
    prepare = preparation().fit(path, "y")
    expected = preparation().fit_transform(frame, "y")
    found = encoded(prepare, small(path, prepare, sampling="w"))
    assert len(np.unique(found[:, -1])) < ROWS
    assert_equal(found, expected[found[:, -1].astype(int)])


def test_rows_of_windows_keep_their_numbers(frame, tmp_path):
    path = written(frame.assign(t=np.arange(ROWS)), tmp_path / "data")
    prepare = preparation().fit(path, "y")
    expected = preparation().fit_transform(frame, "y")
    window = dtk.Window("t", history=3, lead=1)
    loader = Loader(path, preparation=prepare, target="y", window=window, global_batch_size=100)
    assert loader.in_folds
    module = prepare.as_module()
    for batch in loader:
        inputs, codes = batch["inputs"], batch["codes"]
        features = module(inputs.flatten(0, 1), codes.flatten(0, 1))[0].double().numpy()
        assert_equal(features, expected[features[:, -1].astype(int)])


def test_what_is_not_fitted_to_these_rows_is_encoded_in_full(frame, tmp_path):
    path, other = written(frame, tmp_path / "data"), written(frame[::-1], tmp_path / "other")
    prepare = preparation().fit(path, "y")
    loader = small(path, prepare)
    assert small(other, prepare).in_folds is False
    assert small(dtk.open(path).query("x > 0"), prepare).in_folds is False
    assert small(path, ColumnTransformer.from_dict(prepare.to_dict())).in_folds is False  # the folds are not saved
    assert small(path, pickle.loads(pickle.dumps(prepare))).in_folds
    parts = ColumnTransformer([("id", TargetEncoder(), ["id"])])
    assert small(frame, parts.partial_fit(frame, "y")).in_folds
    assert small(frame, parts.partial_fit(frame, "y")).in_folds is False
    plain = ColumnTransformer([("n", [SimpleImputer(), StandardScaler()], ["n"])]).fit(path)
    assert small(path, plain).in_folds is None
    whole = prepare.transform(frame)
    assert loader.for_evaluation().in_folds is None
    assert_equal(encoded(prepare, loader.for_evaluation()), whole)
    assert_equal(encoded(prepare, loader), preparation().fit_transform(frame, "y"))
    inner = SampleEncoder(prepare)
    assert Loader(path, preparation=inner, target="y").in_folds
    assert_equal(encoded(prepare, small(path, inner)), preparation().fit_transform(frame, "y"))


class _Watched(torch.nn.Module):
    """Keeps the largest code that it was given in training, and in validation."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.largest = {True: 0, False: 0}

    def forward(self, inputs, codes):
        self.largest[self.training] = max(self.largest[self.training], int(codes.max()))
        return self.line(inputs[:, -1])


def test_a_training_warns_of_leaks_and_validates_on_whole_encodings(frame, tmp_path):
    timed = frame.assign(t=np.arange(ROWS))
    path, other = written(timed, tmp_path / "data"), written(timed[:2000], tmp_path / "other")
    prepare = preparation().fit(path, "y")
    num_codes = max(len(step.categories_[0]) for _, (step, *_), _ in prepare.transformers_[:2]) + 2
    window = dtk.Window("t", history=2, lead=1)
    options = {"preparation": prepare, "target": "y", "window": window, "global_batch_size": 500}
    loader, held = Loader(path, **options), Loader(path, **options, tail="pad")
    module = _Watched()
    dtk.train(module, loader, validation=held, ranks=1)
    assert module.largest[True] >= num_codes > module.largest[False] > 0
    with pytest.warns(UserWarning, match="they are shown their own target: fit the preparation to the data of the"):
        dtk.train(_Watched(), Loader(other, **options), ranks=1)


def test_a_scan_numbers_counted_rows_as_it_numbers_others(frame, tmp_path):
    path = written(frame, tmp_path / "data")
    source = as_source(dtk.open(path).query("x > 0"))
    assert first_rows(source).tolist() == first_rows(counted(source)).tolist()
    assert first_rows(as_source(path)).tolist() == list(range(0, ROWS, 250))


def losses(prepare, loader, epochs=12):
    """Train a small network, and return the mean squared error on the rows that it was trained on, by `n`."""
    torch.manual_seed(0)
    module = prepare.as_module()
    network = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(epochs):
        errors = []
        for batch in loader:
            features, _ = module(batch.get("inputs"), batch.get("codes"))
            error = (network(features)[:, 0] - batch["target"]) ** 2
            errors.append(error.detach())
            optimizer.zero_grad()
            error.mean().backward()
            optimizer.step()
    return float(torch.cat(errors).mean())


def test_a_random_category_teaches_a_model_nothing(tmp_path):
    rng = np.random.default_rng(2)
    noise = pd.DataFrame({"id": rng.integers(0, 2000, ROWS).astype("str"), "y": rng.normal(size=ROWS)})
    path = written(noise, tmp_path / "noise")
    prepare = ColumnTransformer([("id", TargetEncoder(smooth=1.0), ["id"])]).fit(path, "y")
    loader = small(path, prepare)
    chance = noise["y"].var()
    assert losses(prepare, loader) > 0.97 * chance
    assert losses(prepare, loader.for_evaluation()) < 0.7 * chance  # rows that see their own target
    held = pd.DataFrame({"id": rng.integers(0, 2000, ROWS).astype("str"), "y": rng.normal(size=ROWS)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small(held, prepare).in_folds is False
