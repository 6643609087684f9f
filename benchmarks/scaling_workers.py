"""Worker of `scaling.py`: time some steps of a training, or all-reduces."""

import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 6
BATCH_SIZE, EPOCHS = 8, 10  # of the input that is measured by itself
ALL_REDUCE_BYTES = 32 * 2**20
LEVELS = (26.0, 30.0, 35.0)


def measure(
    kind: str, size: str, shard: tuple[int, int], batch: int, precision: str
) -> dict[str, Any]:
    """Return the seconds of this worker's fastest step.

    Args:
      kind: "mj-lat" or "e2e-lat".
      size: "published", "tiny" (the preset) or "smoke".
      shard: worker's index and number of workers.
      batch: global.
      precision: number format in which gradients are all-reduced.
    """
    import tensorflow as tf

    from laser_dist.examples.read_ahead import ReadAhead
    from laser_dist.training.config import StageConfig
    from laser_dist.training.learning.collectives import weigh_batch_norms
    from laser_dist.training.learning.loop import make_optimizer
    from laser_dist.training.learning.step import Stepper

    strategy = _strategy(shard[1])
    with strategy.scope():
        model, objective, spec = build_model(kind, size)
        optimizer = make_optimizer(StageConfig(epochs=1), STEPS)
        optimizer.build(model.trainable_variables)
    weigh_batch_norms(strategy, model, synchronized=True)
    stepper = Stepper(
        strategy, model, objective, optimizer, local_replicas=1, gradient_precision=precision
    )
    with tempfile.TemporaryDirectory() as scratch:
        source = make_batches(kind, spec, Path(scratch), shard, batch)
        times = []
        batches = ReadAhead(map(stepper.to_devices, source()))
        started = time.perf_counter()
        for number, one in enumerate(batches):
            stepper.train(one)()
            if number:  # the first builds the graph
                times.append(time.perf_counter() - started)
            started = time.perf_counter()
    if shard[1] > 1:
        all_reduce(strategy, tf, 1)  # wait for each other
    return {"step_s": min(times)}


def measure_all_reduce(shard: tuple[int, int]) -> dict[str, float]:
    """Return the bytes per second of a large all-reduce, and the seconds of a tiny one."""
    import tensorflow as tf

    strategy = _strategy(shard[1])
    large = min(all_reduce(strategy, tf, ALL_REDUCE_BYTES // 4) for _ in range(5))
    small = min(all_reduce(strategy, tf, 1) for _ in range(20))
    # In a ring of two, every byte crosses once in each of two phases, half of them at a time.
    return {"bytes_per_s": ALL_REDUCE_BYTES / (large - small), "delay_s": small}


_FUNCTIONS: dict[int, Any] = {}


def all_reduce(strategy: Any, tf: Any, count: int) -> float:
    """Return the seconds of an all-reduce of so many numbers."""
    if count not in _FUNCTIONS:

        @tf.function
        def add_up() -> Any:
            def replica() -> Any:
                context = tf.distribute.get_replica_context()
                return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.ones([count]))[0]

            return strategy.run(replica)

        add_up()
        _FUNCTIONS[count] = add_up
    started = time.perf_counter()
    _FUNCTIONS[count]()
    return time.perf_counter() - started


def _strategy(num_workers: int) -> Any:
    import tensorflow as tf

    from laser_dist.machine import keep_freed_memory
    from laser_dist.training.worker import make_strategy

    keep_freed_memory()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return make_strategy(num_workers)


def _specs(kind: str, size: str) -> tuple[Any, Any]:
    """Return the sizes of backbone and head."""
    from laser_dist.models.specs import BackboneSpec, HeadSpec
    from laser_dist.models.variants import variant_named
    from laser_dist.training.config import tiny

    variant = variant_named(kind)
    preset = tiny(variant)
    smoke_head = HeadSpec(filters=(4,), dense=(4,))
    smoke = BackboneSpec(filters=4, latent_filters=4, height=32, width=48)
    sizes = {
        "published": (BackboneSpec(), variant.published_head),
        "tiny": (preset.backbone, preset.head),
        "smoke": (smoke, smoke_head),
    }
    return sizes[size]


def build_model(kind: str, size: str) -> tuple[Any, Any, Any]:
    """Return a model as its stage trains it, its objective, and its backbone's size."""
    import keras

    from laser_dist.models.autoencoder import build_autoencoder
    from laser_dist.models.heads import build_head
    from laser_dist.models.predictors import build_joint_model
    from laser_dist.models.variants import variant_named
    from laser_dist.training.learning.objectives import JointObjective, LevelObjective

    keras.utils.set_random_seed(0)
    variant = variant_named(kind)
    spec, form = _specs(kind, size)
    count = variant.num_levels
    head = build_head(
        form, variant.feature_shape(spec), levels=count, initial_levels=LEVELS[:count]
    )
    if not variant.end_to_end:
        return head, LevelObjective(), spec
    joint = build_joint_model(variant, build_autoencoder(spec, "image"), head)
    return joint, JointObjective(LevelObjective((1,))), spec


def make_batches(kind: str, spec: Any, scratch: Path, shard: tuple[int, ...], batch: int) -> Any:
    """Return a function that makes this worker's batches of noise as training makes them.

    Training reads them from mapped files too: features, or frames that were decoded beforehand.
    """
    import numpy as np

    from laser_dist.examples.feature_files import FeatureFiles
    from laser_dist.examples.features import CachedFeatures, FeatureBatches
    from laser_dist.examples.frame_pairs import FramePairs
    from laser_dist.examples.frames import CachedFrames
    from laser_dist.examples.order import WorkerShard

    rng, own, total = np.random.default_rng(0), WorkerShard(*shard), batch * STEPS
    levels = rng.normal(LEVELS, 3, (total, 3)).astype(np.float32)
    if kind == "mj-lat":
        branches = []
        for index in range(3):
            files = FeatureFiles(scratch / str(index), "train", 0, 1)
            files.folder.mkdir(parents=True)
            values = rng.normal(size=(total, *spec.latent_shape)).astype(np.float16)
            np.save(files.part_path(0), values)
            branches.append([files])
        kept = CachedFeatures(branches)
        return lambda: FeatureBatches(
            features=kept, targets=levels, batch_size=batch, shard=own, seed=0
        ).epoch(1)
    for name in ("raw", "jnd1"):
        noise = rng.integers(0, 256, (total, *spec.frame_shape), np.uint8)
        np.save(scratch / f"{name}.npy", noise)
    maps = {name: np.load(scratch / f"{name}.npy", mmap_mode="r") for name in ("raw", "jnd1")}
    pairs = FramePairs(
        frames=CachedFrames(maps),
        target="jnd1",
        rows=np.arange(total),
        batch_size=batch,
        shard=own,
        seed=0,
        labels=levels[:, :1],
    )
    return lambda: pairs.epoch(1)


def _costs(model: Any, kind: str, size: str) -> dict[str, Any]:
    import keras
    import numpy as np

    from laser_dist.models.complexity import decoder_cost, encoder_cost, head_cost
    from laser_dist.models.variants import variant_named

    variant, specs = variant_named(kind), _specs(kind, size)
    cost = head_cost(variant, *specs)
    if variant.end_to_end:
        cost += encoder_cost(specs[0]) + decoder_cost(specs[0])
    layers = model._flatten_layers()
    return {
        "gmac": cost.macs / 1e9,
        "gradient_bytes": 4 * sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        "dense": _dense(layers),
        "norms": sum(isinstance(layer, keras.layers.BatchNormalization) for layer in layers),
    }


def _dense(layers: list[Any]) -> list[tuple[int, list[int]]]:
    """Return the widths of the inputs and outputs of large dense layers, by their inputs."""
    import keras

    from laser_dist.training.learning.collectives import LEAST_FACTORED_BYTES

    found: dict[int, tuple[int, list[int]]] = {}
    for layer in layers:
        if isinstance(layer, keras.layers.Dense):
            num_inputs, num_outputs = layer.kernel.shape
            if 4 * num_inputs * num_outputs >= LEAST_FACTORED_BYTES:
                found.setdefault(id(layer.input), (num_inputs, []))[1].append(num_outputs)
    return [*found.values()]


def costs_of(kind: str, size: str) -> dict[str, Any]:
    """Return the costs of a model of some size, and the examples per second of its input."""
    import keras

    from laser_dist.training.learning.step import Stepper

    strategy = _strategy(1)
    model, objective, spec = build_model(kind, size)
    stepper = Stepper(strategy, model, objective, keras.optimizers.SGD(), local_replicas=1)
    with tempfile.TemporaryDirectory() as scratch:
        source = make_batches(kind, spec, Path(scratch), (0, 1), BATCH_SIZE)
        seconds = min(_epoch_s(stepper, source) for _ in range(EPOCHS))
    return {"input_rate": BATCH_SIZE * STEPS / seconds, **_costs(model, kind, size)}


def _epoch_s(stepper: Any, source: Any) -> float:
    """Return how long an epoch takes whose steps cost nothing."""
    from laser_dist.examples.read_ahead import ReadAhead

    started = time.perf_counter()
    for _ in ReadAhead(map(stepper.to_devices, source())):
        pass
    return time.perf_counter() - started
