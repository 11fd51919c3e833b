"""Giving results their names: whole or not at all, by one process at a time, also after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dtk.errors import ArgumentError
from dtk.sources.publishing import finish_replacing, is_held, publish, sole_writer, written_whole


def make(path, content):
    path.mkdir()
    (path / "part.parquet").write_text(content)
    return path


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "below" / "file"
    for is_lasting in (True, False):
        with written_whole(str(path), is_lasting=is_lasting) as temporary:
            Path(temporary).write_text(f"{is_lasting}")
            assert os.path.basename(temporary).startswith(".file.")
        assert path.read_text() == f"{is_lasting}"

    def write_half():
        with written_whole(str(path)) as temporary:
            Path(temporary).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "False"
    assert os.listdir(path.parent) == ["file"]


def test_what_a_process_left_that_was_killed_while_it_removed_the_old_one_is_removed(tmp_path):
    for name in ("out", "out.replaced-0123abcd", "out.replaced-by-me", "new"):
        make(tmp_path / name, name)
    publish(str(tmp_path / "new"), str(tmp_path / "out"), replaces=True)
    assert sorted(os.listdir(tmp_path)) == ["out", "out.replaced-by-me"]
    assert (tmp_path / "out" / "part.parquet").read_text() == "new"


def test_the_old_one_is_put_back_where_a_process_was_killed_between_two_renames(tmp_path):
    make(tmp_path / "out.replaced-0123abcd", "old")
    finish_replacing(str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "part.parquet").read_text() == "old"


def test_what_cannot_be_removed_is_named(tmp_path, monkeypatch):
    for name in ("out", "new"):
        make(tmp_path / name, name)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # as on NFS, while another process reads it
    with pytest.warns(UserWarning, match=r"out\.replaced-.{8}', which was replaced, cannot be removed whole"):
        publish(str(tmp_path / "new"), str(tmp_path / "out"), replaces=True)
    assert (tmp_path / "out" / "part.parquet").read_text() == "new"


def test_what_came_into_being_stays_and_what_was_written_too(tmp_path):
    for name in ("out", "new"):
        make(tmp_path / name, name)
    with pytest.raises(ArgumentError, match=r"path='.*out' came into being .* in '.*new' now; give overwrite=True"):
        publish(str(tmp_path / "new"), str(tmp_path / "out"), replaces=False)
    assert [(tmp_path / name / "part.parquet").read_text() for name in ("out", "new")] == ["out", "new"]


HOLD = """
import sys, time
from dtk.sources.publishing import publish, sole_writer

with sole_writer(sys.argv[1], "out"):
    print("held", flush=True)
    sys.stdin.read(1)
    open(f"{sys.argv[1]}/part", "w").close()
    publish(sys.argv[1], sys.argv[2], replaces=False)
"""


@pytest.mark.parametrize("end", ["publishes", "is killed"])
def test_another_process_is_waited_for_until_it_ends(tmp_path, end):
    directory, target = str(tmp_path / "out.partial"), str(tmp_path / "out")
    command = [sys.executable, "-c", HOLD, directory, target]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        assert is_held(directory)

        def finish():
            time.sleep(0.3)
            process.kill() if end == "is killed" else process.communicate("x")

        other = threading.Thread(target=finish)
        other.start()
        expected = rf"path='out' is being written by process {process.pid} on .*; waiting for it"
        writer = sole_writer(directory, "out")
        with pytest.warns(UserWarning, match=expected):
            has_waited = writer.__enter__()
        assert has_waited
        assert os.path.isfile(f"{target}/part") == (end == "publishes")
        assert not os.path.exists(f"{target}/.lock")
        assert is_held(directory)
        writer.__exit__(None, None, None)
        other.join()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    assert not os.path.exists(directory)
    assert not is_held(directory)


def test_what_was_written_stays_when_the_lock_is_given_back(tmp_path):
    directory = tmp_path / "partial"
    with sole_writer(str(directory), "out") as has_waited:
        assert not has_waited
        (directory / "part").touch()
    assert os.listdir(directory) == ["part"]
