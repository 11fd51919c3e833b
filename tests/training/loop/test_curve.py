"""A loss curve that is checked in: the same bits on the machine it is of, and the same to rounding on any other.

``PYTHONPATH=. python tests/training/test_curve.py`` writes it anew, after a change that is meant to change it.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dtk

CURVE = Path(__file__).with_name("curves") / "mlp.json"


def fingerprint():
    """Say what decides the bits: libraries of mathematics choose their code by the model of the CPU, too."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return {
        "model": next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor()),
        "torch": torch.__version__.partition("+")[0],
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
    }


def losses():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 6)).astype("f4")
    table = {f"x{number}": x[:, number] for number in range(6)} | {"y": np.sin(x.sum(axis=1)).astype("f4")}
    loader = dtk.Loader(table, target="y", global_batch_size=64, seed=7)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
        bundle = dtk.train(module, loader, epochs=4, learning_rate=0.01, schedule="cosine", clip_norm=1.0)
    finally:
        torch.set_num_threads(threads)
    return [entry["loss"] for entry in bundle.history]


def test_the_curve_is_the_one_that_is_checked_in():
    kept, found = json.loads(CURVE.read_text()), losses()
    assert found == pytest.approx(kept["losses"], rel=1e-3)
    if kept["fingerprint"] != fingerprint():
        pytest.skip(f"the curve's bits are of {kept['fingerprint']}, and this is {fingerprint()}")
    assert found == kept["losses"]


if __name__ == "__main__":
    CURVE.parent.mkdir(exist_ok=True)
    CURVE.write_text(json.dumps({"fingerprint": fingerprint(), "losses": losses()}, indent=1) + "\n")
