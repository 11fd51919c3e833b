"""dtk doctor: facts of machines, and what is made of them."""

from __future__ import annotations

import copy
import json
import socket

import pytest

from dtk.cli.doctor import judge_cluster, judge_machine
from dtk.cli.machine import cgroup_limit_nbytes, look, mount_of, read_token


@pytest.fixture(scope="module")
def facts():
    """A machine on which all is well."""
    found = look()
    found["gpus"] = {"names": [], "visible": None, "driver": None, "cuda": None}
    found |= {"threads": {}, "torch_cuda": None, "usable_cores": found["cores"]}
    found["scratch"] |= {"in_memory": False, "free_nbytes": 100 << 30}
    return found


@pytest.fixture
def judged(facts):
    """Judge a machine that differs from it: levels and texts by topic."""

    def judged(**changes):
        found = judge_machine(copy.deepcopy(facts) | changes)
        return {finding.topic: (finding.level, finding.text) for finding in found}

    return judged


def test_all_is_well(judged):
    assert {level for level, _ in judged().values()} == {"ok"}


def test_here(run):
    result = run("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["ok"] else 1)
    topics = {finding["topic"] for finding in report["findings"]}
    assert {"versions", "cores", "memory", "GPU", "threads", "scratch", "ports"} <= topics
    assert report["here"]["versions"]["torch"]


def test_a_package_that_is_missing_is_an_error(judged, facts):
    level, text = judged(versions=facts["versions"] | {"pyarrow": None})["versions"]
    assert level == "error"
    assert "pyarrow" in text


def gpu(cuda):
    return {"names": ["NVIDIA H100"] * 2, "visible": None, "driver": "550.54.15", "cuda": cuda}


def test_a_cpu_build_on_a_gpu_machine_names_the_build_that_fits(judged):
    found = judged(gpus=gpu("12.7"))
    assert found["GPU"] == ("ok", "2 x NVIDIA H100; driver 550.54.15, for CUDA up to 12.7")
    assert found["torch"][0] == "warning"
    assert found["torch"][1].endswith("pip install torch --index-url https://download.pytorch.org/whl/cu128")
    assert judged(gpus=gpu("11.8"))["torch"][1].endswith("install a newer driver")


@pytest.mark.parametrize(("built", "level"), [("12.8", "ok"), ("13.0", "error"), ("11.8", "ok")])
def test_the_build_must_fit_the_driver(judged, built, level):
    assert judged(gpus=gpu("12.7"), torch_cuda=built)["torch"][0] == level


def test_hidden_gpus(judged):
    assert judged(gpus=gpu("12.7") | {"visible": ""})["GPU"][0] == "warning"


def test_caps_of_threads(judged, facts):
    assert judged(threads={"OMP_NUM_THREADS": "1"})["threads"][0] == "ok"
    assert judged(threads={"OMP_NUM_THREADS": str(facts["cores"] + 1)})["threads"][0] == "warning"
    assert judged(usable_cores=1, cores=8)["cores"] == (
        "warning",
        "1 of 8: the affinity of this process leaves out the rest",
    )


def test_scratch_in_memory(judged, facts):
    level, text = judged(scratch=facts["scratch"] | {"in_memory": True})["scratch"]
    assert level == "warning"
    assert "lies in memory" in text
    assert judged(scratch=facts["scratch"] | {"free_nbytes": 1})["scratch"][0] == "warning"


def test_versions_that_differ(facts):
    other = {
        "versions": facts["versions"] | {"dask": "1.0", "torch": facts["versions"]["torch"].split("+")[0] + "+cu126"}
    }
    (finding,) = judge_cluster(facts, {"the scheduler": facts, "tcp://w:1": other})
    assert (finding.level, finding.topic) == ("error", "versions")
    assert finding.text.endswith("here but 1.0 on tcp://w:1; install the same")
    (finding,) = judge_cluster(facts, {"the scheduler": facts})
    assert finding.level == "ok"


def test_a_patch_that_differs_is_a_warning(facts):
    here = {"versions": {"dask": "2026.8.0", "torch": None}}
    (finding,) = judge_cluster(here, {"tcp://w:1": {"versions": {"dask": "2026.8.1", "torch": None}}})
    assert (finding.level, finding.text) == (
        "warning",
        "dask is 2026.8.0 here but 2026.8.1 on tcp://w:1; install the same",
    )
    (finding,) = judge_cluster(here, {"tcp://w:1": {"versions": {"dask": "2026.9.0", "torch": None}}})
    assert finding.level == "error"
    (finding,) = judge_cluster(here, {"tcp://w:1": {"versions": {"dask": None, "torch": None}}})
    assert finding.level == "error"


def test_a_port_that_is_taken_is_said(run):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8786))
            taken.listen()
        except OSError:
            pass  # another has it, which is as good
        report = json.loads(run("doctor", "--json").stdout)
    levels = {finding["text"][:4]: finding["level"] for finding in report["findings"] if finding["topic"] == "ports"}
    assert levels["8786"] == "warning"


def test_a_cluster(run, client, tmp_path):
    result = run("doctor", "--cluster", client.scheduler.address, "--shared", tmp_path, "--json")
    assert result.exit_code == 0, result.stdout
    report = json.loads(result.stdout)
    texts = {finding["topic"]: finding["text"] for finding in report["findings"]}
    assert texts["cluster"] == "2 workers on 1 host"
    assert texts["versions"] == "the same here, on the scheduler and on all workers"
    assert texts["shared"] == f"{tmp_path} is seen by all workers"
    assert list(tmp_path.iterdir()) == []
    assert set(report["workers"]) == set(client.scheduler_info()["workers"])


def test_a_cluster_that_is_not_there(run, tmp_path):
    (tmp_path / "cluster.yaml").write_text("kind: address\n")
    result = run("doctor", "--cluster", tmp_path / "cluster.yaml")
    assert result.exit_code == 1
    assert "kind: address needs it" in result.stderr


def test_the_least_limit_of_nested_groups_counts(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/slice/job\n")
    job = tmp_path / "root" / "slice" / "job"
    job.mkdir(parents=True)
    (job / "memory.max").write_text("max\n")
    assert cgroup_limit_nbytes(tmp_path / "root", own) is None
    (job.parent / "memory.max").write_text("1000\n")
    assert cgroup_limit_nbytes(tmp_path / "root", own) == 1000
    (job / "memory.max").write_text("400\n")
    assert cgroup_limit_nbytes(tmp_path / "root", own) == 400


def test_the_older_control_groups(tmp_path):
    own = tmp_path / "own"
    own.write_text("5:memory:/job\n4:cpu,cpuacct:/\n")
    job = tmp_path / "root" / "memory" / "job"
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text("777\n")
    (job.parent / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert cgroup_limit_nbytes(tmp_path / "root", own) == 777


def test_the_deepest_mount_counts(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/x / ext4 rw 0 0\nserver:/y {tmp_path} nfs4 rw 0 0\nz {tmp_path}/mem tmpfs rw 0 0\n")
    assert mount_of(str(tmp_path / "mem" / "deep"), mounts) == "tmpfs"
    assert mount_of(str(tmp_path / "memory"), mounts) == "nfs4"
    assert mount_of("/elsewhere", mounts) == "ext4"


def test_tokens(tmp_path):
    (tmp_path / "token").write_text("abc")
    assert read_token(str(tmp_path / "token")) == "abc"
    assert read_token(str(tmp_path / "nix")) is None
