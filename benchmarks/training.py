"""Compare training at the published size with a plain Keras `fit`.

    python benchmarks/training.py              # all parts; about twenty minutes on two cores
    python benchmarks/training.py --part lat   # one of lat, mj-lat, e2e-lat, waiting, memory

The reference is what one writes with Keras only: the same graph, compiled and fitted on arrays in
memory, with frozen backbones computed again in every epoch. Both take the same batches of 8 frames
of 640x352. The two take turns, and their medians are compared. Machines are noisy: compare only
values of one run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from results import add_tables, laser_jnd, table, write_result

BATCH_SIZE = 8
NUM_EXAMPLES = 48
ROUNDS = 3
WIDTH, HEIGHT = 640, 352
LEVELS = (26.0, 30.0, 35.0)
PARTS = ("lat", "mj-lat", "e2e-lat", "waiting", "memory")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def compare(variant: str) -> tuple[list[list[Any]], list[float]]:
    """Time the reference and laser-jnd in turns, for one variant.

    Returns:
      Rows of the table; and the errors in bfloat16 divided by those in float32, if measured.
    """
    plain, ours, rounded, ratios = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        plain_epoch = reference_epoch(variant)
        our, errors = our_epoch(variant, Path(scratch) / "float32")
        for epoch in (plain_epoch, our):
            epoch()  # builds the graph
        for _ in range(ROUNDS):
            plain.append(timed(plain_epoch))
            ours.append(timed(our))
        if variant == "e2e-lat" and computes_in_bfloat16():
            fast, rounded_errors = our_epoch(variant, Path(scratch) / "bfloat16", bfloat16=True)
            fast()
            for _ in range(ROUNDS):
                plain.append(timed(plain_epoch))
                rounded.append(timed(fast))
            # Both have taken the same steps from the same weights.
            found = rounded_errors()
            ratios = [round(found[name] / exact, 4) for name, exact in errors().items()]
    base = statistics.median(plain)
    rows = []
    for name, seconds in ((f"`{variant}`", ours), (f"`{variant}`, bfloat16", rounded)):
        if seconds:
            median = statistics.median(seconds)
            cells = [round(each / NUM_EXAMPLES, 4) for each in (base, median)]
            rows.append([name, *cells, round(base / median, 2)])
    return rows, ratios


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def arrays(seed: int = 0) -> tuple[Any, Any]:
    """Return frames of noise over gradients, and random levels."""
    import numpy as np

    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, WIDTH)[None, None, :, None]
    frames = ramp + rng.uniform(0, 55, (NUM_EXAMPLES, HEIGHT, WIDTH, 3))
    levels = rng.normal(LEVELS, 3.0, (NUM_EXAMPLES, 3))
    return frames.astype(np.float32), levels.astype(np.float32)


def parts_of(variant_name: str) -> tuple[Any, list[Any], Any]:
    """Return a variant, its backbones and its head, of published size and random weights."""
    import keras

    from laser_dist.models.autoencoder import build_autoencoder
    from laser_dist.models.heads import build_head
    from laser_dist.models.specs import BackboneSpec
    from laser_dist.models.variants import variant_named

    keras.utils.set_random_seed(0)
    variant, spec = variant_named(variant_name), BackboneSpec()
    backbones = [build_autoencoder(spec, name) for name in variant.required_backbones()]
    head = build_head(
        variant.published_head,
        variant.feature_shape(spec),
        levels=variant.num_levels,
        initial_levels=LEVELS[: variant.num_levels],
    )
    return variant, backbones, head


def reference_epoch(variant_name: str) -> Callable[[], None]:
    """Return an epoch of Keras `fit`."""
    import keras

    from laser_dist.models.predictor_spec import PredictorSpec
    from laser_dist.models.predictors import build_joint_model, build_predictor

    variant, backbones, head = parts_of(variant_name)
    frames, levels = arrays()
    levels = levels[:, : variant.num_levels]
    if variant.end_to_end:
        model = build_joint_model(variant, backbones[0], head)
        model.compile(keras.optimizers.Adam(1e-5), loss=["mse", "mae"], loss_weights=[0.01, 0.99])
        targets = [frames, levels]
    else:
        spec = PredictorSpec(
            variant=variant.name,
            levels=(1, 2, 3)[: variant.num_levels],
            scale="QP",
            simulated=True,
        )
        model = build_predictor(backbones, [head], spec)
        model.compile(keras.optimizers.Adam(1e-5), loss="mae")
        targets = levels
    return lambda: model.fit(frames, targets, batch_size=BATCH_SIZE, epochs=1, verbose=0)


def our_epoch(
    variant_name: str, run_dir: Path, *, bfloat16: bool = False
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    """Return an epoch of laser-jnd's loop, on cached features if the backbones are frozen.

    Returns:
      The epoch, and the errors of an end-to-end variant on other frames than it is trained on.
    """
    import keras
    import tensorflow as tf

    from laser_dist.examples.read_ahead import ReadAhead
    from laser_dist.models.predictors import build_joint_model, feature_extractor
    from laser_dist.training.config import StageConfig
    from laser_dist.training.learning.loop import make_optimizer
    from laser_dist.training.learning.objectives import JointObjective, LevelObjective
    from laser_dist.training.learning.step import Stepper

    keras.config.set_dtype_policy("mixed_bfloat16" if bfloat16 else "float32")
    variant, backbones, head = parts_of(variant_name)
    keras.config.set_dtype_policy("float32")
    frames, levels = arrays()
    settings = StageConfig(epochs=300)
    objective: Any = LevelObjective((1, 2, 3)[: variant.num_levels])
    if variant.end_to_end:
        model, objective = build_joint_model(variant, backbones[0], head), JointObjective(objective)
    else:
        model = head
    optimizer = make_optimizer(settings, NUM_EXAMPLES // BATCH_SIZE)
    optimizer.build(model.trainable_variables)
    stepper = Stepper(tf.distribute.get_strategy(), model, objective, optimizer, 1)
    if variant.end_to_end:
        make: Callable[[], Any] = partial(joint_batches, frames, levels)
    else:
        extractors = [feature_extractor(variant, each) for each in backbones]
        kept = cached_features(run_dir, [each.predict_on_batch(frames) for each in extractors])
        batches = feature_batches(kept, levels[:, : variant.num_levels])
        make = lambda: batches.epoch(1)  # noqa: E731

    def epoch() -> None:
        for batch in ReadAhead(map(stepper.to_devices, make())):
            stepper.train(batch)()

    def validation() -> dict[str, float]:
        sums: dict[str, Any] = {}
        for batch in joint_batches(*arrays(seed=1)):
            for name, mean in stepper.measure(stepper.to_devices(batch))()[0].items():
                sums[name] = sums[name].merge(mean) if name in sums else mean
        return {name: mean.compute() for name, mean in sums.items()}

    return epoch, validation


def joint_batches(frames: Any, levels: Any) -> Iterator[Any]:
    """Yield frames and the first level, as an end-to-end stage takes them."""
    import numpy as np

    from laser_dist.examples.order import Batch

    for start in range(0, NUM_EXAMPLES, BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        targets = [frames[part], levels[part, :1]]
        yield Batch(frames[part], targets, np.ones(BATCH_SIZE, np.float32), BATCH_SIZE)


def cached_features(folder: Path, arrays_of_branches: list[Any]) -> Any:
    """Cache features as a run does, in one part."""
    import numpy as np

    from laser_dist.examples.feature_files import FeatureFiles
    from laser_dist.examples.features import CachedFeatures

    branches = []
    for index, array in enumerate(arrays_of_branches):
        files = FeatureFiles(folder / str(index), "train", 0, 1)
        files.folder.mkdir(parents=True, exist_ok=True)
        np.save(files.part_path(0), np.asarray(array, np.float16))
        branches.append([files])
    return CachedFeatures(branches)


def feature_batches(kept: Any, levels: Any) -> Any:
    """Return the batches of a head."""
    from laser_dist.examples.features import FeatureBatches

    return FeatureBatches(features=kept, targets=levels, batch_size=BATCH_SIZE, seed=0)


def measure_waiting() -> dict[str, Any]:
    """Measure which share of its time training waits for data, from a local dataset, on Ray."""
    shares = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        videoset, data = str(folder / "videoset"), str(folder / "data")
        laser_jnd("synthesize", "--num-sources", "60", "--qps", "22,30,38", "--output", videoset)
        laser_jnd(
            *("build", "videoset_jnd", "--manual-dir", videoset, "--data-dir", data),
            *("--config", "synthetic", "--frame-size", f"{WIDTH}x{HEIGHT}"),
        )
        small = ["image.crop=64", "image.epochs=1", "jnd.crop=64", "jnd.epochs=1"]
        for variant, epochs in (("mj-lat", "heads.epochs=3"), ("e2e-lat", "joint.epochs=2")):
            settings = [f"--set={each}" for each in (*small, epochs)]
            settings += [] if variant == "mj-lat" else ["--levels", "2"]
            run = folder / variant
            laser_jnd(
                *("train", variant, "--preset", "paper", "--dataset", data),
                *("--output", str(run), "--set=cluster.cpus_per_worker=2", *settings),
            )
            stage = "mj-lat" if variant == "mj-lat" else "e2e-lat-jnd2"
            rows = (run / "logs" / "metrics" / f"{stage}.csv").read_text().splitlines()[1:]
            waits = [float(row.split(",")[3]) for row in rows if ",input_wait," in row]
            # The first epoch includes building the graph.
            shares.append([f"`{stage}`", round(100 * max(waits[1:]), 1)])
    return table(
        "Share of an epoch spent waiting for data, after the first epoch, from a local dataset, on "
        "Ray",
        ["Stage", "Waiting (%)"],
        shares,
    )


def measure_memory() -> dict[str, Any]:
    """Measure the memory of a head's training with some examples, and with four times as many."""
    rows = []
    for count in (64, 256):
        command = [sys.executable, __file__, "--memory-of", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append([count, round(int(done.stdout) / 1e6)])
    caption = "Memory of a process that trains the head of `mj-lat`, without mapped files"
    return table(caption, ["Examples", "Memory (MB)"], rows)


def memory_of(count: int) -> None:
    """Train the head of MJ-LAT on `count` examples, then print the memory of this process."""
    import numpy as np
    import tensorflow as tf

    from laser_dist.examples.read_ahead import ReadAhead
    from laser_dist.training.config import StageConfig
    from laser_dist.training.learning.loop import make_optimizer
    from laser_dist.training.learning.objectives import LevelObjective
    from laser_dist.training.learning.step import Stepper

    _, _, head = parts_of("mj-lat")
    shape, rng = head.input_shape[0][1:], np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kept = cached_features(folder, [np.zeros((1, *shape))] * 3)
        for branch in kept.branches:
            path = branch[0].part_path(0)
            file = np.lib.format.open_memmap(path, "w+", np.float16, (count, *shape))
            for index in range(count):
                file[index] = rng.normal(size=shape)
            del file
        batches = feature_batches(kept, rng.normal(LEVELS, 3, (count, 3)).astype(np.float32))
        optimizer = make_optimizer(StageConfig(epochs=1), 1)
        optimizer.build(head.trainable_variables)
        stepper = Stepper(tf.distribute.get_strategy(), head, LevelObjective(), optimizer, 1)
        for batch in ReadAhead(map(stepper.to_devices, batches.epoch(0))):
            stepper.train(batch)()
    status = Path("/proc/self/status").read_text().splitlines()
    # The system can reclaim the memory of mapped files.
    anonymous = next(line for line in status if line.startswith("RssAnon"))
    print(1024 * int(anonymous.split()[1]))


def computes_in_bfloat16() -> bool:
    """Return whether this processor has bfloat16 instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return bool(BFLOAT16_FLAGS & set(text.split()))


def main() -> None:
    """Run the script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="run only this part; may be repeated"
    )
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        memory_of(arguments.memory_of)
        return
    parts = arguments.part or PARTS
    rows, ratios, tables = [], [], []
    for variant in [part for part in parts if part.endswith("lat")]:
        measured, errors = compare(variant)
        rows += measured
        ratios += errors
    if rows:
        caption = f"Time per sample at published sizes: {WIDTH}x{HEIGHT} frames, batches of 8"
        columns = ["Variant", "Plain `fit` (s)", "laser-jnd (s)", "Speedup"]
        tables.append(table(caption, columns, rows))
    if ratios:
        caption = (
            "Error on other frames after the same four epochs from the same weights, bfloat16 "
            "divided by float32"
        )
        tables.append(table(caption, ["Loss", "Frame", "Level"], [ratios]))
    if "waiting" in parts:
        tables.append(measure_waiting())
    if "memory" in parts:
        tables.append(measure_memory())
    if {*parts} < {*PARTS}:
        add_tables("training", tables)
        return
    best = max(rows, key=lambda row: row[-1])
    write_result(
        "training",
        title="Train",
        simulated=False,
        summary=f"{best[0]} trains {best[-1]} times as fast per sample as a plain Keras `fit` that "
        "recomputes the frozen backbones in every epoch.",
        tables=tables,
        notes=[
            "The reference is Keras's own `fit` of the same graph on arrays in memory. The two ran "
            f"in turns; values are medians of {ROUNDS} epochs after the first. Epochs have "
            f"{NUM_EXAMPLES} examples."
        ],
    )


if __name__ == "__main__":
    main()
