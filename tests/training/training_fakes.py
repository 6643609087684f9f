"""Tiny dataset, models and batches for the training tests.

A pixel encodes its origin: red is the example's number (plus 50 per level), green the row, blue the
column. So the values of a frame identify the example, the square and whether it is mirrored.
"""

from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from label_tables import write_label_tables

from laser_dist.examples.example_codec import rows_with
from laser_dist.examples.features import CachedFeatures, FeatureBatches
from laser_dist.examples.frame_pairs import FramePairs
from laser_dist.examples.frames import DecodedFrames
from laser_dist.examples.label_table import read_label_table
from laser_dist.examples.labels import LABEL_COLUMNS, labels_in
from laser_dist.examples.order import WorkerShard
from laser_dist.examples.records import open_records
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.config import StageConfig
from laser_dist.training.learning.callbacks import CsvLogger
from laser_dist.training.learning.loop import Stage, TrainingContext
from laser_dist.training.learning.objectives import LevelObjective
from laser_dist.training.storage.logs import RunLog

HEIGHT, WIDTH = 32, 48
NUM_TRAIN, NUM_VALIDATION = 7, 2
SPLITS = {
    "train": [str(number) for number in range(NUM_TRAIN)],
    "validation": [str(NUM_TRAIN + number) for number in range(NUM_VALIDATION)],
}
IMAGES = ("raw", "jnd1", "jnd2", "jnd3")
LACKING = {2: (3,), 5: (2, 3)}  # levels that the gappy dataset lacks, by example


def frame(number, level=0):
    """Return the frame of an example at a level (0 is raw), [H, W, 3] uint8."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    return np.stack([np.full_like(rows, number + 50 * level), rows, columns], -1).astype(np.uint8)


def levels_of(number, lacking=()):
    levels = np.array([number + 20, number + 25, number + 30], np.float32)
    levels[[level - 1 for level in lacking]] = np.nan
    return levels


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    """Frame pairs as TFDS itself writes them, shuffled by their keys."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="tiny")]
    LACKING = {}

    def _info(self):
        features = {name: tfds.features.Image(shape=(HEIGHT, WIDTH, 3)) for name in IMAGES}
        features["source_id"] = features["group_id"] = tfds.features.Text()
        features["jnd_levels"] = tfds.features.Tensor(shape=(3,), dtype=np.float32)
        metadata = {
            "simulated": True, "scale": "QP", "fingerprint": "abc", "splits": SPLITS,
        }  # fmt: skip
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _split_generators(self, dl_manager):
        first_of_validation = NUM_TRAIN
        return {
            "train": self._generate_examples(range(NUM_TRAIN)),
            "validation": self._generate_examples(
                range(first_of_validation, first_of_validation + NUM_VALIDATION)
            ),
        }

    def download_and_prepare(self, **options):
        super().download_and_prepare(**options)
        write_label_tables(self.data_path)

    def _generate_examples(self, numbers):
        for number in numbers:
            lacking = self.LACKING.get(number, ())
            images = {
                name: frame(number, level) * (level not in lacking)
                for level, name in enumerate(IMAGES)
            }
            levels = levels_of(number, lacking)
            ids = {"source_id": str(number), "group_id": str(number)}
            yield number, images | ids | {"jnd_levels": levels}


class GappyPairs(TinyPairs):
    """Frame pairs in which two examples lack levels; the missing frames are black."""

    LACKING = LACKING


class ManyPairs(TinyPairs):
    """Frame pairs with so many examples that reading two shards alternately changes their order."""

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(50))}


def labels_of(dataset_dir, split="train"):
    """Read the labels of a split."""
    num_examples = len(open_records(dataset_dir, split))
    return labels_in(read_label_table(dataset_dir, split, num_examples, LABEL_COLUMNS))


def frame_pairs(dataset_dir, target, *, split="train", **settings):
    """Return the frame pairs of a split's examples that have the target, unshuffled by default."""
    records = open_records(dataset_dir, split)
    return FramePairs(
        frames=DecodedFrames(records, (WIDTH, HEIGHT)),
        target=target,
        rows=rows_with(target, labels_of(dataset_dir, split).levels),
        **settings,
    )


class RecordingRecords:
    """Records that list the indices of all reads."""

    def __init__(self, records):
        self.records, self.seen = records, []

    def __len__(self):
        return len(self.records)

    def read(self, indices):
        self.seen += np.asarray(indices).tolist()
        return self.records.read(indices)


def prepared(batch):
    """Return inputs and targets of a batch as the model gets them, mirrored and blended."""

    def mirror(array):
        if array.dtype != np.uint8 or batch.mirrored is None:
            return array
        return np.where(batch.mirrored[:, None, None, None], array[:, :, ::-1], array)

    def blend(own, other):
        share = batch.kept.reshape(-1, *[1] * (own.ndim - 1))
        return share * own.astype(np.float32) + (1 - share) * other.astype(np.float32)

    inputs, targets = tf.nest.map_structure(mirror, (batch.inputs, batch.targets))
    if batch.mates is not None:
        inputs = tf.nest.map_structure(blend, inputs, batch.mates)
    return inputs, targets


def linear_model(start):
    """Build the model x @ start, [B, N] to [B, L]: one layer with weights [N, L] and no bias."""
    start = np.asarray(start, np.float32)
    layer = keras.layers.Dense(start.shape[1], use_bias=False, name="levels")
    model = keras.Sequential([keras.Input(start.shape[:1]), layer], name="linear")
    model.set_weights([start])
    return model


def linear_stage(start, features, levels, *, validation=None, batch_size=2, **settings):
    """Build a stage that learns `features @ weights = levels`, from the weights `start`.

    Args:
      start: [N, L] initial weights.
      features: [E, N] features of E examples.
      levels: [E, L] levels of the examples.
      validation: (features, levels) for validation; the training examples if None.
      batch_size: batch size of training and validation.
      **settings: settings of `StageConfig`.
    """
    training = batches(features, levels, batch_size=batch_size, seed=3)
    validated = (features, levels) if validation is None else validation
    return Stage(
        settings_name="heads",
        name="tiny",
        model=linear_model(start),
        objective=LevelObjective(tuple(range(1, 1 + np.shape(start)[1]))),
        settings=StageConfig(batch_size=batch_size, **settings),
        training=training,
        validation=batches(*validated, batch_size=batch_size),
        steps_per_epoch=-(-len(features) // batch_size),
    )


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array, a substitute for files."""

    array: np.ndarray

    @property
    def shape(self):
        return self.array.shape[1:]

    @property
    def dtype(self):
        return self.array.dtype

    def read(self, indices, out):
        out[:] = self.array[indices]


@dataclass(frozen=True, eq=False)
class ArrayFeatures(CachedFeatures):
    """Cached features from an array [V, N, branches, ...], a substitute for files."""

    array: np.ndarray

    @staticmethod
    def of(array):
        versions, _, branches = array.shape[:3]
        rows = [[ArrayRows(array[v, :, b]) for v in range(versions)] for b in range(branches)]
        return ArrayFeatures(rows, array)


def batches(features, levels, **settings):
    """Return batches of features [E, N]; in their order, or shuffled if there is a `seed`."""
    features, levels = np.asarray(features, np.float32), np.asarray(levels, np.float32)
    return FeatureBatches(
        features=ArrayFeatures.of(features[None, :, None]), targets=levels, **settings
    )


def worker_sources(source, num_workers, devices=1):
    """Return the source of each worker."""
    return [
        replace(source, shard=WorkerShard(index, num_workers, devices))
        for index in range(num_workers)
    ]


def joined(source, num_workers, epoch=1, *, start=0, devices=1):
    """Return the examples of all workers in each step, without padding: [(inputs, targets)]."""
    steps = []
    workers = worker_sources(source, num_workers, devices)
    for parts in zip(*(worker.epoch(epoch, start) for worker in workers), strict=True):
        present = [part.weights > 0 for part in parts]
        inputs, targets = (
            np.concatenate([array[mask] for array, mask in zip(arrays, present, strict=True)])
            for arrays in zip(*map(prepared, parts), strict=True)
        )
        assert {part.global_count for part in parts} == {len(inputs)}
        steps.append((inputs, targets))
    return steps


def assert_same_steps(actual, expected):
    for (inputs, targets), (expected_inputs, expected_targets) in zip(
        actual, expected, strict=True
    ):
        np.testing.assert_array_equal(inputs, expected_inputs)
        np.testing.assert_array_equal(targets, expected_targets)


class ObservedLog(RunLog):
    """Log that also calls `after_epoch` with the metrics of each epoch."""

    def __init__(self, store, after_epoch):
        super().__init__(store, is_chief=True)
        self.after_epoch = after_epoch

    def event(self, kind, **values):
        super().event(kind, **values)
        if kind == "epoch":
            self.after_epoch(values["metrics"])


def context(run_dir, after_epoch=lambda _: None):
    """Return a training context of this process and its first device."""
    store = RunFiles(str(run_dir))
    return TrainingContext(
        strategy=tf.distribute.get_strategy(),
        store=store,
        log=ObservedLog(store, after_epoch),
        callbacks=(CsvLogger(store),),
        config={
            "dataset": {"scale": "QP", "simulated": True, "fingerprint": "abc", "splits": SPLITS}
        },
    )
