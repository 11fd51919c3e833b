"""profile, plan, train, evaluate and predict, over real files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest

import dtk


def test_profile(run, flights, tmp_path):
    result = run("profile", flights, "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.stderr
    assert "carrier" in result.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!")
    report = json.loads(run("profile", flights, "--target", "distance", "--json").stdout)
    assert report["num_rows"] == 3000
    assert run("profile", flights, "--target", "distnace").exit_code == 1


def test_plan_runs_nothing_but_the_count(run, spec):
    result = run("plan", spec, "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert (plan["task"], plan["inputs"]) == ("classification", ["carrier", "far"])
    assert plan["counting_nbytes"] > 0
    assert plan["num_steps"] == plan["num_rows"] // 256
    assert plan["ranks"]["1"]["memory_nbytes"] <= plan["memory_limit_nbytes"]
    assert plan["ranks"]["1"]["share_nbytes"] == 1 << 30
    assert plan["bundle"] == str(spec.with_suffix(".bundle"))
    told = run("plan", spec)
    assert "counting" in told.stdout
    assert "steps" in told.stdout
    assert "counting rows" in told.stderr
    assert "with 1 rank each holds about" in told.stdout


def test_plan_without_filters_needs_no_count(run, flights, tmp_path):
    (tmp_path / "spec.yaml").write_text(f"data: {flights}\ntarget: distance\n")
    plan = json.loads(run("plan", tmp_path / "spec.yaml", "--json").stdout)
    assert plan["counting_nbytes"] is not None  # a split by fractions is a filter, too
    assert len(plan["ranks"]) == 1  # one a worker of the cluster that would be started
    (tmp_path / "spec.yaml").write_text(f"data: {flights}\ntarget: distance\ncluster: tcp://127.0.0.1:1\n")
    plan = json.loads(run("plan", tmp_path / "spec.yaml", "--json").stdout)
    assert set(plan["ranks"]) == {"1", "2", "4", "8"}  # nobody asked that cluster
    assert plan["ranks"]["1"]["share_nbytes"] is None


@pytest.mark.parametrize(
    ("cluster", "remedy"),
    [
        (
            "{workers: 1, threads: 1, memory: 1 GiB, rank_memory: 300 MiB}",
            "; raise cluster.rank_memory or cluster.memory",
        ),
        (
            "{workers: 1, threads: 1, memory: 1 GiB, rank_memory: 600.1 MiB}",
            "; lower memory, or raise cluster.rank_memory",
        ),
    ],
)
def test_plan_refuses_a_rank_that_train_would_refuse(run, spec, cluster, remedy):
    before, _, _ = spec.read_text().partition("cluster:")
    spec.write_text(f"{before}cluster: {cluster}\n")
    result = run("plan", spec)
    assert result.exit_code == 1
    assert "a rank would hold" in result.stderr
    assert remedy in result.stderr


@pytest.mark.parametrize(
    ("at", "piece"),
    [
        ("2013-10-01, 2015-01-01", "test"),
        ("2012-01-01, 2013-06-01", "train"),
        ("2013-05-05T00:01, 2013-05-05T00:02", "validation"),
    ],
)
def test_a_piece_without_rows_is_refused(run, spec, at, piece):
    spec.write_text(spec.read_text().replace("at: [2013-10-01, 2013-11-01]", f"at: [{at}]"))
    result = run("plan", spec)
    assert result.exit_code == 1
    assert (
        f"error: {spec}: split: the {piece} piece has no rows; at must lie within 'date', which goes from 2013-01-01"
        in (result.stderr)
    )


def test_train_refuses_a_piece_without_rows(run, spec):
    spec.write_text(spec.read_text().replace("2013-11-01]", "2015-01-01]"))
    result = run("train", spec)
    assert result.exit_code == 1
    assert "the test piece has no rows" in result.stderr
    assert "epoch" not in result.stderr


def test_train_to_the_end(start, spec, flights, run, tmp_path):
    planned = json.loads(run("plan", spec, "--json").stdout)
    process = start("train", spec, "--json")
    printed, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    result = json.loads(printed)
    assert result["bundle"] == str(spec.with_suffix(".bundle"))
    assert result["num_epochs"] == 2
    assert len(result["history"]) == 2
    assert 0 <= result["wait_share"] <= 1
    assert result["peak_nbytes"] > 0
    assert result["bundle"] == planned["bundle"]
    assert planned["ranks"]["1"]["planned_peak_nbytes"] == pytest.approx(result["planned_peak_nbytes"], rel=1e-3)
    assert "dashboard: http://127.0.0.1:" in told
    evaluated = run("evaluate", result["bundle"], flights, "--spec", spec, "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert set(json.loads(evaluated.stdout)["metrics"]) == set(result["metrics"])
    again = run("train", spec)
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    left = {entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("torchinductor")}  # torch's own
    assert left == {"late.yaml", "late.bundle"}


def test_train_refuses_before_anything_runs(run, spec, tmp_path):
    (tmp_path / "taken").mkdir()
    result = run("train", spec, "--output", tmp_path / "taken")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: output=")
    assert "dashboard" not in result.stderr
    result = run("train", spec, "--output", tmp_path / "taken", "--overwrite")
    assert "is no bundle" in result.stderr
    assert "dashboard" not in result.stderr
    result = run("train", spec, "--output", spec / "below.bundle")
    assert result.exit_code == 1
    assert "is a file" in result.stderr
    assert "dashboard" not in result.stderr
    spec.write_text(spec.read_text() + "epoch: 3\n")
    assert run("train", spec).stderr.startswith(f"error: {spec}: 1 mistake\n")


def test_evaluate_needs_the_derived_columns(run, bundle, flights, spec):
    result = run("evaluate", bundle, flights)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: column 'far' is missing")
    result = run("evaluate", bundle, flights, "--spec", spec)
    assert result.exit_code == 0, result.stderr
    assert "auroc" in result.stdout


def test_predict(run, bundle, flights, spec, tmp_path):
    output = tmp_path / "out"
    result = run("predict", bundle, flights, output, "--spec", spec, "--keep", "flight", "--keep", "far", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["num_rows"], told["columns"]) == (3000, ["flight", "far", "prediction"])
    written, data = pd.read_parquet(output), pd.read_parquet(flights)
    data["far"] = data["distance"] > 1000
    np.testing.assert_array_equal(written["flight"], data["flight"])
    np.testing.assert_array_equal(written["prediction"], dtk.load(bundle).predict(data))
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("out")] == ["out"]


def test_predict_probabilities_and_overwrite(run, bundle, flights, spec, tmp_path):
    output = tmp_path / "out"
    assert run("predict", bundle, flights, output, "--spec", spec).exit_code == 0
    refused = run("predict", bundle, flights, output, "--spec", spec, "--proba")
    assert refused.exit_code == 1
    assert "is there already" in refused.stderr
    assert run("predict", bundle, flights, output, "--spec", spec, "--proba", "--overwrite").exit_code == 0
    written = pd.read_parquet(output)
    assert list(written.columns) == ["probability_False", "probability_True"]
    np.testing.assert_allclose(written.sum(axis=1), 1)


def test_predict_never_replaces_its_input(run, bundle, flights, spec, tmp_path):
    year = tmp_path / "year"
    shutil.copytree(flights, year / "2013")
    before = {path: path.read_bytes() for path in year.rglob("*.parquet")}
    (tmp_path / "link").symlink_to(year)
    for output in (year / "2013", year, tmp_path / "link"):
        result = run("predict", bundle, year / "2013", output, "--spec", spec, "--overwrite")
        assert result.exit_code == 1
        assert result.stderr == f"error: path={str(output)!r} holds files that frame is read from; write elsewhere\n"
    assert {path: path.read_bytes() for path in year.rglob("*") if path.is_file()} == before


def test_a_format_that_names_do_not_tell(run, bundle, flights, spec, tmp_path):
    frame = pd.read_parquet(flights)
    frame["date"] = frame["date"].astype(str)
    frame.to_csv(tmp_path / "flights.txt", index=False)
    for arguments in (
        ["inspect", tmp_path / "flights.txt"],
        ["profile", tmp_path / "flights.txt"],
        ["evaluate", bundle, tmp_path / "flights.txt", "--spec", spec],
        ["predict", bundle, tmp_path / "flights.txt", tmp_path / "out", "--spec", spec],
    ):
        assert "--format" in run(arguments[0], "--help").stdout
        assert run(*arguments).exit_code == 1
        result = run(*arguments, "--format", "csv")
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("keep", "message"), [("flihgt", "did you mean 'flight'"), ("prediction", "is the name of a prediction")]
)
def test_columns_to_keep_are_checked(run, bundle, flights, spec, tmp_path, keep, message):
    result = run("predict", bundle, flights, tmp_path / "out", "--spec", spec, "--keep", keep)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_on_a_cluster(run, client, bundle, flights, spec, tmp_path):
    address = client.scheduler.address
    evaluated = run("evaluate", bundle, flights, "--spec", spec, "--cluster", address, "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    alone = json.loads(run("evaluate", bundle, flights, "--spec", spec, "--json").stdout)
    assert json.loads(evaluated.stdout)["metrics"] == pytest.approx(alone["metrics"])
    predicted = run("predict", bundle, flights, tmp_path / "out", "--spec", spec, "--cluster", address)
    assert predicted.exit_code == 0, predicted.stderr
    assert len(pd.read_parquet(tmp_path / "out")) == 3000


def test_a_bundle_that_is_not_there(run, flights, tmp_path):
    result = run("evaluate", tmp_path / "nix.bundle", flights)
    assert result.exit_code == 1
    assert "nix.bundle" in result.stderr


def test_predictions_are_the_same_to_go_on_with_in_every_process(bundle, flights):
    script = f"""
        import dtk
        from dtk.sources.identity import expression_identity
        from dtk.sources.write import carries_state
        data = dtk.open({str(flights)!r})
        predicted = dtk.load({str(bundle)!r}).predict(data.assign(far=data.distance > 1000))
        print(carries_state(predicted.expr.optimize()), expression_identity(predicted.expr).digest)
    """
    call = [sys.executable, "-c", textwrap.dedent(script)]
    told = {subprocess.run(call, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(told) == 1
    assert told.pop().startswith("True ")
