"""The script for machines with GPUs, on CPU devices."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def test_two_cpu_devices_and_two_workers_learn_the_weights_of_one():
    command = [sys.executable, "benchmarks/gpu.py", "--cpu-devices", "2", "--no-result"]
    done = subprocess.run(
        [*command, "--models", "mj-lat"], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("MJ-LAT")]
    weights, speed = rows[:2], rows[2:]
    assert [row[1] for row in weights] == ["2", "2 × 1"]
    for _, _, moved, difference, allowed, verdict in weights:
        # Float32 has seven digits, and weights are below 1.
        assert 0 < float(difference) < float(allowed) < 1e-2
        assert float(difference) < float(moved)
        assert verdict == "yes"
    assert [row[1:3] for row in speed] == [["2", "bfloat16, XLA"], ["2 × 1", "float32"]]
    for row in speed:
        rate, step, *parts, checkpoint = map(float, row[3:9])
        assert min(rate, step, checkpoint) > 0
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(100, abs=2)  # rounded
