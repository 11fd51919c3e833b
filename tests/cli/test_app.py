"""What all verbs share: help, errors in one line, exit codes, and standard output for results alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import dtk
from dtk.cli.app import as_verb
from dtk.errors import ArgumentError, RankError

VERBS = ("demo", "inspect", "profile", "plan", "train", "evaluate", "predict", "doctor")


def test_help_lists_every_verb(run):
    result = run("--help")
    assert result.exit_code == 0
    assert all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example_and_describes_every_option(run, verb):
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: dtk {verb}" in result.stdout
    assert "--debug" in result.stdout
    assert "Parameters" not in result.stdout
    lines = [line.strip("│ ") for line in result.stdout.splitlines() if line.strip("│* ").startswith("--")]
    assert lines
    assert [line for line in lines if len(line.split("  ")) < 2 or not line.split("  ")[-1].strip()] == []


def test_help_is_quick_since_it_loads_nothing_heavy():
    code = "import sys; from dtk.cli.app import app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "dask", "distributed", "pandas", "numpy", "pyarrow", "sklearn", "xarray", "bokeh"} & set(
        loaded
    )


def test_version(run):
    assert run("--version").stdout.strip() == dtk.__version__


@pytest.mark.parametrize(
    "arguments",
    [[], ["trian"], ["train"], ["inspect", "a", "b"], ["inspect", "a", "--jsn"], ["doctor", "--shared", "."]],
)
def test_wrong_use_exits_with_2(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def verb_that_raises(error):
    def verb(path: Annotated[str, typer.Argument()]) -> None:
        """Fail.

        Parameters
        ----------
        path : str
            Anything.
        """
        raise error

    app = typer.Typer()
    app.command()(as_verb(verb))
    return lambda *arguments: CliRunner().invoke(app, ["anything", *arguments])


def test_an_error_is_one_line_and_exits_with_1():
    result = verb_that_raises(ArgumentError("path='x' is wrong; mend it"))()
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: path='x' is wrong; mend it\n")


def test_an_error_of_a_rank_shows_the_ranks_traceback():
    result = verb_that_raises(
        RankError("rank 1 raised ValueError", 1, "tcp://w:1", "Traceback ...\nValueError: no\n")
    )()
    assert result.exit_code == 1
    assert result.stderr == "error: rank 1 raised ValueError\n\nTraceback ...\nValueError: no\n"


def test_an_error_that_nobody_foresaw_is_one_line_too():
    result = verb_that_raises(ZeroDivisionError("over\nzero"))()
    assert result.exit_code == 1
    assert result.stderr == "error: ZeroDivisionError: over zero; run again with --debug\n"


def test_debug_shows_the_traceback():
    result = verb_that_raises(ArgumentError("path='x' is wrong"))("--debug")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert "verb_that_raises" not in result.stdout


def test_ctrl_c_is_one_line_and_130():
    result = verb_that_raises(KeyboardInterrupt())()
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_json_has_standard_output_for_itself(start, flights):
    process = start("inspect", flights, "--json")
    printed, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert json.loads(printed)["num_rows"] == 3000


def test_a_missing_path_is_one_line(start):
    process = start("inspect", "nowhere")
    printed, told = process.communicate(timeout=60)
    assert (process.returncode, printed) == (1, "")
    assert told.startswith("error: nowhere is not there")
    assert told.count("\n") == 1


def test_only_results_keeps_children_off_standard_output(capfd):
    from dtk.cli.output import only_results

    with only_results():
        print("a library")
        subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
    print("the result")
    printed, told = capfd.readouterr()
    assert printed == "the result\n"
    assert set(told.split("\n")) == {"a library", "a child", ""}


def test_standard_output_may_be_closed(flights, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for verb in (f"inspect {flights}", f"inspect {flights} --json"):
        done = subprocess.run(
            f"{sys.executable} -m dtk {verb} >&-",
            shell=True,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("end", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_training_and_its_cluster(start, spec, tmp_path, end, code, word):
    spec.write_text(spec.read_text().replace("epochs: 2", "epochs: 100000"))
    process = start("train", spec)
    for line in process.stderr:
        if line.startswith("dashboard:"):
            break
    if end is signal.SIGINT:
        os.killpg(process.pid, end)  # as a terminal does it: to the whole group
    else:
        process.terminate()
    printed, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert printed == ""
    assert word in told.splitlines()
    assert not (tmp_path / "late.bundle").exists()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("dtk-")] == []


def test_the_demo_checks_its_arguments_before_a_cluster_starts(run, tmp_path):
    (tmp_path / "file").touch()
    for arguments, message in (
        (["--scale", 0, "--output", tmp_path / "out"], "scale=0 must be at least 1"),
        (["--epochs", 0, "--output", tmp_path / "out"], "epochs=0 must be at least 1"),
        (["--output", tmp_path / "file"], "is a file; choose another"),
        (["--output", tmp_path / "file" / "below"], "is a file; choose another"),
    ):
        result = run("demo", *arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert "dashboard" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
