"""The notebooks run from top to bottom, and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_results(path: Path) -> None:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert not any(line.startswith(("%", "!")) for line in cell["source"])


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, no_rank_left: None) -> None:
    here = tmp_path / "kernels" / "here" / "kernel.json"  # the machine's own may be of another Python, or none
    here.parent.mkdir(parents=True)
    here.write_text(json.dumps({"argv": KERNEL, "display_name": "here", "language": "python"}))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    before = sorted(path.parent.iterdir())
    run = subprocess.run(
        [sys.executable, "-c", "from nbclient.cli import main; main()", "--kernel_name=here", "--timeout=240", path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_PATH": str(tmp_path), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert sorted(path.parent.iterdir()) == before
    assert [left.name for left in temporary.iterdir() if not left.name.startswith("torchinductor_")] == []
