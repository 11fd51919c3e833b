"""TPC-H's 22 queries at a tiny scale give the official answers; see benchmarks/sql.py."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.sql import KNOWN, OWN_DATA, PACKAGES, official, parsed
from dtk.analytics.sql import running

PYTHON = os.environ.get("DTK_TPCH_PYTHON", "")
SCALE = 0.01


@pytest.mark.skipif(not PYTHON, reason=f"set DTK_TPCH_PYTHON to a Python that has {', '.join(PACKAGES)}")
def test_tpch_at_a_tiny_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LEAST_GROUP_NBYTES", 1 << 18)
    subprocess.run([PYTHON, "-c", OWN_DATA, str(tmp_path / "own"), str(SCALE)], check=True)
    known = json.loads(subprocess.run([PYTHON, "-c", KNOWN], check=True, capture_output=True, text=True).stdout)
    answers = {int(number): parsed(text) for number, scale, text in known["answers"] if scale == SCALE}
    found = official({int(number): text for number, text in known["queries"]}, answers, tmp_path / "own")
    assert found.holds, found.note
