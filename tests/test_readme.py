"""The README: its example runs as it stands, and what it names is there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow.dataset import dataset

import dtk

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROMISED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_example_runs_on_the_flights(tmp_path: Path, no_rank_left: None) -> None:
    (example,) = blocks(README)
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 15
    (tmp_path / "example.py").write_text(example)
    run = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    metrics = ast.literal_eval(run.stdout.splitlines()[-1])
    assert metrics["auroc"] > 0.6
    assert dtk.load(tmp_path / "late.bundle").target.name == "late"
    assert dataset(tmp_path / "late.parquet").count_rows() > 50_000


def test_the_front_page_shows_the_same_example() -> None:
    assert blocks((ROOT / "docs" / "index.md").read_text(encoding="utf-8")) == blocks(README)


def test_five_promises_name_their_tests() -> None:
    assert len(re.findall(r"^\d\. \*\*", README, re.MULTILINE)) == 5
    assert len(PROMISED) >= 5


@pytest.mark.parametrize(("path", "name"), PROMISED)
def test_a_promised_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_to_files(target: str) -> None:
    assert (ROOT / target).exists()
