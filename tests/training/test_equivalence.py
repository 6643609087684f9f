"""One worker, two devices, and two workers of one or two devices each learn the same weights.

They train on the same global batches.

Sums that are grouped differently are rounded differently, so the weights are not equal bit for bit.
The tests measure the effect of rounding on a variable in twenty steps. One device trains on the
same batches with the examples of each batch in several other orders: like a division into parts,
this changes only the rounding. The tolerance of a variable is its largest difference over these
orders, times `FACTOR`, but at least as many units in the last place. The factor is needed because
few orders are tried, and because global moments are computed by another formula than on one device.
Four devices add up in more parts than any order of one device, so they may be off by `LAST_PLACES`.

Each variable has its own tolerance. For example, the bias of a convolution before a batch norm has
no gradient, because the norm subtracts it, and Adam turns rounding errors into steps. The moving
mean of that norm follows the bias.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ports import free_ports
from regrouped import FACTORED, MODELS, NUM_PERMUTATIONS, UNSYNCHRONIZED

SCRIPT = Path(__file__).with_name("regrouped.py")
FACTOR = 4
LAST_PLACES = 16
WITHOUT_GRADIENT = re.compile(r"_conv\.bias$|block\d_norm\.moving_mean$")
ONE_PROCESS = "one process"
WORKERS = ["worker 0", "worker 1"]
WORKERS_OF_TWO = ["worker 0 of two devices", "worker 1 of two devices"]
PROCESSES = [ONE_PROCESS, *WORKERS, *WORKERS_OF_TWO]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def final_weights(tmp_path_factory):
    """Return the final weights: {(process, model, run): {variable: array}}."""
    folder = tmp_path_factory.mktemp("final_weights")
    arguments = {ONE_PROCESS: []}
    for devices, workers in enumerate([WORKERS, WORKERS_OF_TWO], start=1):
        ports = [str(port) for port in free_ports(2)]
        for index, name in enumerate(workers):
            arguments[name] = [str(devices), str(index), *ports]
    # The two workers need each other; a third process would only take cores from them.
    for concurrent in (WORKERS, WORKERS_OF_TWO, [ONE_PROCESS]):
        run(folder, {name: arguments[name] for name in concurrent})
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
        errors = [process.communicate(timeout=800)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), errors


def differences(weights, others):
    """Return the largest absolute difference of each variable."""
    assert weights.keys() == others.keys()
    return {name: np.abs(array - others[name]).max() for name, array in weights.items()}


def tolerances(final_weights, model, last_places=FACTOR):
    """Return the tolerance of each variable, as explained in the module docstring."""
    one = final_weights[ONE_PROCESS, model, "one"]
    spreads = [
        differences(final_weights[ONE_PROCESS, model, f"permuted{number}"], one)
        for number in range(NUM_PERMUTATIONS)
    ]
    last_place = {name: np.spacing(np.abs(array).max()) for name, array in one.items()}
    return {
        name: max(last_places * last_place[name], *(FACTOR * each[name] for each in spreads))
        for name in one
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("process", PROCESSES)
def test_devices_and_workers_learn_the_weights_of_one_device(final_weights, model, process):
    difference = differences(
        final_weights[process, model, "synchronized"], final_weights[ONE_PROCESS, model, "one"]
    )
    last_places = LAST_PLACES if process in WORKERS_OF_TWO else FACTOR
    allowed = tolerances(final_weights, model, last_places)
    assert {
        name: (value, allowed[name]) for name, value in difference.items() if value > allowed[name]
    } == {}


@pytest.mark.parametrize("model", MODELS)
def test_two_workers_have_equal_weights_bit_for_bit(final_weights, model):
    pairs = [("synchronized", WORKERS), ("synchronized", WORKERS_OF_TWO)]
    if model == UNSYNCHRONIZED:
        pairs.append(("unsynchronized", WORKERS))
    for run_name, workers in pairs:
        one, other = (final_weights[worker, model, run_name] for worker in workers)
        assert set(differences(one, other).values()) == {0}


@pytest.mark.parametrize("model", MODELS)
def test_training_changes_weights_far_more_than_the_tolerance(final_weights, model):
    moved = differences(
        final_weights[ONE_PROCESS, model, "one"], final_weights[ONE_PROCESS, model, "start"]
    )
    allowed = tolerances(final_weights, model)
    learned = [name for name in moved if not WITHOUT_GRADIENT.search(name)]
    assert len(learned) > 0.8 * len(moved)
    assert {name: moved[name] for name in learned if moved[name] <= 100 * allowed[name]} == {}


@pytest.mark.parametrize("process", [ONE_PROCESS, *WORKERS])
def test_unsynchronized_batch_norms_exceed_the_tolerance(final_weights, process):
    difference = differences(
        final_weights[process, UNSYNCHRONIZED, "unsynchronized"],
        final_weights[ONE_PROCESS, UNSYNCHRONIZED, "one"],
    )
    allowed = tolerances(final_weights, UNSYNCHRONIZED)
    kernels = [name for name in difference if name.endswith("kernel")]
    assert kernels
    assert {
        name: difference[name] for name in kernels if difference[name] <= 100 * allowed[name]
    } == {}


@pytest.mark.parametrize("process", PROCESSES)
def test_gradients_of_large_kernels_are_gathered_in_factors(final_weights, process):
    for model in MODELS:
        numbers = final_weights[process, model, "gathered"]["numbers"]
        assert numbers.size  # of each replica
        # Two kernels, whose inputs are the same.
        assert {*map(tuple, numbers)} == ({(1, 2)} if model == FACTORED else {(0, 0)})
