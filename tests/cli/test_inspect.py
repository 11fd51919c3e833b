"""dtk inspect: all from metadata."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr


def test_parquet(run, flights):
    found = json.loads(run("inspect", flights, "--json").stdout)
    assert (found["format"], found["num_files"], found["num_rows"]) == ("parquet", 2, 3000)
    assert found["chunks"]["num"] == 6
    assert found["chunks"]["rows"] == {"least": 500, "mean": 500, "most": 500}
    kinds = {column["name"]: column["kind"] for column in found["columns"]}
    assert kinds == {
        "date": "date",
        "carrier": "category",
        "flight": "number",
        "distance": "number",
        "arr_delay": "number",
    }
    assert 0 < found["disk_nbytes"] < sum(file.stat().st_size for file in flights.iterdir())


def test_a_table_for_people(run, flights):
    result = run("inspect", flights)
    assert result.exit_code == 0
    assert "3,000" in result.stdout
    assert "6 of 500 to 500 rows" in result.stdout
    assert any(line.split() == ["carrier", "large_string", "category"] for line in result.stdout.splitlines())


def test_tiny_chunks_are_warned_of(run, tmp_path):
    pd.DataFrame({"x": range(100)}).to_parquet(tmp_path / "tiny.parquet", row_group_size=10)
    assert "warning: chunks hold 10 rows on average" in run("inspect", tmp_path).stdout


def test_csv(run, tmp_path):
    pd.DataFrame({"x": range(5), "s": list("abcde")}).to_csv(tmp_path / "t.csv", index=False)
    found = json.loads(run("inspect", tmp_path / "t.csv", "--json").stdout)
    assert (found["format"], found["num_rows"]) == ("csv", None)
    assert [column["kind"] for column in found["columns"]] == ["number", "category"]
    assert run("inspect", tmp_path / "t.csv").exit_code == 0


@pytest.mark.parametrize("format", ["zarr", "netcdf"])
def test_arrays(run, tmp_path, format):
    data = xr.Dataset({"t2m": (("time", "x"), np.zeros((20, 5), np.float32))}, {"time": np.arange(20)})
    path = tmp_path / f"grid.{'zarr' if format == 'zarr' else 'nc'}"
    if format == "zarr":
        data.chunk(time=10).to_zarr(path, consolidated=False)
    else:
        data.to_netcdf(path)
    found = json.loads(run("inspect", path, "--json").stdout)
    assert (found["format"], found["dims"]) == (format, {"time": 20, "x": 5})
    (variable,) = found["variables"]
    assert (variable["name"], variable["shape"], variable["decoded_nbytes"]) == ("t2m", [20, 5], 400)
    if format == "zarr":
        assert (variable["chunk"], variable["num_chunks"]) == ([10, 5], 2)
    assert "t2m" in run("inspect", path).stdout


def test_bad_files_are_named(run, tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    result = run("inspect", tmp_path / "cut.parquet")
    assert result.exit_code == 1
    assert "cut.parquet" in result.stderr
    assert result.stderr.count("\n") == 1
