"""Fixtures that many tests share: a real cluster, and a look at what it leaves behind."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile
import time

import psutil
import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait spin: a fit beside another took five times the CPU
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and all they start, ignore it
os.environ["DASK_DTK__CACHE_DIR"] = tempfile.mkdtemp(prefix="dtk-cache-")  # of this run, and not the user's
atexit.register(shutil.rmtree, os.environ["DASK_DTK__CACHE_DIR"], ignore_errors=True)
os.environ["DTK_TEST_RUN"] = str(os.getpid())  # ranks inherit it, so that a run beside this one is told apart


def pytest_collection_finish():
    """Spare the collector all that is loaded by now: each training collects, which took longer than a small fit."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give whole files to the processes that run the tests, and all of training to one: a gang takes every core."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, _ = nodeid.partition("::")
            return "tests/training" if file.startswith("tests/training/") else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def cluster():
    """Two workers of one thread each, for the whole session; their ranks may hold 1.5 GiB each."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit=3 * 2**29,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
        env={"DTK_RANK_MEMORY_NBYTES": str(3 * 2**29)},
        preload=["dtk.runtime.worker_preload"],
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    """A client of the shared cluster, current for one test, and not made by dtk."""
    from distributed import Client

    with Client(cluster) as client:
        yield client


@pytest.fixture
def small_cluster(monkeypatch):
    """A cluster of one's own, to break; without spares, which tests of ranks would have to tell from ranks."""
    from dtk.runtime import connect

    monkeypatch.setenv("DASK_DTK__SPARE_S", "0")
    with connect(workers=2, threads=1, memory="3 GiB", dashboard="127.0.0.1:0") as client:
        yield client


def rank_processes(*, spares: bool = False) -> list[psutil.Process]:
    """List the ranks of this test run, or the spares that wait to be some; also those whose worker is gone."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            is_rank = any("dtk.training.gang.rank" in part for part in command)
            is_spare = command[-1:] == ["spare"] and not process.name().startswith("dtk-rank")
            if is_rank and is_spare == spares and process.environ().get("DTK_TEST_RUN") == os.environ["DTK_TEST_RUN"]:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def until_ranks_run():
    """Wait for a number of ranks to run."""

    def wait(count: int, timeout_s: float = 60.0) -> list[psutil.Process]:
        end = time.monotonic() + timeout_s
        while len(found := rank_processes()) < count:
            assert time.monotonic() < end
            time.sleep(0.05)
        return found

    return wait


@pytest.fixture
def no_rank_left():
    """Check after the test that no rank outlived it."""
    before = {process.pid for process in rank_processes()}
    yield
    _, alive = psutil.wait_procs([process for process in rank_processes() if process.pid not in before], timeout=5)
    assert not alive
