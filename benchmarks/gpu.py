"""Check and measure training on the GPUs of this machine, from 1 to 8.

    python benchmarks/gpu.py                      # all GPUs that TensorFlow sees; some minutes
    python benchmarks/gpu.py --cpu-devices 2      # the same on CPU devices, at a tiny size

Each part runs in its own processes:

- devices: what the driver and TensorFlow see.
- weights: some steps in float32 on one CPU device, on one and on all GPUs, and on two workers that
  share the GPUs and all-reduce with NCCL. The largest difference of a weight may be at most
  `FACTOR` times that between one and two CPU devices. TensorFloat-32 is off in this part.
- speed: the time of a step of MJ-LAT's head and of E2E-LAT, at the published size, in float32 and
  bfloat16, with and without XLA. The shares of a step are differences of three times: of the step
  with its input, which a thread reads ahead; of the step with its batch on the devices beforehand;
  and of that step on one device, with as many examples per device, which also lacks the all-reduce
  and what else only several devices do. The rest is the computation, with the optimizer. The
  checkpoint is the copy of all variables to the host, which a thread does while training continues.

With one GPU, there is nothing to all-reduce: NCCL and two workers are not tried.
"""

import argparse
import functools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import gpus, table, write_result

KINDS = ("mj-lat", "e2e-lat")
# Chosen, not derived: two CPU devices only add up two halves of a batch in another order, and a GPU
# also the thousands of terms of each convolution. Rounding grows with about the root of the number.
FACTOR = 30.0
WEIGHT_STEPS = 6
BATCH_PER_DEVICE = 8
EPOCHS = 5  # to time
CHECKPOINT_INTERVAL_S = 600.0  # the default
CHOICES = (("float32", False), ("bfloat16", False), ("bfloat16", True))  # precision, XLA


class Setup:
    """Model, stepper and batches of a training, as a stage makes them."""

    def __init__(self, options: argparse.Namespace, *, batch: int, steps: int) -> None:
        """Make them on the devices that the options name."""
        import keras
        import tensorflow as tf
        from scaling_workers import build_model

        from laser_dist.training.config import StageConfig
        from laser_dist.training.devices import use_devices
        from laser_dist.training.learning.collectives import weigh_batch_norms
        from laser_dist.training.learning.loop import make_optimizer
        from laser_dist.training.learning.step import Stepper
        from laser_dist.training.worker import make_strategy

        on_cpu = options.part_on == "cpu"
        use_devices(0 if on_cpu else options.devices, options.devices if on_cpu else 1)
        if options.precision == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        if options.part == "weights":
            tf.config.experimental.enable_tensor_float_32_execution(False)
        self.strategy = make_strategy(options.workers)
        self.local = self.strategy.num_replicas_in_sync // options.workers
        with self.strategy.scope():
            self.model, objective, self.spec = build_model(options.kind, options.size)
            self.optimizer = make_optimizer(StageConfig(epochs=1, learning_rate=1e-4), steps)
            self.optimizer.build(self.model.trainable_variables)
        # A step that XLA compiles cannot all-reduce.
        weigh_batch_norms(self.strategy, self.model, synchronized=not options.xla)
        self.stepper = Stepper(
            self.strategy, self.model, objective, self.optimizer, self.local,
            jit_compile=options.xla,
        )  # fmt: skip
        self.shard = (options.worker, options.workers, self.local)
        self.batch = batch

    def batches(self, folder: Path, kind: str) -> Any:
        """Return a function that makes the batches, copied to the devices ahead of the step."""
        from scaling_workers import make_batches

        from laser_dist.examples.read_ahead import ReadAhead

        source = make_batches(kind, self.spec, folder, self.shard, self.batch)
        return lambda: ReadAhead(map(self.stepper.to_devices, source()))


def find_devices() -> dict[str, Any]:
    """Return what the driver and TensorFlow see."""
    import tensorflow as tf

    from laser_dist.training.devices import gpu_facts, gpu_models

    build = tf.sysconfig.get_build_info()
    facts = dict(gpu_facts())
    return {
        "Driver": facts["driver"],
        "GPUs of the driver": gpus(),
        "GPUs of TensorFlow": ", ".join(gpu_models()) or "none",
        "TensorFlow": tf.__version__,
        "CUDA, cuDNN of TensorFlow": f"{build.get('cuda_version')}, {build.get('cudnn_version')}",
    }


def train_weights(options: argparse.Namespace) -> dict[str, float]:
    """Write all weights after some steps of the same batches, whatever the devices.

    Returns:
      How far the steps have moved the weight that they moved most.
    """
    import numpy as np

    batch = 2 * options.total
    setup = Setup(options, batch=batch, steps=WEIGHT_STEPS)
    variables = setup.model.trainable_variables
    start = [np.asarray(each).copy() for each in variables]
    with tempfile.TemporaryDirectory() as folder:
        for one in setup.batches(Path(folder), options.kind)():
            setup.stepper.train(one)()
    weights = [np.asarray(each) for each in variables]
    if options.worker == 0:
        np.savez(options.output, *weights)
    moves = [np.abs(new - old).max() for new, old in zip(weights, start, strict=True)]
    return {"moved": float(max(moves))}


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of a step with and without input, and of a checkpoint; and memory in GB."""
    import numpy as np
    import tensorflow as tf

    from laser_dist.training.learning.collectives import snapshot

    batch = BATCH_PER_DEVICE * options.devices * options.workers
    setup = Setup(options, batch=batch, steps=100)
    with tempfile.TemporaryDirectory() as folder:
        batches = setup.batches(Path(folder), options.kind)
        on_devices = list(batches())
        for one in on_devices[:2]:
            setup.stepper.train(one)()  # builds the graph
        without_input = [
            _timed(lambda one=one: setup.stepper.train(one)()) for one in on_devices * EPOCHS
        ]
        steps = []
        for _ in range(EPOCHS):
            started = None  # at the first step of an epoch, nothing has been read ahead
            for one in batches():
                setup.stepper.train(one)()
                now = time.perf_counter()
                steps += [now - started] if started else []
                started = now
    variables = [*setup.model.variables, *setup.optimizer.variables]
    names = {str(index): each for index, each in enumerate(variables)}

    def copy() -> None:
        for value in snapshot(setup.strategy, names).values():
            np.asarray(value)

    checkpoint = min(_timed(copy) for _ in range(3))
    memory = None
    if options.part_on == "gpu":
        memory = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9
    step = statistics.median(steps)
    return {
        "examples_per_s": batch / step, "step_s": step,
        "without_input_s": statistics.median(without_input), "checkpoint_s": checkpoint,
        "memory_gb": memory,
    }  # fmt: skip


def _timed(function: Any) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def run_part(options: argparse.Namespace, **changes: Any) -> Any:
    """Run a part in a process of each worker; return what the first one prints."""
    values = vars(options) | changes
    ports = [_free_port() for _ in range(values["workers"])]
    started = []
    for worker in range(values["workers"]):
        environment = dict(os.environ)
        if values["workers"] > 1:
            cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
            task = {"type": "worker", "index": worker}
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        if values["part_on"] == "gpu":
            first = worker * values["devices"]
            own = visible_gpus(values["total"])[first : first + values["devices"]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        words = [sys.executable, __file__, "--run", json.dumps(values | {"worker": worker})]
        started.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in started]
    for process in started:
        if process.returncode:
            sys.exit(f"Exit status {process.returncode} of part {values['part']}")
    return json.loads(outputs[0].splitlines()[-1])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def visible_gpus(total: int) -> list[str]:
    """Return the names of the GPUs to use: those of CUDA_VISIBLE_DEVICES, if it is set."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:total] if given else [str(index) for index in range(total)]


def shapes_of(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Return the numbers of devices per worker and of workers to compare."""
    one = [(1, 1)] if options.on == "gpu" else []
    several = [(options.total, 1), (options.total // 2, 2)] if options.total > 1 else []
    return one + several


def compare_weights(options: argparse.Namespace) -> list[list[Any]]:
    """Return a row for each model and set of devices: its difference from one CPU device."""
    import numpy as np

    @functools.cache
    def trained(kind: str, part_on: str, devices: int, workers: int) -> tuple[Any, float]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.npz"
            found = run_part(
                options, part="weights", kind=kind, part_on=part_on, devices=devices,
                workers=workers, output=str(path),
            )  # fmt: skip
            with np.load(path) as weights:
                return np.concatenate([each.ravel() for each in weights.values()]), found["moved"]

    rows = []
    for kind in options.models:
        exact, moved = trained(kind, "cpu", 1, 1)
        allowed = FACTOR * float(np.abs(trained(kind, "cpu", 2, 1)[0] - exact).max())
        for devices, workers in shapes_of(options):
            weights, _ = trained(kind, options.on, devices, workers)
            difference = float(np.abs(weights - exact).max())
            where = f"{workers} × {devices}" if workers > 1 else str(devices)
            sizes = (f"{size:.1e}" for size in (moved, difference, allowed))
            rows.append([kind.upper(), where, *sizes, "yes" if difference <= allowed else "NO"])
    return rows


def compare_speed(options: argparse.Namespace) -> list[list[Any]]:
    """Return a row for each model, precision and set of devices."""

    @functools.cache
    def measured(kind: str, devices: int, workers: int, precision: str, *, xla: bool) -> Any:
        return run_part(
            options, part="speed", part_on=options.on, kind=kind, devices=devices,
            workers=workers, precision=precision, xla=xla,
        )  # fmt: skip

    rows = []
    for kind in options.models:
        for devices, workers in shapes_of(options):
            emulated = CHOICES[:1] if workers > 1 else CHOICES[2:]  # compiling takes minutes
            for precision, xla in CHOICES if options.on == "gpu" else emulated:
                found = measured(kind, devices, workers, precision, xla=xla)
                step, without_input = found["step_s"], found["without_input_s"]
                compute = measured(kind, 1, 1, precision, xla=xla)["without_input_s"]
                parts = (max(0.0, step - without_input), compute, max(0.0, without_input - compute))
                checkpoint, memory = found["checkpoint_s"], found["memory_gb"]
                rows.append([
                    kind.upper(), f"{workers} × {devices}" if workers > 1 else str(devices),
                    precision + (", XLA" if xla else ""),
                    round(found["examples_per_s"], 1), round(1000 * step, 2),
                    *(round(100 * part / sum(parts)) for part in parts),
                    round(1000 * checkpoint, 2),
                    round(100 * checkpoint / CHECKPOINT_INTERVAL_S, 3),
                    None if memory is None else round(memory, 2),
                ])  # fmt: skip
    return rows


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cpu-devices", type=int, metavar="N", help="use N CPU devices, no GPU")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    parser.add_argument("--no-result", action="store_true", help="write no result file")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        from laser_dist.keras_import import import_keras

        import_keras(gpus="all")
        options = argparse.Namespace(**json.loads(given.run))
        part = {"weights": train_weights, "speed": measure_speed}.get(options.part)
        print(json.dumps(part(options) if part else find_devices()))
        return
    emulated = given.cpu_devices is not None
    options = argparse.Namespace(
        part="devices", part_on="cpu" if emulated else "gpu", on="cpu" if emulated else "gpu",
        kind="", size="smoke" if emulated else "published", precision="float32", xla=False,
        models=given.models, devices=1, workers=1, total=given.cpu_devices or 1, output="",
    )  # fmt: skip
    facts = run_part(options, part_on="cpu")
    seen = [name for name in facts["GPUs of TensorFlow"].split(", ") if name != "none"]
    tables = [table("Devices", ["", ""], [[name, value] for name, value in facts.items()])]
    if not emulated:
        if not seen:
            sys.exit("TensorFlow sees no GPU. Run `laser-jnd doctor`; or use --cpu-devices 2.")
        options.total = len(seen)
    kind = "CPU devices" if emulated else "GPUs"
    columns = ["Model", kind, "Moved at most", "Largest difference", "Allowed", "Within"]
    weights = compare_weights(options)
    tables.append(
        table(f"Weights after {WEIGHT_STEPS} steps, compared with one CPU device", columns, weights)
    )
    columns = [
        "Model", kind, "Precision", "Examples/s", "Step (ms)", "Input (%)", "Compute (%)",
        "All-reduce (%)", "Checkpoint (ms)", "Checkpoint, one in ten minutes (%)",
        "Peak memory (GB)",
    ]  # fmt: skip
    tables.append(table("Speed", columns, compare_speed(options)))
    notes = [
        "Compute is a step on one device, with the optimizer. All-reduce is what the step of "
        "several devices takes longer, so it includes that devices wait for each other. "
        "Differences below 0, which are noise, are shown as 0.",
        f"The allowed difference is {FACTOR:.0f} times that of two CPU devices, a factor that was "
        "chosen. `Moved at most` is the largest change of a weight by the steps.",
    ]
    if emulated:
        notes.append("CPU devices share the cores, so two of them compute longer than one.")
    if options.total == 1:
        notes.append("With one device, NCCL and two workers were not tried.")
    print("\n" + "\n".join(notes))
    wrong = [row for row in weights if row[-1] == "NO"]
    if not given.no_result:
        write_result(
            "gpu",
            title="Train on GPUs",
            simulated=False,
            summary=(
                "Not run on a GPU: the script's parts on CPU devices, at a tiny size. The figures "
                "show only that it works."
                if emulated
                else f"{len(weights) - len(wrong)} of {len(weights)} trainings on GPUs learned the "
                "weights of the CPU up to rounding."
            ),
            tables=tables,
            notes=notes,
        )
    if wrong:
        sys.exit(f"{len(wrong)} trainings differ from the CPU by more than rounding.")


if __name__ == "__main__":
    main()
