"""``dtk doctor``: whether this machine and the cluster are fit for training."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from dtk.cli.output import Cluster, Json, joined, only_results, print_json, print_table
from dtk.memory import format_nbytes

__all__ = ["Finding", "doctor", "judge_cluster", "judge_machine"]

PORTS: Final = {8786: "the scheduler", 8787: "the dashboard"}
LEAST_SCRATCH_NBYTES: Final = 5 << 30
WHEELS: Final = ("13.0", "12.8", "12.6")  # of CUDA, for which torch comes ready built


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    level : {"ok", "warning", "error"}
        An error keeps dtk from working.
    topic : str
        What it is about.
    text : str
        What was found, and the remedy.
    """

    level: Literal["ok", "warning", "error"]
    topic: str
    text: str


def doctor(
    *,
    cluster: Cluster = None,
    shared: Annotated[str | None, typer.Option(metavar="DIR")] = None,
    json: Json = False,
) -> None:
    """Look whether this machine, and a cluster, are fit for training; exits with 1 if anything is wrong.

    Parameters
    ----------
    cluster : str, optional
        The scheduler, or a cluster file, to look at, too.
    shared : str, optional
        A directory that the workers should see: writes a small file, looks for it there, and removes it.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Raises
    ------
    typer.Exit
        With code 1 if anything is wrong.

    Examples
    --------
    $ dtk doctor --cluster tcp://host:8786 --shared .
    """
    from dtk.cli.machine import look

    if shared is not None and cluster is None:
        raise typer.BadParameter("--shared needs the workers of a --cluster")
    with only_results():
        here = look()
        findings = [*judge_machine(here), *_judge_ports()]
        elsewhere: dict[str, Any] = {}
        with joined(cluster) as client:
            if client is not None:
                elsewhere, found = _look_at_cluster(client, here)
                findings += found
            if client is not None and shared is not None:
                findings += _judge_shared(client, shared)
    failed = any(finding.level == "error" for finding in findings)
    if json:
        print_json({"ok": not failed, "findings": list(map(asdict, findings)), "here": here, **elsewhere})
    else:
        print_table(("", "", ""), [(finding.level, finding.topic, finding.text) for finding in findings])
    if failed:
        raise typer.Exit(1)


def judge_machine(facts: Mapping[str, Any]) -> list[Finding]:
    """Judge a machine by its facts.

    Parameters
    ----------
    facts : mapping
        What `dtk.cli.machine.look` returned there.

    Returns
    -------
    list of Finding
        One or more a topic.
    """
    installed = {name: version for name, version in facts["versions"].items() if version is not None}
    findings = [Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in installed.items()))]
    findings += [
        Finding("error", "versions", f"{name} is not installed; install dtk again, which brings it")
        for name, version in facts["versions"].items()
        if version is None
    ]
    cores, usable = facts["cores"], facts["usable_cores"]
    text = f"{cores}" if cores == usable else f"{usable} of {cores}: the affinity of this process leaves out the rest"
    findings.append(Finding("ok" if cores == usable else "warning", "cores", text))
    findings += [_judge_memory(facts), *_judge_gpus(facts), *_judge_threads(facts), _judge_scratch(facts["scratch"])]
    return findings


def judge_cluster(here: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Compare the versions of the scheduler and the workers with those here.

    Parameters
    ----------
    here : mapping
        The facts of this machine.
    others : mapping
        The facts of the scheduler and the workers, by name.

    Returns
    -------
    list of Finding
        One for each package and version that differ: an error, or a warning where only the patch does.
    """
    findings = []
    for name, version in here["versions"].items():
        differing: dict[str, list[str]] = {}
        for place, facts in others.items():
            found = facts["versions"].get(name)
            if _parts(name, found) != _parts(name, version):
                differing.setdefault(found or "missing", []).append(place)
        findings += [
            Finding(
                "warning" if _parts(name, found)[:2] == _parts(name, version)[:2] else "error",
                "versions",
                f"{name} is {version} here but {found} on {_few(places)}; install the same",
            )
            for found, places in differing.items()
        ]
    return findings or [Finding("ok", "versions", "the same here, on the scheduler and on all workers")]


def _parts(name: str, version: str | None) -> list[str]:
    """Take a version apart, without a label such as ``+cpu``, which hosts may differ in, and without Python's patch.

    >>> _parts("torch", "2.13.0+cpu"), _parts("python", "3.11.7")
    (['2', '13', '0'], ['3', '11'])
    """
    parts = (version or "missing").partition("+")[0].split(".")
    return parts[:2] if name == "python" else parts


def _few(places: Iterable[str]) -> str:
    places = list(places)
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def _judge_memory(facts: Mapping[str, Any]) -> Finding:
    total, free, limit = facts["memory_nbytes"], facts["free_nbytes"], facts["cgroup_nbytes"]
    text = f"{format_nbytes(total)}, of which {format_nbytes(free)} are free"
    if limit is not None and limit < total:
        return Finding("ok", "memory", f"{text}; this process's control group limits it to {format_nbytes(limit)}")
    return Finding("ok", "memory", text)


def _judge_gpus(facts: Mapping[str, Any]) -> list[Finding]:
    gpus, torch, built = facts["gpus"], facts["versions"]["torch"], facts["torch_cuda"]
    names, driver, newest = gpus["names"], gpus["driver"], gpus["cuda"]
    if not names:
        text = (
            "none"
            if built is None
            else f"none, and torch {torch} for CUDA {built}: the build for CPUs is gigabytes smaller"
        )
        return [Finding("ok", "GPU", text)]
    findings = [
        Finding("ok", "GPU", f"{_counted(names)}; driver {driver or 'unknown'}, for CUDA up to {newest or 'unknown'}")
    ]
    if gpus["visible"] in ("", "-1"):
        findings.append(Finding("warning", "GPU", "CUDA_VISIBLE_DEVICES hides all of them; unset it to train on them"))
    fitting = next((cuda for cuda in WHEELS if newest is None or _major(cuda) <= _major(newest)), None)
    remedy = f"pip install torch --index-url https://download.pytorch.org/whl/cu{(fitting or '').replace('.', '')}"
    if fitting is None:
        remedy = "install a newer driver"
    if built is None:
        findings.append(
            Finding("warning", "torch", f"torch {torch} is built for CPUs and leaves the GPU idle; {remedy}")
        )
    elif newest is not None and _major(built) > _major(newest):
        text = f"torch {torch} is built for CUDA {built} but the driver takes CUDA up to {newest}; {remedy}"
        findings.append(Finding("error", "torch", text))
    else:
        findings.append(Finding("ok", "torch", f"built for CUDA {built}, which fits the driver"))
    return findings


def _counted(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _major(cuda: str) -> int:
    """Return what must agree: within one major version of CUDA, older drivers run newer builds."""
    return int(cuda.partition(".")[0])


def _judge_threads(facts: Mapping[str, Any]) -> list[Finding]:
    threads: Mapping[str, str] = facts["threads"]
    if not threads:
        return [Finding("ok", "threads", "no cap in the environment")]
    shown = ", ".join(f"{name}={value}" for name, value in threads.items())
    too_many = [name for name, value in threads.items() if value.isdigit() and int(value) > facts["usable_cores"]]
    if too_many:
        text = f"{shown}: {too_many[0]} is more than the {facts['usable_cores']} cores; unset it"
        return [Finding("warning", "threads", text)]
    return [Finding("ok", "threads", f"{shown}; ranks get their own")]


def _judge_scratch(scratch: Mapping[str, Any]) -> Finding:
    free, total = scratch["free_nbytes"], scratch["total_nbytes"]
    room = f"{format_nbytes(free)} of {format_nbytes(total)} free"
    text = f"{scratch['path']} ({scratch['file_system'] or 'unknown'}), {room}"
    remedy = "set dask's temporary-directory to a roomy local disk"
    if scratch["in_memory"]:
        return Finding("warning", "scratch", f"{text}: it lies in memory, so that spilling frees nothing; {remedy}")
    if free < LEAST_SCRATCH_NBYTES:
        return Finding("warning", "scratch", f"{text}: little room to spill; {remedy}")
    return Finding("ok", "scratch", text)


def _judge_ports() -> list[Finding]:
    findings = []
    for port, purpose in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                text = f"{port}, for {purpose}, is taken; a cluster started here gets another"
                findings.append(Finding("warning", "ports", text))
            else:
                findings.append(Finding("ok", "ports", f"{port}, for {purpose}, is free"))
    return findings


def _look_at_cluster(client: Any, here: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    from dtk.cli.machine import look

    try:
        scheduler, workers = client.run_on_scheduler(look), client.run(look)
    except (ImportError, AttributeError) as error:
        wanted = f"dask-dtk {here['versions']['dask-dtk']}"
        text = f"the scheduler or a worker cannot import dtk ({error}); install {wanted} there"
        return {}, [Finding("error", "cluster", text)]
    if not workers:
        return {"scheduler": scheduler}, [Finding("error", "cluster", "has no workers; start some")]
    hosts = {facts["host"] for facts in workers.values()}
    findings = [Finding("ok", "cluster", f"{_many(workers, 'worker')} on {_many(hosts, 'host')}")]
    findings += judge_cluster(here, {"the scheduler": scheduler, **workers})
    of_host = {facts["host"]: facts for facts in workers.values()}
    of_host.pop(here["host"], None)  # it was judged already
    for host, facts in sorted(of_host.items()):
        judged = [finding for finding in judge_machine(facts) if finding.topic != "versions" and finding.level != "ok"]
        findings += [Finding(finding.level, f"{finding.topic} of {host}", finding.text) for finding in judged]
    return {"scheduler": scheduler, "workers": workers}, findings


def _many(things: Any, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _judge_shared(client: Any, directory: str) -> list[Finding]:
    from dtk.cli.machine import read_token

    path, token = Path(directory).absolute() / f".dtk-doctor-{uuid.uuid4().hex}", uuid.uuid4().hex
    try:
        path.write_text(token)
    except OSError as error:
        return [Finding("error", "shared", f"{directory} cannot be written to: {error.strerror}")]
    try:
        seen = client.run(read_token, os.fspath(path))
    finally:
        path.unlink()
    blind = [address for address, found in seen.items() if found != token]
    if blind:
        text = f"{path.parent} is not seen by {_few(blind)}; use a directory that all hosts mount at the same path"
        return [Finding("error", "shared", text)]
    return [Finding("ok", "shared", f"{path.parent} is seen by all workers")]
