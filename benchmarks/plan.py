"""A plan of a million chunks for a thousand ranks: seconds and memory, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness import Ratio, benchmark

CHUNKS = 1_000_000
RANKS = 1024
RANK = 17
BATCH = 65_536
ROWS = 8192  # of a chunk
COLUMNS = 41


@benchmark("plan")
def plan(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Seconds and megabytes to plan a million chunks over 1,024 ranks, explain that, and schedule a rank's epoch."""
    chunks = CHUNKS if rows is None else max(1, rows // ROWS)
    figures = [measured(chunks) for _ in range(rounds)]
    case = f"{chunks:,} chunks"
    is_whole = chunks == CHUNKS
    names = ("plan_s", "explain_s", "schedule_s")
    parts = {name: float(np.median([figure[name] for figure in figures])) for name in names}
    note = ", ".join(f"{name.removesuffix('_s')} {seconds:.2f} s" for name, seconds in parts.items())
    total = tuple(sum(figure[name] for name in names) for figure in figures)
    yield Ratio("plan", case, "seconds", total, "<= 2" if is_whole else "", note)
    yield Ratio("plan", case, "processor seconds", tuple(figure["processor_s"] for figure in figures))
    note = f"of the whole process; {figures[0]['imported_mb']:.0f} of them after the imports"
    yield Ratio("plan", case, "megabytes", tuple(figure["peak_mb"] for figure in figures), "<= 500", note)


@dataclass(frozen=True)
class Metadata:
    """A table of float32 columns, of which there is only the metadata."""

    num_chunks: int
    identity: str = "metadata"

    @cached_property
    def schema(self) -> pa.Schema:
        """Numbers."""
        return pa.schema({f"x{number}": pa.float32() for number in range(COLUMNS)})

    @cached_property
    def chunk_rows(self) -> np.ndarray:
        """Rows of each chunk: not all the same."""
        return np.random.default_rng(0).integers(ROWS - 100, ROWS + 101, self.num_chunks)

    @cached_property
    def chunk_nbytes(self) -> np.ndarray:
        """Bytes of each chunk."""
        return self.chunk_rows * 4 * COLUMNS


def measured(chunks: int) -> dict[str, float]:
    """Run `main` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.plan", str(chunks)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def main(chunks: int) -> dict[str, float]:
    """Plan, explain and schedule once."""
    from dtk.loader.encoder import make_encoder
    from dtk.loader.planning import make_plan
    from dtk.loader.schedule import make_schedule
    from dtk.memory import parse_nbytes, peak_rss_nbytes

    source: Any = Metadata(chunks)
    options: dict[str, Any] = {"global_batch_size": BATCH, "shuffle": True, "seed": 0, "tail": "trim", "ranks": RANKS}
    imported, processor = peak_rss_nbytes(), time.process_time()
    times = [time.perf_counter()]
    made = make_plan(source, make_encoder(source.schema), memory_limit_nbytes=parse_nbytes("8 GiB"), **options)
    made.check(RANKS)
    made.digest  # noqa: B018
    times.append(time.perf_counter())
    str(made.explain())
    times.append(time.perf_counter())
    steps = {"ring_steps": made.ring_steps(RANKS), "lead_steps": made.lead_steps(RANKS)}
    assert len(make_schedule(made.order, 0, RANK, RANKS, **steps))
    times.append(time.perf_counter())
    seconds = np.diff(times)
    return {
        "plan_s": seconds[0],
        "explain_s": seconds[1],
        "schedule_s": seconds[2],
        "processor_s": time.process_time() - processor,
        "imported_mb": imported / 1e6,
        "peak_mb": peak_rss_nbytes() / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
