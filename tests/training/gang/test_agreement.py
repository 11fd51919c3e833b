"""Ranks that share a store, in threads: whoever asks, all act before the same step."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from dtk.training.gang.agreement import Agreement, Meetings


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
    steps, barrier = 100_000, threading.Barrier(ranks)  # it ends long before, but on a machine that does other things

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
            if "leave" in due:
                break
        agreement.close()
        return found

    with ThreadPoolExecutor(ranks) as threads:
        found = [future.result() for future in [threads.submit(run, rank) for rank in range(ranks)]]
    assert all(each == found[0] for each in found)
    assert {what for _, what in found[0]} == {"checkpoint", "leave"}
    assert all(step >= 22 for step, _ in found[0])
    assert not [thread for thread in threading.enumerate() if thread.name == "dtk-agreement"]


@pytest.mark.parametrize("ranks", [1, 3])
def test_all_meet_after_the_same_batches_and_leave_at_the_same_meeting(ranks):
    served = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told, barrier = [0.0] * ranks, threading.Barrier(ranks)

    def connect():
        return TCPStore("127.0.0.1", served.port, is_master=False, timeout=timedelta(seconds=20))

    def run(rank):
        def longest(seconds):
            told[rank] = seconds
            barrier.wait(20)
            most = max(told)
            barrier.wait(20)
            return most

        agreement, meetings = Agreement(rank, ranks, connect, hang_timeout_s=20), Meetings(longest)
        place, met, left_at = 0, [], 0
        for batch in range(100_000):
            time.sleep(0.001 * rank)
            if batch == 20 and rank == ranks - 1:
                agreement.ask("leave")
            if meetings.is_met():
                place, met = place + 1, [*met, batch]
                if agreement.due(place, ahead=1):
                    left_at = batch
                    break
        agreement.close()
        return met, left_at

    with ThreadPoolExecutor(ranks) as threads:
        found = [future.result() for future in [threads.submit(run, rank) for rank in range(ranks)]]
    assert all(each == found[0] for each in found)
    met, left_at = found[0]
    assert met[0] == 0
    assert len(met) < 20  # not after each batch
    assert all(after <= 2 * before + 2 for before, after in itertools.pairwise(met))
    assert left_at > 20


def test_slow_batches_are_each_followed_by_a_meeting():
    meetings = Meetings(lambda seconds: 10.0)
    assert [meetings.is_met() for _ in range(5)] == [True] * 5
