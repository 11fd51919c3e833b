"""What ranks print is kept, and no more than so much of it."""

from __future__ import annotations

import os
import re

import pytest

from dtk.errors import RankError
from dtk.training.gang import logs
from dtk.training.gang.launching import launch
from dtk.training.gang.logs import RankLog

pytestmark = pytest.mark.usefixtures("no_rank_left")


def test_an_error_names_the_file_that_has_all_that_a_rank_printed(client):
    def fail():
        print(*range(1000), sep="\n", flush=True)
        os._exit(3)

    with pytest.raises(RankError, match="rank 0 .* died: exit status 3") as caught:
        launch(fail, ranks=1)
    path = re.search(r"what rank 0 printed is in (\S+) on that worker's host", str(caught.value))[1]
    with open(path) as kept:
        assert kept.read().split() == [str(number) for number in range(1000)]


def test_the_last_lines_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MOST_NBYTES", 1000)
    log = RankLog(str(tmp_path), "gang", 2)
    for number in range(1000):
        log.write(f"{number:09d}")
    log.close()
    files = sorted((tmp_path / "dtk-logs").iterdir())
    assert [path.name for path in files] == ["gang-rank-2.txt", "gang-rank-2.txt.1"]
    kept = [int(line) for path in reversed(files) for line in path.read_text().split()]
    assert kept == list(range(1000 - len(kept), 1000))
    assert 50 <= len(kept) <= 110


def test_the_logs_of_old_gangs_go(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MOST_FILES", 5)
    for number in range(12):
        log = RankLog(str(tmp_path), f"gang-{number}", 0)
        log.write("text")
        log.close()
        os.utime(log.path, (number, number))
    assert {path.name for path in (tmp_path / "dtk-logs").iterdir()} == {
        f"gang-{number}-rank-0.txt" for number in range(7, 12)
    }


def test_a_disk_that_takes_nothing_ends_no_rank(tmp_path):
    (tmp_path / "dtk-logs").write_text("no directory")
    log = RankLog(str(tmp_path), "gang", 0)
    log.write("text")
    log.close()
    assert log.is_empty
