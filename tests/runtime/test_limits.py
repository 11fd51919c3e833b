"""Limits of memory, of this machine and of workers."""

from __future__ import annotations

import psutil

from dtk.runtime.limits import machine_nbytes, worker_nbytes


def test_a_task_has_what_its_worker_has(client):
    client.wait_for_workers(2)
    assert worker_nbytes() == 3 * 2**29


def test_without_workers_it_is_the_machine():
    assert 0 < machine_nbytes() <= psutil.virtual_memory().total
    assert worker_nbytes() == machine_nbytes()
