"""Real ranks on a real cluster, made to fail in the ways that ranks fail."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from torch import distributed

from dtk.errors import ArgumentError, ClusterError, MemoryLimitError, RankError
from dtk.training.gang import launch, plan_gang

pytestmark = pytest.mark.usefixtures("no_rank_left")


def meet(extra):
    total = torch.ones(1) * (distributed.get_rank() + 1)
    distributed.all_reduce(total)
    return distributed.get_rank(), int(os.environ["RANK"]), float(total), extra


def test_launch_returns_by_rank_and_joins_the_group(client):
    assert launch(meet, "x", ranks=2) == [(0, 0, 3.0, "x"), (1, 1, 3.0, "x")]


def test_ranks_default_to_one_a_worker(client):
    assert len(launch(distributed.get_rank)) == 2


def test_environment_is_built_afresh(client):
    def look():
        names = ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "LOCAL_RANK", "WORLD_SIZE", "EXTRA")
        return {name: os.environ.get(name) for name in names}, torch.get_num_threads()

    (environment, threads), _ = launch(look, ranks=2, threads=3, env={"EXTRA": "1"})
    assert environment == {
        "OMP_NUM_THREADS": "3",
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "EXTRA": "1",
    }
    assert threads == 3


def test_an_exception_comes_with_its_own_traceback_and_class(client):
    def fail():
        if distributed.get_rank() == 1:
            raise KeyError("boo")
        distributed.barrier()

    with pytest.raises(RankError, match="rank 1 on worker tcp://.* raised KeyError: 'boo'") as caught:
        launch(fail, ranks=2)
    assert caught.value.rank == 1
    assert 'raise KeyError("boo")' in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_dead_rank_ends_the_gang(client):
    def die():
        if distributed.get_rank() == 1:
            print("last words")
            os._exit(7)
        time.sleep(600)

    with pytest.raises(RankError, match="rank 1 .* died: exit status 7") as caught:
        launch(die, ranks=2)
    assert "last words" in str(caught.value)


def test_a_hung_rank_ends_the_gang(client):
    def hang():
        if distributed.get_rank() == 1:
            time.sleep(600)
        distributed.barrier()

    with pytest.raises(RankError, match="Timed out"):
        launch(hang, ranks=2, hang_timeout_s=3)


def test_a_rank_over_its_memory_share_is_ended(client):
    def hoard():
        held = []
        while distributed.get_rank() == 1:
            held.append(b"x" * (100 * 2**20))
            time.sleep(0.05)
        time.sleep(600)

    with pytest.raises(RankError, match="rank 1 .* more than its share of 1.5 GiB") as caught:
        launch(hoard, ranks=2)
    assert isinstance(caught.value.__cause__, MemoryLimitError)


def test_a_killed_worker_ends_the_gang(small_cluster, until_ranks_run):
    pids = small_cluster.run(os.getpid)
    victim = sorted(pids)[0]

    killed_at = []

    def kill_soon():
        until_ranks_run(2)
        killed_at.append(time.monotonic())
        os.kill(pids[victim], 9)

    def wait_for_ever():
        time.sleep(600)

    killer = threading.Thread(target=kill_soon)
    killer.start()
    with pytest.raises((ClusterError, RankError)):
        launch(wait_for_ever, ranks=2)
    killer.join()
    assert time.monotonic() - killed_at[0] < 10 + 5  # noticed in 10 s; the rest is for a busy machine


def test_a_closed_client_ends_its_ranks(small_cluster, until_ranks_run):
    from distributed import Client

    def wait_for_ever():
        time.sleep(600)

    failed = []

    def run(address):
        try:
            with Client(address, set_as_default=False) as second, second.as_current():
                closing.append(second)
                launch(wait_for_ever, ranks=2)
        except Exception as error:
            failed.append(error)

    closing = []
    thread = threading.Thread(target=run, args=(small_cluster.scheduler.address,))
    thread.start()
    until_ranks_run(2)
    closing[0].close()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_module_that_the_workers_lack_travels_along(client, tmp_path, monkeypatch):
    (tmp_path / "helper_of_mine.py").write_text("FACTOR = 3\n")
    (tmp_path / "script_of_mine.py").write_text(
        textwrap.dedent(
            """
            import helper_of_mine
            from torch import distributed

            def scaled():
                return helper_of_mine.FACTOR * distributed.get_rank()
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    import script_of_mine

    try:
        assert launch(script_of_mine.scaled, ranks=2) == [0, 3]
    finally:
        del sys.modules["script_of_mine"], sys.modules["helper_of_mine"]


def test_a_module_missing_on_the_workers_is_named(client):
    class Reference:
        def __reduce__(self):
            return __import__, ("a_module_that_nobody_has",)

    with pytest.raises(RankError, match="cannot import module 'a_module_that_nobody_has'"):
        launch(print, Reference(), ranks=1)


@pytest.mark.parametrize(
    ("ranks", "error", "text"),
    [(3, ClusterError, r"ranks=3 exceed the cluster's 2 slots"), (0, ArgumentError, "ranks=0 must be at least 1")],
)
def test_ranks_that_cannot_be_are_refused(client, ranks, error, text):
    with pytest.raises(error, match=text):
        plan_gang(client, ranks)


def test_no_client_is_said_plainly():
    script = "import dtk\ntry:\n    dtk.launch(print)\nexcept dtk.ClusterError as error:\n    print(error)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == "there is no Dask client to launch ranks on; call dtk.connect() first\n"


def test_several_ranks_share_a_worker_with_threads():
    from dtk.runtime import connect

    with connect(workers=1, threads=2, memory="3 GiB", dashboard="127.0.0.1:0") as client:
        gang = plan_gang(client, 2)
        assert gang.threads == (1, 1)
        assert [place.local_rank for place in gang.places("g", 1, 1.0, {})] == [0, 1]
        assert launch(meet, 0, ranks=2) == [(0, 0, 3.0, 0), (1, 1, 3.0, 0)]


def test_threads_only_workers_carry_ranks():
    from distributed import Client

    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        assert client.status == "running"
        assert launch(meet, 0, ranks=2) == [(0, 0, 3.0, 0), (1, 1, 3.0, 0)]
