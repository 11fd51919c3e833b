"""The harness of the benchmarks: what it lists, how it measures, and what it says."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import Ratio, is_installed, measure, rate, registered


def test_the_list_names_every_benchmark(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registered())
    assert "demo" in registered()


@pytest.mark.parametrize("arguments", [["nothing"], ["demo", "--rounds", "0"], ["demo", "--rows", "-1"]])
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert arguments[-1] in capsys.readouterr().err


def test_systems_run_in_turn_and_the_first_round_only_warms_up():
    calls = []

    def system(name, values):
        def run():
            calls.append(name)
            return values.pop(0)

        return run

    samples = measure({"dtk": system("dtk", [100.0, 4.0, 9.0]), "raw": system("raw", [1.0, 2.0, 3.0])}, 2)
    assert calls == ["dtk", "raw"] * 3
    assert samples.ratio("dtk", "raw") == (2.0, 3.0)
    assert samples.ratio("dtk", "ray") == ()


@pytest.mark.parametrize(
    ("goal", "rounds", "holds"),
    [(">= 0.65", (0.6, 0.7, 0.9), True), (">= 0.65", (0.6, 0.6, 0.9), False), ("<= 1.05", (1.0,), True),
     ("", (1.0,), None), (">= 10", (), None)],
)  # fmt: skip
def test_a_goal_is_held_by_the_median(goal, rounds, holds):
    ratio = Ratio("feed-parquet", "zstd", "dtk/ray", rounds, goal, "a note")
    assert ratio.holds is holds
    said = json.loads(ratio.to_json())
    assert list(said) == ["benchmark", "case", "ratio", "median", "rounds", "goal", "holds", "note"]
    assert said["holds"] is holds
    assert "a note" in ratio.to_line()
    assert ("MISSED" in ratio.to_line()) is (holds is False)
    assert ("skipped" in ratio.to_line()) is (not rounds)


def test_rates_and_peers():
    assert rate(lambda: 10) > 10
    assert is_installed("numpy")
    assert not is_installed("no_such_peer")
