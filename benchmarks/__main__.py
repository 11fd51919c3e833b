"""``python -m benchmarks [NAME ...] [--json] [--rounds N] [--rows N]``."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

import benchmarks
from benchmarks.harness import machine, registered


def main(arguments: list[str] | None = None) -> int:
    """List the benchmarks, or run some; 1 if a goal was missed."""
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name not in ("__main__", "harness"):
            importlib.import_module(f"benchmarks.{module.name}")
    known = registered()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(known))
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each ratio")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the one that warms up (default 5)")
    parser.add_argument("--rows", type=int, default=None, help="size of the data (default: the benchmark's own)")
    given = parser.parse_args(arguments)
    for option, value in (("rounds", given.rounds), ("rows", given.rows)):
        if value is not None and value < 1:
            parser.error(f"--{option} {value} must be at least 1")
    if not given.names:
        for entry in known.values():
            print(f"{entry.name:<14} {entry.summary}")
        return 0
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"no benchmark is named {unknown[0]!r}; there is {', '.join(known)}")
    if not given.json:
        print("machine:", ", ".join(f"{name} {value}" for name, value in machine().items()))
    missed = False
    for name in given.names:
        for ratio in known[name].run(given.rounds, given.rows):
            print(ratio.to_json() if given.json else ratio.to_line(), flush=True)
            missed |= ratio.holds is False
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
