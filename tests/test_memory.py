"""Bytes: parsed, written, measured."""

from __future__ import annotations

import math
import subprocess
import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtk.errors import ArgumentError
from dtk.memory import format_nbytes, parse_nbytes, peak_rss_nbytes, tree_held_nbytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1 GiB", 2**30), ("1.5GB", 1_500_000_000), (" 512 mib ", 2**29), ("7", 7), (7, 7), (7.9, 7), (".5 KiB", 512)],
)
def test_parse(text, nbytes):
    assert parse_nbytes(text) == nbytes


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "1 elephant", "-1 GiB", "1e9", "0", 0, -5, "0.1 B", "9" * 400, None, True, [1], math.nan, math.inf],
)
def test_what_is_no_size_is_refused_by_name(text):
    with pytest.raises(ArgumentError, match="^pool="):
        parse_nbytes(text, name="pool")


@given(st.integers(1, 2**50))
def test_what_is_written_for_people_is_close(nbytes):
    text = format_nbytes(nbytes)
    unit_nbytes = parse_nbytes(f"1 {text.split()[1]}")
    assert abs(parse_nbytes(text) - nbytes) <= 0.051 * unit_nbytes  # one digit after the point


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 2**50, "3072.0 TiB")]
)
def test_format(nbytes, text):
    assert format_nbytes(nbytes) == text


def test_the_peak_of_this_process_is_at_least_what_it_holds():
    assert peak_rss_nbytes() >= 0.9 * psutil.Process().memory_info().rss > 2**20


def test_the_peak_is_not_that_of_the_parent():
    """What getrusage says of a process that is started counts what its parent held."""
    tell = "from dtk.memory import peak_rss_nbytes; print(peak_rss_nbytes())"
    hold = "held = bytearray(b'x' * 200_000_000)"
    nest = f"import subprocess, sys; {hold}; subprocess.run([sys.executable, '-c', {tell!r}])"
    told = subprocess.run([sys.executable, "-c", nest], capture_output=True, text=True, check=True).stdout
    assert 2**20 < int(told) < 150_000_000


def test_a_tree_counts_its_children():
    hold = "import sys; held = bytearray(b'x' * 60_000_000); print('ready', flush=True); sys.stdin.read()"
    nest = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}], stdin=sys.stdin)"
    parent = subprocess.Popen([sys.executable, "-c", nest], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    assert tree_held_nbytes(parent.pid) > 60_000_000
    parent.communicate("")
    assert tree_held_nbytes(parent.pid) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell the resident memory only")
def test_forks_and_files_are_not_counted_twice(tmp_path):
    """Three forks share 100 MB of their parent, which maps a file of 200 MB and shares 50 MB of its own."""
    script = f"""
import mmap, os, sys
held = bytearray(b"x" * 100_000_000)
file = open({str(tmp_path / "large")!r}, "wb+")
file.truncate(200_000_000)
mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
seen = sum(mapped[::4096])
shared = mmap.mmap(-1, 50_000_000)
shared.write(b"x" * 50_000_000)
told, tell = os.pipe()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.read(told, 1)
        os._exit(0)
print("ready", flush=True)
sys.stdin.read()
os.write(tell, b"xxx")
"""
    for forks in (0, 3):
        arguments = [sys.executable, "-c", script, str(forks)]
        parent = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert parent.stdout.readline() == "ready\n"
        assert 150_000_000 < tree_held_nbytes(parent.pid) < 180_000_000
        parent.communicate("")
