"""How training grows with workers: measured on two cores, computed for clusters. Prints tables.

    python benchmarks/scaling.py                     # about fifteen minutes on two idle cores
    python benchmarks/scaling.py --smoke             # tiny models, one round: does it run?
    python benchmarks/scaling.py --gpu-tflops 60 --network-gbytes 25   # other assumptions

Measured: two workers of one core each, joined over loopback as training joins them, against one of
one core; cores and threads are fixed. The MJ-LAT head has the published size and reads kept
features; E2E-LAT has the demo's frames of 256x144 and filters (`--published`: 640x352), and decodes
its frames. The global batch is the same, or each worker's is. All take turns; a figure is the best
of its rounds, as whatever else a machine does only makes steps longer.

Computed: a step takes the longer of computing and of making its input ready, then the sum of the
gradient, then two round trips a batch norm (forward and backward). A gradient is summed in packs,
the first of them while the rest is still being computed; how much that hides is not computed, so a
cluster can be better than this. Bytes go around a ring, a message's delay up and down a tree. Every
line says where it comes from.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

from scaling_workers import asks_of, measure, measure_reduce

BAR = 1.8
BATCH_SIZE = 8
ROUNDS = 3
KINDS = ("mj-lat", "e2e-lat")
NUM_GPUS = (1, 8, 64, 512)


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What no machine here can tell.

    Attributes:
      gpu_tflops: that a GPU reaches in these convolutions, in 1e12 operations a second.
      network_gbytes: that a GPU's share of the network carries, in 1e9 bytes a second.
      delay_us: of one message between two GPUs, in microseconds.
      cores_per_gpu: that make its input ready.
    """

    gpu_tflops: float
    network_gbytes: float
    delay_us: float
    cores_per_gpu: int


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a model asks of a cluster.

    Attributes:
      gmac: of one example, forward.
      gradient_bytes: summed in each step.
      norms: batch norms, each two round trips a step.
      input_rate: examples a second that one core makes ready.
    """

    gmac: float
    gradient_bytes: int
    norms: int
    input_rate: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of a step's parts."""

    compute: float
    input: float
    gradient: float
    norms: float

    @property
    def total(self) -> float:
        """Input is made ready beside computing, the others wait for each other."""
        return max(self.compute, self.input) + self.gradient + self.norms


def step_of(load: Load, assumed: Assumed, num_gpus: int, batch: int) -> Step:
    """The computed step of `batch` examples on each of `num_gpus`."""
    # Forward and both gradients of a layer are three products; an accumulate is two operations.
    compute = batch * 6 * load.gmac * 1e9 / (assumed.gpu_tflops * 1e12)
    return Step(
        compute=compute,
        input=batch / (load.input_rate * assumed.cores_per_gpu),
        gradient=reduce_s(load.gradient_bytes, num_gpus, assumed),
        norms=2 * load.norms * reduce_s(0, num_gpus, assumed),
    )


def reduce_s(num_bytes: int, num_gpus: int, assumed: Assumed) -> float:
    """Seconds to sum so many bytes over GPUs."""
    if num_gpus == 1:
        return 0.0
    delay = 2 * math.ceil(math.log2(num_gpus)) * assumed.delay_us * 1e-6
    return 2 * (num_gpus - 1) / num_gpus * num_bytes / (assumed.network_gbytes * 1e9) + delay


def workers(number: int, *arguments: str) -> dict[str, float]:
    """Runs workers, each on a core of its own; gives what the chief has measured."""
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
        # If one fails the other waits for it in vain: what each says is little, and fits the pipes.
        while not any(process.poll() for process in processes):
            if all(process.poll() == 0 for process in processes):
                break
            time.sleep(0.2)
    finally:
        for process in processes:
            process.kill()
    told = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, told, strict=True):
        if process.returncode > 0:
            sys.exit(f"A worker failed:\n{errors[-1500:]}")
    return json.loads(told[0][0].splitlines()[-1])


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def row(source: str, what: str, value: str) -> None:
    """A line of the output."""
    print(f"{source:<9} {what:<58} {value}", flush=True)


def tell_measured(kind: str, size: str, rounds: int, link: dict[str, float]) -> Load:
    """Two workers over one; the model of a step held against it."""
    groupings = {
        "1 worker": (1, BATCH_SIZE),
        "2 workers, same global batch": (2, BATCH_SIZE),
        "2 workers, same batch each": (2, 2 * BATCH_SIZE),
    }
    steps: dict[str, float] = {name: math.inf for name in groupings}
    one: dict[str, float] = {}
    for _ in range(rounds):
        for name, (number, batch) in groupings.items():
            told = workers(number, kind, size, str(batch))
            steps[name] = min(steps[name], told["step_s"])
            one = told if number == 1 else one
    rates = {name: groupings[name][1] / steps[name] for name in groupings}
    for name, rate in rates.items():
        ratio = rate / rates["1 worker"]
        bar = "" if name == "1 worker" else f"  {ratio:.2f} x (bar {BAR})"
        row("measured", f"{kind}, {size} size, {name}", f"{rate:.2f} samples/s{bar}")
    load = Load(
        gmac=one["gmac"],
        gradient_bytes=int(one["gradient_bytes"]),
        norms=int(one["norms"]),
        input_rate=one["input_rate"],
    )
    seconds = load.gradient_bytes / link["bytes_per_s"] + (1 + 2 * load.norms) * link["delay_s"]
    both = steps["1 worker"] + seconds
    expected = 2 * steps["1 worker"] / both
    row("computed", f"{kind}: the same batch each, by the model of a step", f"{expected:.2f} x")
    row("measured", f"{kind}: input made ready, one core", f"{load.input_rate:.0f} examples/s")
    row("exact", f"{kind}: gradient", f"{load.gradient_bytes / 1e6:.2f} MB, {load.norms} norms")
    return load


def published_load(kind: str, measured: Load, size: str) -> Load:
    """What the published size asks, where another was measured: input's rate goes with pixels."""
    if size == "published":
        return measured
    told = workers(1, "asks", kind, "published")
    shrink = told["pixels_here"] / told["pixels"] if size == "demo" else 1.0
    return Load(
        gmac=told["gmac"],
        gradient_bytes=int(told["gradient_bytes"]),
        norms=int(told["norms"]),
        input_rate=measured.input_rate * shrink,
    )


def tell_computed(kind: str, load: Load, assumed: Assumed) -> None:
    """Clusters of GPUs, at the published size."""
    text = f"{load.gmac:.2f} GMAC an example, {load.gradient_bytes / 1e6:.1f} MB of gradient"
    row("exact", f"{kind}, published size", text)
    alone = step_of(load, assumed, 1, BATCH_SIZE)
    for batch_of, what in (
        (lambda n: BATCH_SIZE, f"{BATCH_SIZE} a GPU"),
        (lambda n: max(1, 512 // n), "512 in all"),
    ):
        for number in NUM_GPUS:
            step = step_of(load, assumed, number, batch_of(number))
            rate = number * batch_of(number) / step.total
            share = rate / number / (BATCH_SIZE / alone.total)
            parts = {
                "computing": step.compute,
                "input": step.input,
                "gradient": step.gradient,
                "norms": step.norms,
            }
            longest = max(parts, key=lambda name: parts[name])
            told = f"{rate:>10,.0f} samples/s, {100 * share:3.0f} % each, most of it {longest}"
            row("computed", f"{kind}, {number} GPUs, batch of {what}", told)
    needed = BATCH_SIZE / alone.compute / load.input_rate
    row("computed", f"{kind}: cores a GPU, for input to keep up", f"{needed:.1f}")
    row("computed", f"{kind}: half the time is no computing, 512 in all", _half(load, assumed))


def _half(load: Load, assumed: Assumed) -> str:
    for number in (2**power for power in range(10)):
        step = step_of(load, assumed, number, 512 // number)
        if step.compute < 0.5 * step.total:
            return f"from {number} GPUs on"
    return "not up to 512 GPUs"


def on_worker(index: int, number: int, what: list[str]) -> None:
    """Prints what was asked for, as JSON."""
    if what[0] == "reduce":
        told = measure_reduce((index, number))
    elif what[0] == "asks":
        told = asks_of(what[1], what[2])
    else:
        told = measure(what[0], what[1], (index, number), int(what[2]))
    print(json.dumps(told), flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny models, one round")
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
    assumed = Assumed(
        gpu_tflops=arguments.gpu_tflops,
        network_gbytes=arguments.network_gbytes,
        delay_us=arguments.delay_us,
        cores_per_gpu=arguments.cores_per_gpu,
    )
    sizes = {"mj-lat": "published", "e2e-lat": "published" if arguments.published else "demo"}
    if arguments.smoke:
        sizes = dict.fromkeys(KINDS, "tiny")
    link = workers(2, "reduce")
    row("measured", "sum between two processes, loopback", f"{link['bytes_per_s'] / 1e9:.2f} GB/s")
    row("measured", "a tiny sum between them", f"{1e3 * link['delay_s']:.2f} ms")
    row("assumed", "a GPU reaches", f"{assumed.gpu_tflops:g} TFLOP/s")
    row("assumed", "network of each GPU", f"{assumed.network_gbytes:g} GB/s")
    row("assumed", "one message's delay", f"{assumed.delay_us:g} us")
    row("assumed", "cores a GPU has for input", f"{assumed.cores_per_gpu}")
    for kind in KINDS:
        load = tell_measured(kind, sizes[kind], 1 if arguments.smoke else ROUNDS, link)
        tell_computed(kind, published_load(kind, load, sizes[kind]), assumed)


if __name__ == "__main__":
    main()
