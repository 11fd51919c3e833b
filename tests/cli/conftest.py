"""Real flights in small, a bundle trained on them, and the command run in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def flights(tmp_path_factory):
    """3,000 rows in two files of three row groups each."""
    generator = np.random.default_rng(0)
    hours = np.sort(generator.integers(0, 365 * 24, 3000))
    frame = pd.DataFrame(
        {
            "date": pd.Timestamp("2013-01-01") + pd.to_timedelta(hours, "h"),
            "carrier": generator.choice(["AA", "DL", "UA"], 3000),
            "flight": generator.integers(1, 50, 3000),
            "distance": generator.normal(1000, 300, 3000),
            "arr_delay": generator.normal(5, 20, 3000),
        }
    )
    frame["arr_delay"] += (frame["carrier"] == "UA") * 40
    frame.loc[::50, "arr_delay"] = np.nan
    directory = tmp_path_factory.mktemp("data") / "flights"
    directory.mkdir()
    for number in range(2):
        part = pa.Table.from_pandas(frame[number * 1500 : (number + 1) * 1500], preserve_index=False)
        pq.write_table(part, directory / f"{number}.parquet", row_group_size=500)
    return directory


@pytest.fixture(scope="session")
def bundle(flights, tmp_path_factory):
    """Predicts `late`, which is derived, from the carrier and the distance."""
    import dtk

    frame = pd.read_parquet(flights).dropna()
    frame["late"] = frame["arr_delay"] > 15
    frame["far"] = frame["distance"] > 1000
    model = dtk.TorchClassifier(target="late", epochs=2, learning_rate=0.01, random_state=0)
    model.fit(frame[["carrier", "far", "late"]])
    path = tmp_path_factory.mktemp("bundles") / "late.bundle"
    model.bundle_.save(path)
    return path


SPEC = """
data: {data}
derive:
  far: distance > 1000
  late: arr_delay > 15
filter: arr_delay.notnull()
split: {{by: date, at: [2013-10-01, 2013-11-01]}}
target: late
inputs: [carrier, far]
model: {{name: mlp, hidden: [8]}}
epochs: 2
batch_size: 256
learning_rate: 1e-2
ranks: 1
memory: 100 MiB
cluster: {{workers: 1, threads: 1, memory: 2 GiB, dashboard: "127.0.0.1:0"}}
"""


@pytest.fixture
def spec(flights, tmp_path):
    """A good spec."""
    path = tmp_path / "late.yaml"
    path.write_text(SPEC.format(data=flights))
    return path


@pytest.fixture
def run():
    """Run the command in this process."""
    from dtk.cli.app import app

    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


@pytest.fixture
def start(tmp_path):
    """Start the command in a process of its own, which ends with the test."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "dtk", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "COLUMNS": "200"},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # it ends its cluster, too
            process.wait(60)
