"""Real ranks on a real cluster, made to fail in the ways that ranks fail."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from distributed import Event
from torch import distributed

from dtk.errors import ArgumentError, ClusterError, MemoryLimitError, RankError
from dtk.runtime import pack, workers_of
from dtk.training.gang import launching
from dtk.training.gang.launching import launch, run_gang
from dtk.training.gang.planning import plan_gang
from dtk.training.gang.rank import current_rank

pytestmark = pytest.mark.usefixtures("no_rank_left")


def meet(extra):
    total = torch.ones(1) * (distributed.get_rank() + 1)
    distributed.all_reduce(total)
    return distributed.get_rank(), int(os.environ["RANK"]), float(total), extra


def set_variable(name, value):
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def test_launch_returns_by_rank_of_one_a_worker_and_joins_the_group(client):
    assert launch(meet, "x") == [(0, 0, 3.0, "x"), (1, 1, 3.0, "x")]


def test_environment_is_built_afresh(client):
    def look():
        names = ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "LOCAL_RANK", "WORLD_SIZE", "NCCL_SOCKET_IFNAME", "EXTRA")
        return {name: os.environ.get(name) for name in names}, torch.get_num_threads()

    client.run(set_variable, "NCCL_SOCKET_IFNAME", "ib0")
    try:
        (environment, threads), _ = launch(look, ranks=2, threads=3, env={"EXTRA": "1"})
    finally:
        client.run(set_variable, "NCCL_SOCKET_IFNAME", None)
    assert environment == {
        "OMP_NUM_THREADS": "3",
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "NCCL_SOCKET_IFNAME": "ib0",  # the worker's own, and not what dtk would choose
        "EXTRA": "1",
    }
    assert threads == 3


def test_an_interface_that_leads_nowhere_is_named(client):
    with pytest.raises(
        RankError, match="spoke through GLOO_SOCKET_IFNAME='none0', as rank 0 is at 127.0.0.1:"
    ) as caught:
        launch(meet, 0, ranks=2, env={"GLOO_SOCKET_IFNAME": "none0"})
    assert "env={'GLOO_SOCKET_IFNAME': ...}" in str(caught.value)


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


def test_a_dead_rank_is_noticed_though_its_fork_lives_on(client):
    def die():
        if distributed.get_rank() == 1:
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)

    with pytest.raises(RankError, match="rank 1 .* died: signal SIGKILL"):
        launch(die, ranks=2)


@pytest.mark.slow
def test_the_rank_that_hangs_is_blamed_and_says_where_it_is(client):
    def oversleep():
        time.sleep(600)

    def hang():
        if distributed.get_rank() == 1:
            oversleep()
        distributed.barrier()

    with pytest.raises(RankError, match="rank 1 on worker tcp://.* did not reach the collective within 3 s") as caught:
        launch(hang, ranks=2, hang_timeout_s=3)
    assert caught.value.rank == 1
    guilty, innocent = str(caught.value).split("rank 0, which saw it first, waited here:")
    assert "in oversleep" in guilty
    assert "Timed out" in innocent


@pytest.mark.slow
@pytest.mark.soak
def test_a_silent_worker_keeps_nobody_waiting(small_cluster, monkeypatch):
    monkeypatch.setattr(launching, "GONE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(launching, "ANSWER_TIMEOUT_S", 1.0)
    victim = workers_of(small_cluster)[1].address
    pid = small_cluster.run(os.getpid, workers=[victim])[victim]

    def hang():
        if distributed.get_rank() == 1:
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(600)
        distributed.barrier()

    try:
        with pytest.raises(RankError, match="rank 1 .* did not reach the collective") as caught:
            launch(hang, ranks=2, hang_timeout_s=3)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert any(victim in note and "it hangs" in note for note in caught.value.__notes__)


@pytest.mark.slow
@pytest.mark.soak
def test_a_rank_that_never_reports_counts_as_hung_only_where_it_should_report(client):
    gang = plan_gang(client, 1)
    with pytest.raises(RankError, match="rank 0 .* hung: no step for 2 s after it started") as caught:
        run_gang(client, gang, "gang", pack((time.sleep, (600,), {})), hang_timeout_s=2, env={}, on_beat=print)
    assert "most recent call first" in str(caught.value)
    assert launch(time.sleep, 6, ranks=1, hang_timeout_s=2) == [None]


@pytest.mark.parametrize("busy", [0, 1])
def test_a_busy_worker_is_waited_for_and_named(client, busy):
    gang = plan_gang(client, 2)
    address = gang.workers[busy].address
    payload = pack((meet, (0,), {}))
    done = Event("done", client=client)
    occupied = client.submit(lambda: Event("done").wait(), workers=[address], pure=False)
    try:
        with pytest.raises(ClusterError, match=f"rank {busy} on worker {address} did not start within 2 s"):
            run_gang(client, dataclasses.replace(gang, join_timeout_s=2.0), "gang", payload, hang_timeout_s=1, env={})
    finally:
        done.set()
        occupied.result()
        done.clear()


@pytest.mark.slow
def test_memory_that_a_rank_does_not_hold_is_not_counted(client, tmp_path):
    def share():
        held = np.ones(80_000_000)  # 610 MiB
        for _ in range(3):
            if os.fork() == 0:
                time.sleep(4)
                os._exit(0)
        (tmp_path / "large").touch()
        os.truncate(tmp_path / "large", 2 * 2**30)
        mapped = np.memmap(tmp_path / "large", dtype="u1", mode="r")
        total = float(mapped[::4096].sum())
        time.sleep(2)
        return total + held[0]

    assert launch(share, ranks=1) == [1.0]


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


@pytest.mark.slow
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
    with pytest.raises(ClusterError, match=f"worker {victim} was lost, and with it its ranks"):
        launch(wait_for_ever, ranks=2)
    killer.join()
    assert time.monotonic() - killed_at[0] < 10 + 5  # noticed in 10 s; the rest is for a busy machine


@pytest.mark.slow
@pytest.mark.soak
def test_a_rank_leaves_though_a_fork_of_its_worker_holds_the_pipe(small_cluster, until_ranks_run):
    def fork():
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        return child

    def kill_soon():
        (rank,) = until_ranks_run(1)
        pid = rank.ppid()  # of the worker that carries it
        (victim,) = (address for address, found in small_cluster.run(os.getpid).items() if found == pid)
        forked.append(small_cluster.run(fork, workers=[victim])[victim])
        os.kill(pid, signal.SIGKILL)
        left.append(psutil.wait_procs([rank], timeout=10)[1])

    forked, left = [], []
    killer = threading.Thread(target=kill_soon)
    killer.start()
    try:
        with pytest.raises(ClusterError, match="was lost"):
            launch(time.sleep, 60, ranks=1)
        killer.join()
        assert left == [[]]
    finally:
        os.kill(forked[0], signal.SIGKILL)


@pytest.mark.slow
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
    (error,) = failed
    assert isinstance(error, ClusterError)
    assert "the client was closed while its ranks ran" in str(error)


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

    monkeypatch.setitem(sys.modules, "another_name_for_it", script_of_mine)
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


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"env": {"A": 1}}, r"env=\{'A': 1\} must map names to text"),
        ({"hang_timeout_s": float("inf")}, "hang_timeout_s=inf must be more than 0 seconds, and finite"),
        ({"hang_timeout_s": float("nan")}, "hang_timeout_s=nan must be"),
        ({"hang_timeout_s": 0}, "hang_timeout_s=0 must be"),
        ({"lock": threading.Lock()}, "lock=<unlocked .* cannot be pickled"),
    ],
)
def test_options_that_cannot_be_are_refused(client, options, text):
    with pytest.raises(ArgumentError, match=text):
        launch(print, **options)


def test_an_argument_that_cannot_travel_is_named(client):
    with pytest.raises(ArgumentError, match=r"args\[1\]=<unlocked .* cannot be pickled"):
        launch(print, 1, threading.Lock())


def test_a_torch_without_cuda_trains_on_the_cpu_and_says_so(client):
    if torch.version.cuda is not None:
        pytest.skip("this torch is built for CUDA")
    client.run(set_variable, "CUDA_VISIBLE_DEVICES", "0")
    try:
        with pytest.warns(UserWarning, match="sees GPUs, but its torch is built without CUDA: ranks run on its CPU"):
            gang = plan_gang(client)
    finally:
        client.run(set_variable, "CUDA_VISIBLE_DEVICES", "")
    assert gang.gpus == (None, None)


def test_gangs_hear_their_own_ranks_and_leave_one_topic(client):
    def tell(word):
        current_rank().report(lambda: {"word": word})

    def run(word):
        run_gang(
            client,
            gang,
            f"gang-{word}",
            pack((tell, (word,), {})),
            hang_timeout_s=60,
            env={},
            on_beat=heard[word].append,
        )

    gang, heard = plan_gang(client, 1), {"a": [], "b": []}
    threads = [threading.Thread(target=run, args=(word,)) for word in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {word: [message["word"] for message in messages] for word, messages in heard.items()} == {
        "a": ["a"],
        "b": ["b"],
    }
    topics = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.get_events()))
    assert [topic for topic in topics if "gang" in topic] == ["dtk-gangs"]


def test_a_result_is_fetched_once(client):
    def bring():
        time.sleep(distributed.get_rank())
        return b"x" * (2**24 if distributed.get_rank() == 0 else 1)

    def sent():
        return sum(client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total).values())

    before = sent()
    assert len(launch(bring, ranks=2)[0]) == 2**24
    assert sent() - before < 2 * 2**24


def test_a_start_that_fails_leaves_nothing_open(client):
    def set_executable(path):
        sys.executable = path

    def open_files():
        process = psutil.Process()  # connections between workers are Dask's, and stay
        connected = [one for one in process.net_connections("tcp") if one.status != psutil.CONN_LISTEN]
        return process.num_fds() - len(connected)

    gang = plan_gang(client, 2)
    before = client.run(open_files)
    client.run(set_executable, "/")
    try:
        with pytest.raises(ClusterError, match="of the gang is error: .*Permission denied"):
            run_gang(client, gang, "gang", b"", hang_timeout_s=60, env={})
    finally:
        client.run(set_executable, sys.executable)
    assert client.run(open_files) == before


def test_no_client_is_said_plainly():
    script = "import dtk\ntry:\n    dtk.launch(print)\nexcept dtk.ClusterError as error:\n    print(error)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == "there is no Dask client to launch ranks on; call dtk.connect() first\n"


def test_several_ranks_share_a_worker_with_threads():
    from dtk.runtime import connect

    with connect(workers=1, threads=2, memory="3 GiB", dashboard="127.0.0.1:0") as client:
        gang = plan_gang(client, 2)
        assert gang.threads == (1, 1)
        assert [
            place.local_rank for place in gang.places("g", 1, hang_timeout_s=1.0, tells_of_start=False, env={})
        ] == [0, 1]
        assert launch(meet, 0, ranks=2) == [(0, 0, 3.0, 0), (1, 1, 3.0, 0)]


def test_threads_only_workers_carry_ranks():
    from distributed import Client

    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        assert client.status == "running"
        assert launch(meet, 0, ranks=2) == [(0, 0, 3.0, 0), (1, 1, 3.0, 0)]
