"""Specs: every mistake at once, each with its place."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from dtk.cli.job import opened_as, prepare
from dtk.cli.spec import Spec, SplitSpec, read_spec
from dtk.errors import ArgumentError, NotFoundError


@pytest.fixture
def mistakes(tmp_path, flights):
    """Say what is wrong with a spec: the lines of the error."""

    def mistakes(text):
        path = tmp_path / "spec.yaml"
        path.write_text(textwrap.dedent(text).replace("FLIGHTS", str(flights)))
        with pytest.raises(ArgumentError) as caught:
            prepare(path)
        first, *lines = str(caught.value).splitlines()
        assert first == f"{path}: {len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        return [line.strip() for line in lines]

    return mistakes


def test_three_mistakes_at_once(mistakes):
    assert mistakes("""
        data: FLIGHTS
        derive: {late: arr_dely > 15}
        target: lat
        epoch: 3
    """) == [
        "epoch: is no known setting; did you mean 'epochs'?",
        "derive.late: 'arr_dely' is no column; did you mean 'arr_delay'?",
        "target: 'lat' is no column of the data; did you mean 'late'?",
    ]


def test_mistakes_of_every_kind_at_once(mistakes):
    found = mistakes("""
        data: FLIGHTS
        derive: {late: arr_delay > 15}
        filter: [distance, arr_delay.notnull()]
        target: late
        exclude: [carier]
        learning_rate: -1
        split: {fractions: [0.5, 0.6], bye: x}
        kinds: {flight: categry}
        model: {name: mlp, hiden: [3]}
        cluster: {worker: 2, memory: lots}
        class_weight: heavy
        memory: 3 elephants
    """)
    assert sorted(found) == [
        "class_weight='heavy': should be 'balanced', or should be a valid dictionary",
        "cluster.memory='lots': is no size in bytes; write it as '512 MiB' or '1.5 GB'",
        "cluster.worker: is no known setting; did you mean 'workers'?",
        "exclude: 'carier' is no column of the data; did you mean 'carrier'?",
        "filter.0: 'distance' is float64, neither true nor false; compare it with something",
        "kinds.flight='categry': should be 'number', 'category', 'date', 'boolean' or 'ignore'",
        "learning_rate=-1: should be greater than 0",
        "memory='3 elephants': is no size in bytes; write it as '512 MiB' or '1.5 GB'",
        "model: model='mlp' has no option 'hiden'; did you mean 'hidden'?",
        "split.bye: is no known setting; did you mean 'by'?",
        "split.fractions: must sum to 1, not to 1.1",
    ]


def test_data_that_is_not_there_is_one_of_the_mistakes(mistakes):
    found = mistakes("data: nowhere\ntarget: late\nepochs: 0\n")
    assert found[0] == "epochs=0: should be greater than or equal to 1"
    assert "nowhere is not there" in found[1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("inputs: [late, carrier]", "inputs: the target 'late' is no input anyway"),
        ("inputs: [carrier]\nexclude: [carrier]", "exclude: 'carrier' is among the inputs, too"),
        ("task: regression\nclass_weight: balanced", "class_weight='balanced': task: regression has no classes"),
        ("task: classification\ntarget_transform: log1p", "target_transform='log1p': task: classification has no"),
        ("target_transform: log2", "target_transform='log2': 'log2' is unknown; did you mean 'log'"),
        ("target_transform: [{clip: [2, 1]}]", "target_transform: {'clip': [2, 1]}: low=2 must be at most"),
        ("target_transform: log1p", "target_transform: 'late' holds bool, and no numbers to transform"),
        ("sample_weight: late", "sample_weight='late': a column of weights can't be the target"),
        (
            "ranks: 3\ncluster: {workers: 1, threads: 2}",
            "ranks: 3 are too many: a cluster of 1 x 2 threads has room for 2",
        ),
        ("ranks: true", "ranks=True: should be a number"),
        ("cluster: {memory: 10 MiB}", "cluster: memory=10.0 MiB leaves 5.0 MiB to a worker"),
        (
            "cluster: {memory: 2 GiB, rank_memory: 3 GiB}",
            "cluster: rank_memory=3.0 GiB must be less than memory=2.0 GiB",
        ),
        ("cluster: {memory: true}", "cluster.memory=True: is no size in bytes"),
        ("cluster: {dashboard: x}", "cluster.dashboard='x': should be host:port"),
        ("cluster: nowhere.yaml", "cluster: path="),
        ("memory: true", "memory=True: is no size in bytes"),
        ("model: {name: mlp, hidden: [0]}", "model: hidden=[0] must be"),
        ("learning_rate: .inf", "learning_rate=inf: should be a finite number"),
        ("inputs: []", "inputs: names no column; leave it out to learn from all"),
        ("inputs: [carrier, carrier]", "inputs: 'carrier' stands here twice"),
        ("exclude: [date, carrier, flight, distance, arr_delay]", "exclude: leaves no column to learn from"),
        ("kinds: {late: category}", "kinds: 'late' is none of the inputs"),
        ("kinds: {flight: category}\nexclude: flight", "kinds: 'flight' is none of the inputs"),
        ("kinds: {date: number}", "inputs: column 'date' holds timestamp"),
        ("columns: {carrier: OneHotEncodr}", "columns: ['carrier']: 'OneHotEncodr' is no transform; did you mean"),
        ("columns: {distance: {Clip: {lo: 0}}}", "columns: ['distance']: Clip has no parameter 'lo'; did you mean"),
        ("columns: {carier: OneHotEncoder}", "columns: 'carier' is no column of the data; did you mean 'carrier'"),
        ("columns: {late: OneHotEncoder}", "columns: 'late' is none of the inputs"),
        ("columns: {carrier: RobustScaler}", "inputs: column 'carrier' holds str"),
        ("sample_weight: carrier", "sample_weight: 'carrier' holds str"),
        ("class_weight: {maybe: 2}", "class_weight: 'maybe' is no class of 'late'; there is true, and false"),
        ("split: {by: date, at: 20130601}", "split: at=20130601 is no time; write it as '2013-10-01'"),
        ("split: {by: date, at: 2013-06-01}\npatience: 2", "patience=2: needs a validation piece"),
        ("split: {by: date}", "split: by and at go together"),
        ("split: {by: date, fractions: [0.5, 0.5]}", "split: give either fractions, or by and at"),
        ("split: {by: date, at: 2013-06-01, seed: 1, key: flight}", "split: group and key go with fractions"),
        ("split: {by: date, at: soon}", "split: at='soon' is no time"),
        ("split: {by: dat, at: 2013-06-01}", "split.by: 'dat' is no column of the data; did you mean 'date'"),
        ("model: {hidden: [3]}", "model: a model with options needs its name"),
        ("format: parket", "format='parket': should be 'parquet', 'csv', 'zarr' or 'netcdf'"),
    ],
)
def test_what_does_not_go_together(mistakes, setting, message):
    (found,) = mistakes(f"data: FLIGHTS\nderive: {{late: arr_delay > 15}}\ntarget: late\n{setting}\n")
    assert found.startswith(message)


def test_neither_data_nor_target(mistakes):
    assert mistakes("epochs: 3\n") == ["data: is missing", "target: is missing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is no YAML"), ("- a\n", "must hold 'name: value' lines"), ("a: 1\na: 2\n", "'a' is said twice")],
)
def test_no_yaml(tmp_path, text, message):
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(ArgumentError, match=message):
        read_spec(tmp_path / "spec.yaml")


def test_no_file(tmp_path):
    with pytest.raises(NotFoundError, match=r"nix\.yaml"):
        prepare(tmp_path / "nix.yaml")


def test_a_good_spec_gives_the_pieces(spec):
    job = prepare(spec)
    assert job.task == "classification"
    assert job.inputs == ["carrier", "far"]
    assert job.output == str(spec.with_suffix(".bundle"))
    assert list(job.pieces) == ["train", "validation", "test"]
    sizes = {name: len(piece) for name, piece in job.pieces.items()}
    assert sum(sizes.values()) == 3000 - 60  # those without a delay are filtered out
    assert sizes["train"] > sizes["validation"] > 0


@pytest.mark.parametrize(
    ("target", "task"), [("carrier", "classification"), ("distance", "regression"), ("far", "classification")]
)
def test_the_task_is_inferred(spec, target, task):
    text = spec.read_text().replace("target: late", f"target: {target}").replace("[carrier, far]", "[date]")
    spec.write_text(text)
    assert prepare(spec).task == task


def test_a_regressor_gets_the_transform_of_its_target(spec):
    text = spec.read_text().replace("target: late", "target: distance").replace("[carrier, far]", "[date]")
    spec.write_text(f"{text}target_transform: [{{clip: [0, null]}}, log1p]\n")
    assert prepare(spec).estimator().target_transform == [{"clip": [0, None]}, "log1p"]


def test_the_task_of_whole_numbers_must_be_said(spec, mistakes):
    text = spec.read_text().replace("late: arr_delay > 15", "late: flight % 7")
    (found,) = mistakes(text)
    assert found.startswith("task: is missing: 'late' holds whole numbers; say classification, if they are names")
    for task in ("classification", "regression"):
        spec.write_text(f"{text}task: {task}\n")
        assert prepare(spec).task == task
    assert len(mistakes(f"{text}task: clasification\n")) == 1


def test_a_spec_checks_the_cluster_file_that_it_names(tmp_path, mistakes):
    (tmp_path / "cluster.yaml").write_text("kind: local\nworker: 2\n")
    (found,) = mistakes("data: FLIGHTS\ntarget: distance\ncluster: cluster.yaml\n")
    assert "did you mean 'workers'?" in found


def test_data_that_ranks_cannot_read_is_refused_before_a_cluster_starts(tmp_path, mistakes):
    (tmp_path / "data.csv").write_text("x,y\n1.5,2.5\n2.5,3.5\n")
    (found,) = mistakes(f"data: {tmp_path}/data.csv\ntarget: y\n")
    assert found.startswith("data: ")
    assert "dtk.spool" in found


def test_paths_are_relative_to_the_spec(tmp_path, flights):
    (tmp_path / "data").symlink_to(flights)
    (tmp_path / "spec.yaml").write_text("data: data\ntarget: distance\noutput: out/x.bundle\n")
    job = prepare(tmp_path / "spec.yaml")
    assert job.output == str(tmp_path / "out/x.bundle")
    assert job.inputs == ["date", "carrier", "flight", "arr_delay"]


def test_names_of_the_pieces():
    assert SplitSpec(fractions=[0.7, 0.3]).pieces == ("train", "test")
    assert SplitSpec(by="x", at=[1, 2]).pieces == ("train", "validation", "test")


def test_other_data_is_derived_as_far_as_it_is_needed(spec, flights, tmp_path):
    import pandas as pd

    path = tmp_path / "next.parquet"
    pd.read_parquet(flights).drop(columns="arr_delay").to_parquet(path, index=False)
    data = opened_as(str(path), str(spec), ["carrier", "far"], filtered=False)  # late can't be known yet
    assert "far" in data.columns
    assert "late" not in data.columns
    with pytest.raises(ArgumentError, match=r"derive\.late: 'arr_delay' is no column"):
        opened_as(str(path), str(spec), ["far", "late"], filtered=False)
    assert len(opened_as(str(flights), str(spec), ["late"], filtered=True)) == 3000 - 60


def test_the_page_shows_a_good_spec_and_names_every_setting():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    assert Spec.model_validate(example).patience == 2
    assert [name for name in Spec.model_fields if f"`{name}`" not in page] == []
