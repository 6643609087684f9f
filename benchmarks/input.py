"""Measure how fast the input of a training is, compared with a bare copy of the same bytes.

    python benchmarks/input.py

Frames have the published size, 640×352, and features are those of MJ-LAT. The step costs nothing,
or sleeps 10 ms. An earlier commit, in a worktree, decodes the same number of frames from PNG files
in the same run, alternating. `--child` is for this script itself.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from results import table, write_result

BASELINE = "806e1d9"  # decodes every frame in every epoch
EXAMPLES, BATCH_SIZE, ROUNDS = 264, 8, 3
SIZE = (640, 352)
LATENT = (22, 40, 192)
SLEEP_S = 0.010


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--child", choices=["now", "before"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure = measure_now if arguments.child == "now" else measure_before
        print(json.dumps(measure(arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        old = Path(scratch) / "old"
        subprocess.run(["git", "worktree", "add", "-qf", "--detach", old, BASELINE], check=True)
        try:
            make_files(Path(scratch))
            here = Path(__file__).parents[1]
            rounds = [
                child("now", here, Path(scratch)) | child("before", old, Path(scratch))
                for _ in range(ROUNDS)
            ]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], check=True)
    write(rounds)


def write(rounds: list[dict[str, float]]) -> None:
    """Write the medians over all rounds, and their ratios."""
    found = {name: float(np.median([each[name] for each in rounds])) for name in rounds[0]}
    frames, features = found["frames"] / found["bare frames"], found["features"] / found["bare"]
    before, epoch = found["frames"] / found["frames before"], found["epoch / steps"]
    rate = table(
        f"Examples per second, to a step that costs nothing (median of {ROUNDS} rounds)",
        ["Input", "Examples/s", "Of a bare copy"],
        [
            ["Pairs of frames 640×352", round(found["frames"]), round(frames, 2)],
            ["The same, a bare copy from mapped files", round(found["bare frames"]), 1],
            [f"The same at {BASELINE}", round(found["frames before"]), round(frames / before, 3)],
            ["Features of MJ-LAT", round(found["features"]), round(features, 2)],
            ["The same, a bare copy from mapped files", round(found["bare"]), 1],
        ],
    )
    slept = table(
        f"An epoch whose step sleeps {1000 * SLEEP_S:.0f} ms, batch {BATCH_SIZE}",
        ["Input", "Time of the epoch / time of its steps"],
        [["Pairs of frames 640×352", round(epoch, 3)]],
    )
    write_result(
        "input",
        title="Training input",
        simulated=False,
        summary=f"Frames reach the step at {frames:.2f} of the rate of a bare copy from mapped "
        f"files, {before:.0f} times as fast as at {BASELINE}, which decodes them in every epoch; "
        f"features at {features:.2f}. With a step of {1000 * SLEEP_S:.0f} ms, an epoch takes "
        f"{epoch:.2f} times as long as its steps.",
        tables=[rate, slept],
        notes=["The mapped files are in the memory of the system when they are read."],
    )


def child(name: str, root: Path, folder: Path) -> dict[str, float]:
    """Measure in a process that imports the package of a source tree."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", name, "--folder", folder],
        env={**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def make_files(folder: Path) -> None:
    """Write noise: frames of two images, and features of three backbones."""
    rng = np.random.default_rng(0)
    for name in ("raw", "jnd1"):
        shape = (EXAMPLES, *SIZE[::-1], 3)
        frames = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
        for index in range(EXAMPLES):
            frames[index] = noise(rng)
    for branch in range(3):
        (folder / str(branch)).mkdir()
        path = folder / str(branch) / "train-0-00000-of-00001.npy"
        features = np.lib.format.open_memmap(path, "w+", np.float16, (EXAMPLES, *LATENT))
        for index in range(EXAMPLES):
            features[index] = rng.normal(size=LATENT)


def noise(rng: np.random.Generator) -> np.ndarray:
    """Return a frame that costs about as much to decode as a real one."""
    ramp = np.linspace(0, 200, SIZE[0])[None, :, None]
    return (ramp + rng.uniform(0, 55, (*SIZE[::-1], 3))).astype(np.uint8)


def measure_now(folder: Path) -> dict[str, float]:
    """Return examples per second of frames and features, and of bare copies of the same bytes."""
    import keras
    import tensorflow as tf

    from laser_dist.examples.feature_files import FeatureFiles
    from laser_dist.examples.features import CachedFeatures, FeatureBatches
    from laser_dist.examples.frame_pairs import FramePairs
    from laser_dist.examples.frames import CachedFrames
    from laser_dist.examples.read_ahead import ReadAhead
    from laser_dist.machine import keep_freed_memory
    from laser_dist.training.learning.objectives import frame_objective
    from laser_dist.training.learning.step import Stepper

    keep_freed_memory()
    model = keras.Sequential([keras.Input((1,))])
    strategy, optimizer = tf.distribute.get_strategy(), keras.optimizers.SGD()
    stepper = Stepper(strategy, model, frame_objective, optimizer, local_replicas=1)
    maps = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("raw", "jnd1")}
    pairs = FramePairs(
        frames=CachedFrames(maps),
        target="jnd1",
        rows=np.arange(EXAMPLES),
        batch_size=BATCH_SIZE,
        seed=0,
        flips=True,
    )
    files = [FeatureFiles(folder / str(branch), "train", 0, 1) for branch in range(3)]
    batches = FeatureBatches(
        features=CachedFeatures([[each] for each in files]),
        targets=np.zeros((EXAMPLES, 3), np.float32),
        batch_size=BATCH_SIZE,
        seed=0,
    )

    def ahead(source: Any) -> Callable[[], Iterable[Any]]:
        return lambda: ReadAhead(map(stepper.to_devices, source.epoch(1)))

    parts = [np.load(each.part_path(0), mmap_mode="r") for each in files]
    return {
        "bare frames": rate(lambda: bare([*maps.values()])),
        "frames": rate(ahead(pairs)),
        "bare": rate(lambda: bare(parts)),
        "features": rate(ahead(batches)),
        "epoch / steps": asleep(ahead(pairs)),
    }


def measure_before(_: Path) -> dict[str, float]:
    """Return the examples per second of frames at the earlier commit."""
    import tensorflow as tf

    # By name: this tree has no such modules.
    data: Any = importlib.import_module("laser_dist.training.examples.data")
    read_ahead: Any = importlib.import_module("laser_dist.training.examples.read_ahead")

    png = tf.io.encode_png(noise(np.random.default_rng(0))).numpy()
    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    features = tf.train.Features(feature={"raw": image, "jnd1": image})
    record = tf.train.Example(features=features).SerializeToString()

    class Records:
        def __len__(self) -> int:
            return EXAMPLES

        def read(self, indices: Any) -> list[bytes]:
            return [record] * len(indices)

    pairs = data.FramePairs(
        records=Records(),
        target="jnd1",
        rows=np.arange(EXAMPLES),
        width=SIZE[0],
        height=SIZE[1],
        batch_size=BATCH_SIZE,
        seed=0,
        flips=True,
    )
    return {"frames before": rate(lambda: read_ahead.ReadAhead(pairs.epoch(1)))}


def bare(arrays: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Yield copies of random rows of each array."""
    order = np.random.default_rng(0).permutation(EXAMPLES)
    for start in range(0, EXAMPLES, BATCH_SIZE):
        yield [array[order[start : start + BATCH_SIZE]] for array in arrays]


def rate(epoch: Callable[[], Iterable[Any]]) -> float:
    """Return the examples per second of the fastest of three epochs."""
    return EXAMPLES / min(seconds(epoch) for _ in range(3))


def seconds(epoch: Callable[[], Iterable[Any]]) -> float:
    """Return how long an epoch takes whose steps cost nothing."""
    started = time.perf_counter()
    for _ in epoch():
        pass
    return time.perf_counter() - started


def asleep(epoch: Callable[[], Iterable[Any]]) -> float:
    """Return the time of an epoch whose steps sleep, divided by that of its steps."""
    steps, started = 0.0, time.perf_counter()
    for _ in epoch():
        begun = time.perf_counter()
        time.sleep(SLEEP_S)  # without Python's lock, as a device computes
        steps += time.perf_counter() - begun
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    main()
