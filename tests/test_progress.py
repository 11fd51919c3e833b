"""Progress: plain lines in a log, a bar in a terminal, silence when asked."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from dtk.progress import Progress


def test_short_work_says_nothing_in_a_log(capsys):
    with Progress("scan", 10) as progress:
        progress.update(10)
    assert capsys.readouterr() == ("", "")


def test_long_work_says_a_line_now_and_then_and_one_at_the_end(capsys):
    with Progress("scan", 10, every_s=0.05) as progress:
        progress.update(1)  # too early
        time.sleep(0.06)
        progress.update(5, "loss 0.4")
        progress.update(6)  # too soon after that
        progress.update(10)
    printed, told = capsys.readouterr()
    assert printed == ""
    middle, end = told.splitlines()
    assert middle.startswith("scan: 5/10 in ")
    assert middle.endswith("s left, loss 0.4")
    assert end.startswith("scan: 10/10 in ")
    assert "left" not in end
    assert "loss 0.4" in end  # the last figures stay


def test_work_of_unknown_length(capsys):
    with Progress("scan", every_s=0.0) as progress:
        progress.update(3)
    assert capsys.readouterr().err.splitlines() == ["scan: 3 in 0 s"]


def test_the_last_line_comes_once(capsys):
    """Also where the last update was due for a line itself."""
    with Progress("scan", 10, every_s=0.05) as progress:
        time.sleep(0.06)
        progress.update(10)
        progress.update(10, "loss 0.4")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_lines_that_stay(capsys):
    with Progress("scan", 10) as progress:
        progress.say("epoch [1/3]: loss 0.4")
    assert capsys.readouterr().err == "epoch [1/3]: loss 0.4\n"


def test_silence(capsys):
    with Progress("scan", 10, enabled=False, every_s=0.0) as progress:
        progress.update(5)
        progress.say("nothing")
    assert capsys.readouterr() == ("", "")


def test_an_error_is_not_followed_by_a_line(capsys):
    with pytest.raises(ZeroDivisionError), Progress("scan", 10, every_s=0.0):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_a_bar_in_a_terminal():
    code = """
from dtk.progress import Progress
with Progress("scan", 4) as progress:
    progress.update(2, "loss 0.4")
    progress.say("epoch [1/3]: loss 0.4")
    progress.update(4)
"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 4096):
            shown += block
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.communicate()[0] == b""
    assert process.returncode == 0
    assert b"scan" in shown
    assert b"100%" in shown
    assert b"epoch [1/3]: loss 0.4" in shown
