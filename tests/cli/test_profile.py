"""dtk profile: checks against a schema and against what is known, and the exit code."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml


@pytest.fixture
def later(flights, tmp_path):
    """Other flights: of another carrier, farther, and with an hour that is there twice."""
    frame = pd.read_parquet(flights)
    frame.loc[5, "carrier"] = "ZZ"
    frame["distance"] += 400
    path = tmp_path / "later.parquet"
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=700)
    return path


def test_a_schema_is_proposed_kept_and_broken(run, flights, later, tmp_path):
    path = tmp_path / "flights.yaml"
    result = run("profile", flights, "--write-schema", path)
    assert result.exit_code == 0, result.output
    assert f"schema: {path}" in result.stdout
    proposed = yaml.safe_load(path.read_text())
    assert proposed["columns"]["carrier"] == {
        "kind": "category",
        "missing": 0.0,
        "values": ["AA", "DL", "UA"],
    }
    result = run("profile", flights, "--schema", path)
    assert result.exit_code == 0, result.output
    assert "rules checked: nothing is violated" in result.stdout
    page = tmp_path / "page.html"
    result = run("profile", later, "--schema", path, "--html", page)
    assert result.exit_code == 1
    row = next(line for line in result.stdout.splitlines() if line.startswith("carrier   values"))
    assert row.split()[-4:] == ["1", "(<0.1%)", "ZZ", "5"]
    assert "be one of" in page.read_text()
    result = run("profile", later, "--schema", path, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["is_valid"] is False
    assert {one["rule"] for one in report["violations"]} == {"max", "values"}


def test_a_schema_that_is_there_is_not_replaced_unasked(run, flights, tmp_path):
    path = tmp_path / "flights.yaml"
    path.write_text("mine")
    result = run("profile", flights, "--write-schema", path)
    assert (result.exit_code, path.read_text()) == (1, "mine")
    assert "is there already; choose another, or add --overwrite" in result.stderr
    assert run("profile", flights, "--write-schema", path, "--overwrite").exit_code == 0
    assert "columns:" in path.read_text()
    assert "no file can be there" in run("profile", flights, "--write-schema", tmp_path / "no" / "x.yaml").stderr


def test_mistakes_in_a_schema_are_told_before_the_pass(run, flights, tmp_path):
    path = tmp_path / "flights.yaml"
    path.write_text("columns: {carrier: {vlaues: [AA]}}")
    result = run("profile", flights, "--schema", path)
    assert result.exit_code == 1
    assert "columns.carrier.vlaues: is no known setting; did you mean 'values'?" in result.stderr
    result = run("profile", flights, "--against", tmp_path / "none.json")
    assert (result.exit_code, "is no file" in result.stderr) == (1, True)
    assert run("profile", flights, "--against", path, "--drift", "psi").exit_code == 2


def test_drift_from_a_profile(run, flights, later, tmp_path):
    known = tmp_path / "known.json"
    known.write_text(run("profile", flights, "--json").stdout)
    assert run("profile", flights, "--against", known).exit_code == 0
    result = run("profile", later, "--against", known)
    assert result.exit_code == 1
    assert {line.split()[1] for line in result.stdout.splitlines() if line.endswith("beyond")} >= {"mean", "ks", "psi"}
    limits = ("--drift", "psi=9", "--drift", "ks=0.9", "--drift", "mean=9", "--drift", "out_of_range=1")
    result = run("profile", later, "--against", known, *limits)
    assert result.exit_code == 0, result.stdout


def test_drift_from_what_a_bundle_was_trained_on(run, flights, bundle, spec, tmp_path):
    result = run("profile", flights, "--against", bundle, "--spec", spec)
    assert result.exit_code == 0, result.output
    assert "measures of drift checked: nothing is violated" in result.stdout
    result = run("profile", flights, "--against", bundle)  # without what is derived
    assert result.exit_code == 1
    assert "far     required" in result.stdout
    frame = pd.read_parquet(flights).assign(carrier="ZZ")
    frame.to_parquet(tmp_path / "other.parquet")
    report = json.loads(
        run("profile", tmp_path / "other.parquet", "--against", bundle, "--spec", spec, "--json").stdout
    )
    unseen = next(one for one in report["violations"] if one["rule"] == "unseen")
    assert (unseen["column"], unseen["value"], unseen["origin"]) == ("carrier", "ZZ", "drift")
