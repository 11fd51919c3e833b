"""The documentation: the code of its pages runs, and what they name is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from typer.main import get_command

from dtk.cli.app import app
from dtk.demo import flights_directory

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(script: str, folder: Path) -> str:
    """Run a script as a user would, in a folder of its own; return what it prints."""
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_some_flights(folder: Path) -> None:
    """Write every twentieth flight, as four files."""
    flights = pd.read_csv(flights_directory() / "flights.csv.zip").iloc[::20]
    flights["date"] = pd.to_datetime(flights[["year", "month", "day"]])
    folder.mkdir()
    for number in range(4):
        flights.iloc[number::4].to_parquet(folder / f"{number}.parquet", index=False)


@pytest.mark.slow
def test_the_quickstart_runs_under_the_guard_that_it_asks_for(tmp_path: Path, no_rank_left: None) -> None:
    write_some_flights(tmp_path / "flights")
    code = "\n".join(blocks((ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")))
    printed = run('if __name__ == "__main__":\n' + textwrap.indent(code, "    "), tmp_path)
    assert "'auroc': " in printed
    made = {path.name for path in tmp_path.iterdir()} - {"flights", "script.py"}
    assert made == {"profile.html", "late.bundle", "predictions.parquet", "curve.bundle"}
    assert len(pd.read_parquet(tmp_path / "predictions.parquet")) > 2000


def test_the_code_of_the_loaders_page_runs(tmp_path: Path) -> None:
    code = "\n".join(blocks((ROOT / "docs" / "loader.md").read_text(encoding="utf-8")))
    assert "of the entropy of a full shuffle's" in run(code, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"flights", "sky.zarr", "plan.html", "scratch"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_page_of_the_command_lists_every_verb() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `dtk (\w+)", page, re.MULTILINE)
    assert sorted(listed) == sorted(get_command(app).commands)  # type: ignore[attr-defined]


def test_the_page_of_dependencies_names_every_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = re.findall(r"^\|(.*)\|$", (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = {name.strip().lower() for row in rows for cell in row.split("|")[:2] for name in cell.split(",")}
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    missing = {Requirement(line).name.lower() for line in wanted} - named - {"dask-dtk"}
    assert missing == set()


def test_the_code_of_the_page_on_analytics_runs(tmp_path: Path) -> None:
    code = "\n".join(blocks((ROOT / "docs" / "analytics.md").read_text(encoding="utf-8")))
    assert "[('to', 1000), ('be', 1000)]" in run(code, tmp_path)
    assert pd.read_csv(tmp_path / "by-product.csv").columns.tolist()[:2] == ["product", "price_mean"]


def test_the_code_of_the_page_on_sql_runs(tmp_path: Path) -> None:
    code = "\n".join(blocks((ROOT / "docs" / "sql.md").read_text(encoding="utf-8")))
    assert "Delta" in run(code, tmp_path)
