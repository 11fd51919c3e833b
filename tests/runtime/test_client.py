"""Clusters started, joined and ended, for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from dtk.errors import ArgumentError, ClusterError, NotFoundError
from dtk.runtime import WorkerInfo, connect


def run_script(tmp_path, body, **kwargs):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(body))
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        **kwargs,
    )


GUARDED = """
import dtk, os, time
if __name__ == "__main__":
    client = dtk.connect(workers=2, threads=1, memory="1 GiB", dashboard="127.0.0.1:0")
    print("ready", *client.run(os.getpid).values(), flush=True)
"""


def leftovers(process, tmp_path, pids):
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)
    return alive, [entry.name for entry in tmp_path.iterdir() if entry.name != "script.py"]


@pytest.mark.parametrize("ending", ["", "    1 / 0\n", "    time.sleep(60)\n"], ids=["return", "exception", "ctrl-c"])
def test_nothing_is_left_behind(tmp_path, ending):
    process = run_script(tmp_path, GUARDED + ending)
    pids = [int(pid) for pid in process.stdout.readline().split()[1:]]
    assert len(pids) == 2
    if "sleep" in ending:
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
    _, told = process.communicate(timeout=30)
    assert "http://127.0.0.1:" in told  # the dashboard
    assert told.count("Traceback") == (1 if ending else 0)
    assert leftovers(process, tmp_path, pids) == ([], [])


def test_a_missing_guard_is_one_clear_line(tmp_path):
    process = run_script(tmp_path, "import dtk\nclient = dtk.connect(workers=1)\n")
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "script.py:2: dtk.connect() starts worker processes" in told.splitlines()[-1]
    assert len(told.splitlines()) < 12


def test_memory_is_split_between_worker_and_ranks(small_cluster):
    client = small_cluster
    limits = client.run(lambda dask_worker: dask_worker.memory_manager.memory_limit)
    shares = client.run(lambda: int(os.environ["DTK_RANK_MEMORY_NBYTES"]))
    assert set(limits.values()) == set(shares.values()) == {3 * 2**29}


def test_joining_leaves_the_cluster_alone(client):
    with connect(client.scheduler.address) as second:
        assert len(second.nthreads()) == 2
    assert len(client.nthreads()) == 2


def test_the_local_cluster_file_works(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text('kind: local\nworkers: 1\nthreads: 1\nmemory: 1 GiB\ndashboard: "127.0.0.1:0"\n')
    with connect(file) as client:
        assert list(client.nthreads().values()) == [1]


def test_the_repository_cluster_file_is_valid():
    from dtk.config import read_model
    from dtk.runtime.client import ClusterFile

    settings = read_model(Path(__file__).parents[2] / "cluster" / "local" / "cluster.yaml", ClusterFile)
    assert settings.kind == "local"


def test_every_mistake_in_a_cluster_file_is_told(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("kind: locl\nworkers: 0\ntreads: 2\n")
    with pytest.raises(ArgumentError) as caught:
        connect(file)
    told = str(caught.value)
    assert "3 mistakes" in told
    assert "kind='locl'" in told
    assert "workers=0" in told
    assert "treads: is no known setting; did you mean 'threads'?" in told


@pytest.mark.parametrize(
    ("content", "mistakes"),
    [
        (
            "kind: address\naddress: tcp://127.0.0.1:9\nmemory: 4 GiB\ndashboard: x:1\n",
            [
                "memory='4 GiB': does not go with kind: address, which takes address",
                "dashboard='x:1': does not go with kind: address, which takes address",
            ],
        ),
        (
            "address: tcp://127.0.0.1:9\nworkers: 3\n",
            ["workers=3: does not go with kind: address, which takes address"],
        ),
        ("kind: scheduler-file\n", ["path=None: kind: scheduler-file needs it"]),
        (
            "memory: 12 parsecs\nrank_memory: true\nworkers: 0\n",
            [
                "workers=0: should be greater than or equal to 1",
                "memory='12 parsecs': is no size in bytes; write it as '512 MiB' or '1.5 GB'",
                "rank_memory=True: is no size in bytes; write it as '512 MiB' or '1.5 GB'",
            ],
        ),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tmp_path, content, mistakes):
    file = tmp_path / "cluster.yaml"
    file.write_text(content)
    with pytest.raises(ArgumentError) as caught:
        connect(file)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == mistakes


def test_a_cluster_file_of_an_address_needs_no_kind(tmp_path, client):
    file = tmp_path / "cluster.yaml"
    file.write_text(f"address: {client.scheduler.address}\n")
    with connect(file) as second:
        assert second.scheduler.address == client.scheduler.address


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://10.0.0.1:1", "10.0.0.1"),
        ("ucx://10.0.0.1:1", "10.0.0.1"),
        ("tls://[fe80::1]:1", "fe80::1"),
        ("inproc://10.0.0.1/7/8", "127.0.0.1"),
    ],
)
def test_a_workers_host(address, host):
    assert WorkerInfo(address, "w", 1).host == host


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: connect(workers=0), ArgumentError, "workers=0 must be at least 1"),
        (lambda: connect(memory="12 parsecs"), ArgumentError, "memory='12 parsecs' is no size"),
        (lambda: connect(memory="300 MiB"), ArgumentError, "a worker needs 256.0 MiB"),
        (lambda: connect("tcp://127.0.0.1:9", timeout_s=1), ClusterError, "does not answer within 1 s"),
        (lambda: connect("tcp://127.0.0.1:9", workers=2), ArgumentError, "workers=2 is for a local cluster"),
        (lambda: connect("tcp://127.0.0.1:9", dashboard="x:1"), ArgumentError, "dashboard='x:1' is for a local"),
        (lambda: connect("localhost:8786"), ArgumentError, "is no file; did you mean 'tcp://localhost:8786'"),
        (lambda: connect(object()), ArgumentError, r"make a distributed.Client\(cluster\)"),
        (lambda: connect(dashboard="127.0.0.1:99999"), ArgumentError, "must be host:port"),
        (lambda: connect("nowhere.yaml"), NotFoundError, "'nowhere.yaml' is no file"),
        (lambda: connect(dashboard="8787x"), ArgumentError, "must be host:port"),
    ],
)
def test_bad_arguments(call, error, text):
    before = set(Path(tempfile.gettempdir()).glob("dtk-*"))
    with pytest.raises(error, match=text):
        call()
    assert set(Path(tempfile.gettempdir()).glob("dtk-*")) == before
