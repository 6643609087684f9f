"""One worker, two workers and two devices learn the same of the same global batches.

How large a difference is rounding? Sums that are grouped otherwise are rounded otherwise, so equal
bits cannot be asked for. What rounding does to a variable in twenty steps is measured: one device
trains on the same batches with the examples of each in several other orders, which is the same
mathematics with other roundings, as a cut into parts is. The largest spread of a variable over
these, or one unit of its last place where they agree, times `FACTOR` is what a variable may be off.
The factor is there because few orders are tried, and because global moments are computed by another
formula than one device's.

Each variable has its own tolerance: the bias of a convolution before a norm has no gradient,
as the norm takes it off again, and Adam makes steps of what rounding leaves there. The moving mean
of that norm follows it.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ports import free_ports
from regrouped import MODELS, NUM_PERMUTATIONS

SCRIPT = Path(__file__).with_name("regrouped.py")
FACTOR = 4
WITHOUT_GRADIENT = re.compile(r"_conv\.bias$|block\d_norm\.moving_mean$")
ONE_PROCESS, *WORKERS = "one process", "worker 0", "worker 1"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What each process has in the end: {(process, model, run): {variable: array}}."""
    folder = tmp_path_factory.mktemp("ends")
    ports = [str(port) for port in free_ports(2)]
    arguments = {ONE_PROCESS: [], WORKERS[0]: ["0", *ports], WORKERS[1]: ["1", *ports]}
    # The two need each other; a third would only take cores from them.
    for together in (WORKERS, [ONE_PROCESS]):
        run(folder, {name: arguments[name] for name in together})
    found = {}
    for name in arguments:
        with np.load(folder / f"{name}.npz") as file:
            for path in file.files:
                model, grouping, variable = path.split("/")
                found.setdefault((name, model, grouping), {})[variable] = file[path]
    return found


def run(folder, arguments):
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder / f"{name}.npz"), *given],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, given in arguments.items()
    ]
    try:
        told = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), told


def apart(ours, theirs):
    """The largest difference of each variable."""
    assert ours.keys() == theirs.keys()
    return {name: np.abs(array - theirs[name]).max() for name, array in ours.items()}


def tolerances(ends, model):
    """How far off each variable may be, as the module says."""
    one = ends[ONE_PROCESS, model, "one"]
    spreads = [
        apart(ends[ONE_PROCESS, model, f"permuted{number}"], one)
        for number in range(NUM_PERMUTATIONS)
    ]
    last_place = {name: np.spacing(np.abs(array).max()) for name, array in one.items()}
    return {
        name: FACTOR * max(last_place[name], *(spread[name] for spread in spreads)) for name in one
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("process", [ONE_PROCESS, *WORKERS])
def test_two_devices_and_two_workers_end_with_the_weights_of_one(ends, model, process):
    off = apart(ends[process, model, "synchronized"], ends[ONE_PROCESS, model, "one"])
    allowed = tolerances(ends, model)
    assert {name: (off[name], allowed[name]) for name in off if off[name] > allowed[name]} == {}


@pytest.mark.parametrize("model", MODELS)
def test_two_workers_have_the_same_bits(ends, model):
    for run_name in ("synchronized", "apart"):
        one, other = (ends[worker, model, run_name] for worker in WORKERS)
        assert set(apart(one, other).values()) == {0}


@pytest.mark.parametrize("model", MODELS)
def test_the_training_moves_weights_far_more_than_the_tolerance(ends, model):
    moved = apart(ends[ONE_PROCESS, model, "one"], ends[ONE_PROCESS, model, "start"])
    allowed = tolerances(ends, model)
    learned = [name for name in moved if not WITHOUT_GRADIENT.search(name)]
    assert len(learned) > 0.8 * len(moved)
    assert {name: moved[name] for name in learned if moved[name] <= 100 * allowed[name]} == {}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("process", [ONE_PROCESS, *WORKERS])
def test_norms_that_see_only_their_own_part_are_noticed(ends, model, process):
    off = apart(ends[process, model, "apart"], ends[ONE_PROCESS, model, "one"])
    allowed = tolerances(ends, model)
    kernels = [name for name in off if name.endswith("kernel")]
    assert kernels
    assert {name: off[name] for name in kernels if off[name] <= 100 * allowed[name]} == {}
