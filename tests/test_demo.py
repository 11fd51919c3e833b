"""`dtk demo` and the example script, run as a newcomer runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import dtk

HERE = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path):
    """At least as good as gradient boosting, within the memory that was planned, and the same after a reload."""
    command = [sys.executable, "-m", "dtk", "demo", "--epochs", "1", "--json", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_rows"] == 336_776
    assert result["metrics"]["auroc"] > result["peer_auroc"] - 0.01
    assert result["metrics"]["accuracy"] > 0.5
    assert result["peak_nbytes"] < result["planned_peak_nbytes"] < result["limit_nbytes"]
    assert result["reloaded_same"] is True
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert Path(result["files"]["profile"]).read_text().lower().startswith("<!doctype html>")
    predicted = dtk.open(result["files"]["predictions"]).compute()
    test = pd.read_parquet(result["files"]["Parquet"], filters=[("date", ">=", pd.Timestamp("2013-11-01"))])
    assert len(predicted) == test["arr_delay"].notna().sum()
    bundle = dtk.load(result["files"]["bundle"])
    again = bundle.predict(test[test["arr_delay"].notna()], proba=True)
    assert predicted.iloc[:, -1].to_numpy() == pytest.approx(again[:, -1], abs=1e-6)


@pytest.mark.slow
def test_the_batch_script_runs(tmp_path):
    script = str(HERE / "examples" / "batch_train.py")
    done = subprocess.run(
        [sys.executable, script, "out"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "auroc" in done.stdout
    assert dtk.load(tmp_path / "out" / "late.bundle").target.name == "late"
