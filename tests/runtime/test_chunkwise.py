"""The same answer on threads and on workers, in the order of the pieces."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from dask import delayed
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError
from dtk.runtime import delayed_reduce, map_reduce


def listed(shared, piece):
    return [shared + piece]


def joined(parts):
    return [value for part in parts for value in part]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(), min_size=1, max_size=100))
def test_threads_keep_the_order(pieces):
    assert map_reduce(listed, joined, pieces, shared=1) == [piece + 1 for piece in pieces]


@pytest.mark.parametrize("count", [1, 2, 8, 9, 65])
def test_cluster_keeps_the_order(client, count):
    assert map_reduce(listed, joined, list(range(count)), shared=1) == list(range(1, count + 1))


def test_delayed_parts(client):
    parts = [delayed(number) for number in range(20)]
    assert delayed_reduce(lambda value: [value], joined, parts) == list(range(20))


def test_nothing_stays_on_the_cluster(client):
    map_reduce(listed, joined, list(range(20)), shared=1)
    end = time.monotonic() + 5  # futures are released on the client's own thread
    while client.futures and time.monotonic() < end:
        time.sleep(0.01)
    assert not client.futures


def test_an_error_comes_through(client):
    def fail(shared, piece):
        raise ZeroDivisionError(f"piece {piece}")

    with pytest.raises(ZeroDivisionError, match="piece"):
        map_reduce(fail, joined, [1, 2, 3])


def test_an_error_comes_before_the_rest_has_run(client, tmp_path):
    (tmp_path / "run").mkdir()

    def fail_first(folder, piece):
        if piece == 0:
            raise ZeroDivisionError("piece 0")
        (folder / "run" / str(piece)).touch()
        end = time.monotonic() + 20
        while not (folder / "told").exists() and time.monotonic() < end:  # what runs, runs until the error is told
            time.sleep(0.05)

    with pytest.raises(ZeroDivisionError, match="piece 0"):
        map_reduce(fail_first, joined, list(range(40)), shared=tmp_path, progress=True)
    (tmp_path / "told").touch()
    time.sleep(1.2)  # nothing else starts
    assert len(list((tmp_path / "run").iterdir())) < 10


def test_pieces_run_in_their_order_so_that_neighbours_merge_early(client, tmp_path):
    (tmp_path / "run").mkdir()

    def occupy(worker):
        while not (tmp_path / "go").exists():
            time.sleep(0.05)

    def note(folder, piece):
        (folder / str(piece)).write_text(str(time.time()))
        time.sleep(0.05)
        return [piece]

    workers = list(client.scheduler_info()["workers"])
    others = [client.submit(occupy, worker, workers=[worker], pure=False) for worker in workers]
    with ThreadPoolExecutor(1) as threads:
        merged = threads.submit(map_reduce, note, joined, list(range(40)), shared=tmp_path / "run")
        time.sleep(0.5)  # the pieces wait on the scheduler
        (tmp_path / "go").touch()
        assert merged.result() == list(range(40))
    del others
    ran = sorted(range(40), key=lambda piece: float((tmp_path / "run" / str(piece)).read_text()))
    # one worker may take what is far behind, and each may hold two when the first one comes
    assert all(place <= 2 * piece + 8 for place, piece in enumerate(ran)), ran


def test_parts_go_once_they_are_merged(client, tmp_path):
    def wait_at_last(folder, piece):
        while piece == 8 and not (folder / "go").exists():
            time.sleep(0.05)
        return [piece]

    merged = []
    thread = threading.Thread(
        target=lambda: merged.append(map_reduce(wait_at_last, joined, list(range(9)), shared=tmp_path, label="parted"))
    )
    thread.start()
    try:
        end = time.monotonic() + 30
        while not has_merged_alone(client) and time.monotonic() < end:
            time.sleep(0.05)
        assert has_merged_alone(client)
    finally:
        (tmp_path / "go").touch()
        thread.join()
    assert merged == [list(range(9))]


def has_merged_alone(client):
    """Tell whether the workers hold something merged, and no part."""
    held = [key for key, workers in client.who_has().items() if workers and key.startswith("parted")]
    is_part = [re.fullmatch(r"parted-[0-9a-f]{8}-\d+", key) for key in held]
    return any("merge" in key for key in held) and not any(is_part)


@pytest.mark.parametrize("reduce", [lambda: map_reduce(listed, joined, []), lambda: delayed_reduce(len, joined, [])])
def test_nothing_to_merge_is_refused(reduce):
    with pytest.raises(ArgumentError, match="leaves nothing to merge"):
        reduce()
