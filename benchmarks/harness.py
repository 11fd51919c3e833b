"""Run systems in turn, several rounds, and report medians of ratios.

The machines this runs on are shared and noisy, so no figure is a time: each is a ratio of two things that ran in turn,
in one process, and the median over rounds.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Benchmark", "Ratio", "Samples", "benchmark", "is_installed", "machine", "measure", "rate", "registered"]


@dataclass(frozen=True)
class Ratio:
    """One figure of a benchmark.

    Parameters
    ----------
    benchmark, case : str
        Which.
    ratio : str
        What over what, for example ``"dtk/raw-decode"``.
    rounds : tuple of float
        The ratio in each round; none for a peer that is skipped.
    goal : str
        Such as ``">= 0.65"``; empty for a figure that is only reported.
    note : str
        What a reader must know.
    """

    benchmark: str
    case: str
    ratio: str
    rounds: tuple[float, ...]
    goal: str = ""
    note: str = ""

    @property
    def median(self) -> float | None:
        """The median over rounds; None without any."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None without a goal or a figure."""
        if not self.goal or self.median is None:
            return None
        sign, _, limit = self.goal.partition(" ")
        return self.median >= float(limit) if sign == ">=" else self.median <= float(limit)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "benchmark": self.benchmark,
                "case": self.case,
                "ratio": self.ratio,
                "median": None if self.median is None else round(self.median, 4),
                "rounds": [round(value, 4) for value in self.rounds],
                "goal": self.goal,
                "holds": self.holds,
                "note": self.note,
            }
        )

    def to_line(self) -> str:
        """One line for people."""
        name = f"{self.benchmark:<14} {self.case:<22} {self.ratio:<26}"
        note = f"  ({self.note})" if self.note else ""
        if not self.rounds:
            return f"{name} {'skipped':>8}{note}"
        verdict = {None: "", True: "  holds", False: "  MISSED"}[self.holds]
        goal = f"  goal {self.goal}" if self.goal else ""
        spread = f"[{min(self.rounds):.3g}, {max(self.rounds):.3g}]"
        return f"{name} {self.median:>8.3g} {spread:<16}{goal}{verdict}{note}"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that the command line lists.

    Parameters
    ----------
    name : str
        What the user types.
    summary : str
        One line.
    run : callable
        ``run(rounds, rows)`` yields ratios; `rows` is None for the benchmark's own size.
    """

    name: str
    summary: str
    run: Callable[[int, int | None], Iterator[Ratio]]


_registered: dict[str, Benchmark] = {}


def benchmark(name: str) -> Callable[[Callable[[int, int | None], Iterator[Ratio]]], Callable[..., Iterator[Ratio]]]:
    """Register a benchmark; its summary is the first line of its docstring."""

    def register(run: Callable[[int, int | None], Iterator[Ratio]]) -> Callable[..., Iterator[Ratio]]:
        _registered[name] = Benchmark(name, (run.__doc__ or "").strip().splitlines()[0], run)
        return run

    return register


def registered() -> dict[str, Benchmark]:
    """Return all benchmarks by name."""
    return dict(_registered)


@dataclass
class Samples:
    """What the systems gave, a value a round; nothing for a peer that is not installed."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, over: str, under: str) -> tuple[float, ...]:
        """Divide two systems round by round; no rounds where one of them did not run."""
        if not {over, under} <= self.values.keys():
            return ()
        return tuple(a / b for a, b in zip(self.values[over], self.values[under], strict=True))


def measure(systems: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """Run systems in turn.

    Parameters
    ----------
    systems : mapping of str to callable
        Each returns the figure of one run, for example samples per second.
    rounds : int
        After one more, unmeasured round that warms up memory and caches.
    """
    samples = Samples({name: [] for name in systems})
    assert rounds >= 1
    for number in range(rounds + 1):
        for name, run in systems.items():
            gc.collect()
            value = run()
            if number:
                samples.values[name].append(value)
    return samples


def is_installed(package: str) -> bool:
    """Tell whether a peer can be measured here."""
    return importlib.util.find_spec(package) is not None


def rate(work: Callable[[], int]) -> float:
    """Return how many units of work were done a second."""
    start = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - start)


def machine() -> dict[str, Any]:
    """Describe the machine, for RESULTS.md."""
    import os

    import psutil

    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
