"""Ranks that share a store, in threads: whoever asks, all act before the same step."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from dtk.training.agreement import Agreement


def test_one_that_is_alone_acts_before_the_next_step():
    agreement = Agreement(0, 1)
    assert agreement.due(3) == frozenset()
    agreement.ask("checkpoint")
    agreement.ask("leave")
    assert agreement.due(4) == {"checkpoint", "leave"}
    assert agreement.due(5) == frozenset()


@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("asking", [0, 1])
def test_all_act_before_the_same_step(ranks, asking):
    served = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    steps, barrier = 200, threading.Barrier(ranks)

    def connect():
        return TCPStore("127.0.0.1", served.port, is_master=False, timeout=timedelta(seconds=20))

    def run(rank):
        agreement, found = Agreement(rank, ranks, connect, hang_timeout_s=20), []
        for step in range(steps):
            if rank == asking and step in (20, 21, 90):
                agreement.ask("checkpoint" if step < 90 else "leave")
            due = agreement.due(step)
            found += [(step, what) for what in sorted(due)]
            barrier.wait(20)  # as the sum over ranks in a step does
        agreement.close()
        return found

    with ThreadPoolExecutor(ranks) as threads:
        found = [future.result() for future in [threads.submit(run, rank) for rank in range(ranks)]]
    assert all(each == found[0] for each in found)
    assert {what for _, what in found[0]} == {"checkpoint", "leave"}
    assert all(step >= 22 for step, _ in found[0])
    assert not [thread for thread in threading.enumerate() if thread.name == "dtk-agreement"]
