"""Measure training with two workers on two cores, and compute it for clusters of GPUs.

    python benchmarks/scaling.py                     # about fifteen minutes on two idle cores
    python benchmarks/scaling.py --smoke             # tiny models, one round, no result file
    python benchmarks/scaling.py --gpu-tflops 60 --network-gbytes 25   # other assumptions

Measured: two workers of one core each, joined over loopback as in training, compared with one
worker of one core. Cores and threads are fixed. The MJ-LAT head has the published size and reads
cached features. E2E-LAT has the frames of 256x144 and the filters of the tiny preset
(`--published`: 640x352) and reads cached frames. Either the global batch or the batch of each
worker is the same. The configurations take turns, and the fastest of their rounds counts, as other
work on a machine only makes steps slower. The input is also measured by itself, at the published
size: on one core, from files in memory, to a step that costs nothing.

Computed: a step takes the longer of computing and of preparing its input, then the all-reduce of
the gradients (of large dense layers, the gather of their factors), then two round trips per batch
norm (forward and backward). Training all-reduces gradients in packs, the first of them during the
computation of the others; the model ignores this overlap, so a cluster can be faster. Bytes go
around a ring, the delay of a message up and down a tree. The table stops where an epoch of
VideoSet's training split has too few steps.
"""

import argparse
import functools
import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from results import table, write_result
from scaling_workers import costs_of, measure, measure_all_reduce

# Least ratios of two workers to one, with the same batch for each: for a kind and a precision.
BARS = {("mj-lat", "bfloat16"): 1.6, ("e2e-lat", "float32"): 1.9}
BATCH_SIZE = 8
LARGE_BATCH = 256  # global, of the preset `large`
ROUNDS = 3
KINDS = ("mj-lat", "e2e-lat")
PRECISIONS = {"mj-lat": ("float32", "bfloat16"), "e2e-lat": ("float32",)}
EXAMPLES = {"one frame per second": 670, "all frames": 18_000}  # VideoSet's training split, about
LEAST_STEPS = 10  # of an epoch


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Properties of a cluster, which this machine cannot measure.

    Attributes:
      gpu_tflops: speed of a GPU in these convolutions, in 1e12 operations per second.
      network_gbytes: network bandwidth of each GPU, in 1e9 bytes per second.
      delay_us: delay of a message between two GPUs, in microseconds.
      cores_per_gpu: cores that prepare the input of a GPU.
    """

    gpu_tflops: float
    network_gbytes: float
    delay_us: float
    cores_per_gpu: int


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of training a model.

    Attributes:
      gmac: of one example, forward.
      gradient_bytes: of all gradients, in float32.
      dense: (i, outputs) for large dense layers with the same i inputs; each has a kernel [i, o].
      norms: number of batch norms, each two round trips per step.
      input_rate: examples per second that one core prepares.
    """

    gmac: float
    gradient_bytes: int
    dense: tuple[tuple[int, tuple[int, ...]], ...]
    norms: int
    input_rate: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of the parts of a step."""

    compute: float
    input: float
    gradient: float
    norms: float

    @property
    def total(self) -> float:
        """Seconds of the step: input is prepared during the computation, the rest is serial."""
        return max(self.compute, self.input) + self.gradient + self.norms


def step_of(costs: Costs, assumed: Assumptions, num_gpus: int, batch: int) -> Step:
    """Compute the step of `batch` examples on each of `num_gpus`."""
    # Forward and the two gradients of a layer are three products; a MAC is two operations.
    compute = batch * 6 * costs.gmac * 1e9 / (assumed.gpu_tflops * 1e12)
    return Step(
        compute=compute,
        input=batch / (costs.input_rate * assumed.cores_per_gpu),
        gradient=gradient_s(costs, num_gpus, batch, assumed),
        norms=2 * costs.norms * all_reduce_s(0, num_gpus, assumed),
    )


def sent_bytes(costs: Costs, number: int, batch: int) -> tuple[int, int]:
    """Return the bytes to all-reduce, and those that each of some devices has to be gathered.

    As `recorded_products`, with `batch` examples on each device.
    """
    reduced, gathered = costs.gradient_bytes, 0
    for num_inputs, widths in costs.dense if number > 1 else ():
        low = [each for each in widths if number * batch * (num_inputs + each) < num_inputs * each]
        reduced -= 4 * num_inputs * sum(low)
        gathered += 4 * batch * (num_inputs + sum(low)) if low else 0
    return reduced, gathered


def gradient_s(costs: Costs, num_gpus: int, batch: int, assumed: Assumptions) -> float:
    """Compute the seconds for the sums of all gradients."""
    reduced, gathered = sent_bytes(costs, num_gpus, batch)
    seconds = all_reduce_s(reduced, num_gpus, assumed)
    if gathered:  # and the number of examples of each device
        seconds += (num_gpus - 1) * gathered / (assumed.network_gbytes * 1e9)
        seconds += 2 * all_reduce_s(0, num_gpus, assumed)
    return seconds


def all_reduce_s(num_bytes: int, num_gpus: int, assumed: Assumptions) -> float:
    """Compute the seconds of an all-reduce of so many bytes."""
    if num_gpus == 1:
        return 0.0
    delay = 2 * math.ceil(math.log2(num_gpus)) * assumed.delay_us * 1e-6
    return 2 * (num_gpus - 1) / num_gpus * num_bytes / (assumed.network_gbytes * 1e9) + delay


def workers(number: int, *arguments: str) -> dict[str, Any]:
    """Run workers, each on one core, and return the measurements of the chief."""
    cores = sorted(os.sched_getaffinity(0))[:number]
    addresses = [f"127.0.0.1:{_free_port()}" for _ in range(number)]
    processes = []
    for index, core in enumerate(cores):
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if number > 1:
            task = {"type": "worker", "index": index}
            env["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = [sys.executable, __file__, "--worker", str(index), str(number), *arguments]
        processes.append(
            subprocess.Popen(
                command,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}),
            )
        )
    try:
        # If one fails, the other waits forever. Their output is small and fits the pipes.
        while not any(process.poll() for process in processes):
            if all(process.poll() == 0 for process in processes):
                break
            time.sleep(0.2)
    finally:
        for process in processes:
            process.kill()
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode > 0:
            sys.exit(f"A worker failed:\n{errors[-1500:]}")
    return json.loads(outputs[0][0].splitlines()[-1])


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def measure_workers(
    kind: str, size: str, precision: str, rounds: int, link: dict[str, float], costs: Costs
) -> tuple[list[Any], float]:
    """Compare two workers with one.

    Returns:
      The row of the table, and the throughput of two workers with the same batch each over that of
      one, as the step model computes it from the costs.
    """
    configurations = {"one": (1, BATCH_SIZE), "same": (2, BATCH_SIZE), "each": (2, 2 * BATCH_SIZE)}
    steps: dict[str, float] = dict.fromkeys(configurations, math.inf)
    for _ in range(rounds):
        for name, (number, batch) in configurations.items():
            measured = workers(number, kind, size, str(batch), precision)
            steps[name] = min(steps[name], measured["step_s"])
    rates = {name: configurations[name][1] / steps[name] for name in configurations}
    reduced, gathered = sent_bytes(costs, 2, BATCH_SIZE)
    sent = reduced / (2 if precision == "bfloat16" else 1) + gathered
    seconds = (
        sent / link["bytes_per_s"] + (1 + 2 * bool(gathered) + 2 * costs.norms) * link["delay_s"]
    )
    cells: list[Any] = [f"`{kind}`, {size} size", precision, round(rates["one"], 2)]
    for name in ("same", "each"):
        cells += [round(rates[name], 2), round(rates[name] / rates["one"], 2)]
    return cells, 2 * steps["one"] / (steps["one"] + seconds)


@functools.cache
def find_costs(kind: str, size: str) -> Costs:
    """Return the costs of a model of some size."""
    found = workers(1, "costs", kind, size)
    return Costs(
        gmac=found["gmac"],
        gradient_bytes=int(found["gradient_bytes"]),
        dense=tuple((width, tuple(widths)) for width, widths in found["dense"]),
        norms=int(found["norms"]),
        input_rate=found["input_rate"],
    )


def steps_of_epoch(examples: int, num_gpus: int) -> int | None:
    """Return the steps of an epoch with `BATCH_SIZE` examples per GPU; None if they are too few."""
    steps = examples // (BATCH_SIZE * num_gpus)
    return steps if steps >= LEAST_STEPS else None


def numbers_of_gpus() -> list[int]:
    """Return the powers of two for which an epoch has enough steps."""
    most = max(EXAMPLES.values())
    return [2**power for power in range(20) if steps_of_epoch(most, 2**power)]


def computed_cells(costs: Costs, assumed: Assumptions, *, batch: int, is_global: bool) -> list[str]:
    """Return throughput and share of a single GPU's speed for each of `numbers_of_gpus`."""
    alone = step_of(costs, assumed, 1, BATCH_SIZE)
    cells = []
    for number in numbers_of_gpus():
        own_batch = max(1, batch // number) if is_global else batch
        rate = number * own_batch / step_of(costs, assumed, number, own_batch).total
        share = rate / number / (BATCH_SIZE / alone.total)
        cells.append(f"{rate:,.0f}" + (f", {100 * share:.0f}%" if number > 1 else ""))
    return cells


def half_computing(costs: Costs, assumed: Assumptions) -> str:
    """Return from how many GPUs on a step of `LARGE_BATCH` examples mostly waits."""
    for number in numbers_of_gpus():
        step = step_of(costs, assumed, number, LARGE_BATCH // number)
        if step.compute < 0.5 * step.total:
            return f"from {number} GPUs on"
    return f"not up to {numbers_of_gpus()[-1]} GPUs"


def on_worker(index: int, number: int, what: list[str]) -> None:
    """Print the requested measurement as JSON."""
    if what[0] == "all-reduce":
        result = measure_all_reduce((index, number))
    elif what[0] == "costs":
        result = costs_of(what[1], what[2])
    else:
        result = measure(what[0], what[1], (index, number), int(what[2]), what[3])
    print(json.dumps(result), flush=True)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--smoke", action="store_true", help="smallest models, one round, no result file"
    )
    parser.add_argument("--published", action="store_true", help="E2E-LAT at its published size")
    parser.add_argument("--gpu-tflops", type=float, default=20.0)
    parser.add_argument("--network-gbytes", type=float, default=12.5)
    parser.add_argument("--delay-us", type=float, default=10.0)
    parser.add_argument("--cores-per-gpu", type=int, default=8)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        index, number, *what = arguments.worker
        on_worker(int(index), int(number), what)
        return
    assumed = Assumptions(
        gpu_tflops=arguments.gpu_tflops,
        network_gbytes=arguments.network_gbytes,
        delay_us=arguments.delay_us,
        cores_per_gpu=arguments.cores_per_gpu,
    )
    sizes = {"mj-lat": "published", "e2e-lat": "published" if arguments.published else "tiny"}
    if arguments.smoke:
        sizes = dict.fromkeys(KINDS, "smoke")
    link = workers(2, "all-reduce")
    rows, notes, published, reached = [], [], {}, []
    for kind in KINDS:
        predicted = {}
        here = find_costs(kind, sizes[kind])
        for precision in PRECISIONS[kind]:
            rounds = 1 if arguments.smoke else ROUNDS
            cells, ratio = measure_workers(kind, sizes[kind], precision, rounds, link, here)
            rows.append(cells)
            if bar := BARS.get((kind, precision)):
                reached.append(f"{cells[-1]} for `{kind}`, gradients in {precision} (bar: {bar})")
            predicted[precision] = f"{ratio:.2f} ({precision})"
        published[kind] = costs = find_costs(kind, "smoke" if arguments.smoke else "published")
        step = step_of(costs, assumed, 1, BATCH_SIZE)
        notes.append(
            f"`{kind}`: the step model predicts {' and '.join(predicted.values())} for two workers "
            "with the same batch each. A GPU needs "
            f"{BATCH_SIZE / step.compute / costs.input_rate:.2g} cores for its "
            f"input. With {LARGE_BATCH} examples in all, more than half of a step is not "
            f"computation {half_computing(costs, assumed)}."
        )
    measured = table(
        "Measured: two workers of one core each, joined over loopback, compared with one worker of "
        "one core; best of three rounds; the step computes in float32",
        [
            "Stage",
            "Gradients sent as",
            "1 worker, batch 8 (samples/s)",
            "2 workers, global batch 8 (samples/s)",
        ]
        + ["Ratio", "2 workers, 8 each (samples/s)", "Ratio "],
        rows,
    )
    inputs = table(
        "Inputs of the step model at published sizes",
        ["Quantity", *(f"`{kind}`" for kind in KINDS), "Origin"],
        [
            [name, *(text(each) for each in published.values()), origin]
            for name, text, origin in (
                ("one example, forward", lambda each: f"{each.gmac:.2f} GMAC", "exact"),
                ("gradient", lambda each: f"{each.gradient_bytes / 1e6:.2f} MB", "exact"),
                (
                    "of it all-reduced, with 8 examples on each of 2 GPUs",
                    lambda each: f"{sent_bytes(each, 2, BATCH_SIZE)[0] / 1e6:.2f} MB",
                    "exact",
                ),
                (
                    "gathered from each GPU instead",
                    lambda each: f"{sent_bytes(each, 2, BATCH_SIZE)[1] / 1e6:.2f} MB",
                    "exact",
                ),
                ("batch norms, two round trips each", lambda each: each.norms, "exact"),
                (
                    "input prepared by one core",
                    lambda each: f"{each.input_rate:.0f} examples/s",
                    "measured here",
                ),
                ("speed of a GPU", lambda _: f"{assumed.gpu_tflops:g} TFLOP/s", "assumed"),
                ("network of each GPU", lambda _: f"{assumed.network_gbytes:g} GB/s", "assumed"),
                ("delay of a message", lambda _: f"{assumed.delay_us:g} µs", "assumed"),
                ("cores per GPU for input", lambda _: assumed.cores_per_gpu, "assumed"),
            )
        ],
    )
    notes += [
        "Computed for the training split of VideoSet, "
        + " or ".join(f"about {count:,} examples ({name})" for name, count in EXAMPLES.items())
        + f", up to where an epoch has fewer than {LEAST_STEPS} steps of {BATCH_SIZE} examples per "
        "GPU.",
        "The input comes from mapped files that are in the memory of the system. For all frames, "
        "that needs a `frame_cache_gb` above the default, and as much memory.",
    ]
    columns = [
        (f"`{kind}`, {what}", computed_cells(costs, assumed, batch=batch, is_global=is_global))
        for kind, costs in published.items()
        for what, batch, is_global in (
            (f"{BATCH_SIZE} per GPU", BATCH_SIZE, False),
            (f"{LARGE_BATCH} in all", LARGE_BATCH, True),
        )
    ]
    computed = table(
        "Computed by the model, not measured: samples per second, and the share of the speed of a "
        "single GPU that each GPU keeps",
        [
            "GPUs",
            *(f"Steps per epoch of {count:,} examples, 8 per GPU" for count in EXAMPLES.values()),
            *(name for name, _ in columns),
        ],
        [
            [
                number,
                *(steps_of_epoch(count, number) for count in EXAMPLES.values()),
                *(cells[index] for _, cells in columns),
            ]
            for index, number in enumerate(numbers_of_gpus())
        ],
    )
    summary = (
        "Throughput of two workers with the same batch each, divided by that of one: "
        f"{'; '.join(reached)}. "
        f"Two processes all-reduce {link['bytes_per_s'] / 1e9:.2f} GB/s over loopback, a single "
        f"number in {1e3 * link['delay_s']:.2f} ms."
    )
    print("\n".join(["", summary, *notes]))
    if not arguments.smoke:
        write_result(
            "scaling",
            title="Add workers",
            simulated=False,
            summary=summary,
            tables=[measured, inputs, computed],
            notes=notes,
        )


if __name__ == "__main__":
    main()
