"""Frame pairs and features in global batches, of which each worker takes a distinct part."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from laser_dist.training.step import Batch
from laser_dist.video.frames import resize_rgb

SHUFFLE_BUFFER = 1024  # examples, still encoded: about 150 KB each at 256x144, 1.5 MB at 640x352
RAW, LEVELS = "raw", "jnd_levels"
IMAGES = (RAW, "jnd1", "jnd2", "jnd3")  # in the order of `jnd_levels`, after the raw one


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is this worker's.

    Attributes:
      index: of the worker, from 0.
      num_workers: how many there are.
    """

    index: int = 0
    num_workers: int = 1

    def slice_of(self, batch_size: int) -> slice:
        """This worker's places in a global batch."""
        size = batch_size // self.num_workers
        return slice(self.index * size, (self.index + 1) * size)


@dataclass(frozen=True, kw_only=True)
class FramePairs:
    """Batches of a raw frame and the frame to learn, read from a TFDS dataset.

    Every worker walks the same examples in the same order, still encoded, and decodes only its own
    part of each global batch. So an epoch sees every example exactly once, and the same global
    batches, whatever the number of workers. An example that lacks the target's level is none here:
    it is left out before batches are made.

    Attributes:
      dataset_dir: of the prepared dataset.
      split: such as "train".
      target: "raw", "jnd1", "jnd2" or "jnd3".
      height: of the frames given, in pixels; the stored ones are resized if they differ.
      width: of the frames given, in pixels.
      batch_size: global.
      share: this worker's.
      seed: of the order; None keeps the stored order.
      flips: whether half of the pairs, drawn anew in each epoch, are mirrored left to right.
      crop: side of random squares that are given in place of whole frames, drawn anew in each
        epoch; None for whole frames.
      crops_per_frame: squares per frame; an example then is a square.
    """

    dataset_dir: Path
    split: str
    target: str
    height: int
    width: int
    batch_size: int
    share: Share = Share()
    seed: int | None = None
    flips: bool = False
    crop: int | None = None
    crops_per_frame: int = 1

    def epoch(self, index: int) -> Iterator[Batch]:
        """Batches of one epoch; the same `index` gives the same ones."""
        dataset = _encoded(self.dataset_dir, self.split, self.target)
        if self.seed is not None:
            dataset = dataset.shuffle(SHUFFLE_BUFFER, seed=_mixed(self.seed, index))
        batches = dataset.batch(self.batch_size).enumerate()
        decoded = batches.map(
            lambda number, batch: self._decode(batch, index, number),
            num_parallel_calls=2,
            deterministic=True,
        )
        for raw, target, weights, count in _untuned(decoded.prefetch(2)).as_numpy_iterator():
            copies = 1 if self.crop is None else self.crops_per_frame
            yield Batch(raw, target, np.repeat(weights, copies), int(count) * copies)

    def _decode(self, batch: Any, epoch: int, number: Any) -> tuple[Any, Any, Any, Any]:
        """Decodes this worker's part of a batch, padded to full size with weight 0."""
        count = tf.shape(batch["raw"])[0]
        places = self.share.slice_of(self.batch_size)
        indices = tf.range(places.start, places.stop)
        weights = tf.cast(indices < count, tf.float32)
        present = tf.minimum(indices, count - 1)
        decoded = {
            name: tf.map_fn(
                lambda encoded: _frame(encoded, self.height, self.width),
                tf.gather(encoded_frames, present),
                fn_output_signature=tf.float32,
            )
            for name, encoded_frames in batch.items()
        }
        raw, target = decoded["raw"], decoded[self.target]
        seed = tf.stack([tf.constant(_mixed(self.seed or 0, epoch), tf.int64), number])
        if self.flips:
            draws = tf.random.stateless_uniform([self.batch_size], seed)[places]
            mirrored = draws[:, None, None, None] < 0.5
            raw = tf.where(mirrored, raw[:, :, ::-1], raw)
            target = tf.where(mirrored, target[:, :, ::-1], target)
        if self.crop is not None:
            raw, target = self._crops(raw, target, seed, places)
        return raw, target, weights, count

    def _crops(self, raw: Any, target: Any, seed: Any, places: slice) -> tuple[Any, Any]:
        """The same random squares of both; which ones does not depend on the worker."""
        side, copies = self.crop, self.crops_per_frame
        assert side is not None
        most = tf.constant([self.height - side + 1, self.width - side + 1], tf.float32)
        draws = tf.random.stateless_uniform([self.batch_size, copies, 2], seed + 1)[places]
        corners = tf.cast(draws * most, tf.int32)
        both = tf.concat([raw, target], axis=-1)
        squares = [
            both[index, corner[0] : corner[0] + side, corner[1] : corner[1] + side]
            for index in range(places.stop - places.start)
            for corner in tf.unstack(corners[index])
        ]
        stacked = tf.ensure_shape(tf.stack(squares), [None, side, side, 6])
        return stacked[..., :3], stacked[..., 3:]


def sample_frames(
    dataset_dir: Path, split: str, most: int, *, height: int, width: int
) -> np.ndarray:
    """Raw frames spread evenly over a split, the same ones on every worker.

    Args:
      dataset_dir: of the prepared dataset.
      split: such as "train".
      most: number of frames, or the split's if that has fewer.
      height: of the frames given, in pixels.
      width: of the frames given, in pixels.

    Returns:
      [N, height, width, 3] float32, RGB in 0..255.
    """
    total = num_examples(dataset_dir, split)
    chosen = {index * total // most for index in range(most)}
    rows = enumerate(_encoded(dataset_dir, split, RAW))
    frames = [_frame(row[RAW], height, width) for index, row in rows if index in chosen]
    return np.stack([frame.numpy() for frame in frames])


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels of a split's examples, in stored order.

    Attributes:
      source_ids: [N] str.
      levels: [N, 3] float32, on the dataset's scale; NaN where one is missing.
    """

    source_ids: np.ndarray
    levels: np.ndarray


def read_labels(dataset_dir: Path, split: str) -> Labelled:
    """Reads a split's labels; no image is decoded."""
    dataset = _partial(dataset_dir, split, {"source_id": True, LEVELS: True}, {})
    rows = list(dataset.as_numpy_iterator())
    return Labelled(
        np.array([row["source_id"].decode() for row in rows]),
        np.array([row[LEVELS] for row in rows], np.float32).reshape(len(rows), -1),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBatches:
    """Batches of cached features, of those examples that have any level.

    Attributes:
      features: [V, N, branches, h, w, c]: V versions (as stored, mirrored) of N examples.
      levels: [N, L] float32; NaN where one is missing, here and in the batches.
      batch_size: global.
      share: this worker's.
      seed: of order, choice of version and blending; None keeps the order and takes version 0.
      mixup: as `StageConfig.mixup`; none where `seed` is None. A blend lacks every level that one
        of its two examples lacks; two that have none in common are not blended.
    """

    features: np.ndarray
    levels: np.ndarray
    batch_size: int
    share: Share = Share()
    seed: int | None = None
    mixup: float = 0.0

    def epoch(self, index: int) -> Iterator[Batch]:
        """Batches of one epoch; the same `index` gives the same ones."""
        usable = np.flatnonzero(has_level(self.levels))
        levels = self.levels[usable]
        num_versions, num_examples = len(self.features), len(usable)
        order, versions = np.arange(num_examples), np.zeros(num_examples, np.int64)
        partners, kept = order, np.ones(num_examples, np.float32)
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, index])
            order = rng.permutation(num_examples)
            versions = rng.integers(num_versions, size=num_examples)
            if self.mixup > 0:
                partners = rng.permutation(num_examples)
                kept = rng.beta(self.mixup, self.mixup, size=num_examples).astype(np.float32)
        places = self.share.slice_of(self.batch_size)
        positions = np.arange(places.start, places.stop)
        for start in range(0, num_examples, self.batch_size):
            count = min(self.batch_size, num_examples - start)
            rows = order[start + np.minimum(positions, count - 1)]
            mates, share = partners[rows], kept[rows]
            # A sum is NaN where either is: without a level in common an example is its own mate.
            mates = np.where(has_level(levels[rows] + levels[mates]), mates, rows)
            first, second = (
                self.features[versions[chosen], usable[chosen]] for chosen in (rows, mates)
            )
            features = _blend(first, second, share)
            targets = _blend(levels[rows], levels[mates], share)
            branches = [features[:, branch] for branch in range(features.shape[1])]
            inputs = branches[0] if len(branches) == 1 else branches
            weights = (positions < count).astype(np.float32)
            yield Batch(inputs, targets, weights, count)


def _blend(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """[b, ...] float32: `share` [b] of the first and the rest of the second."""
    weight = share.reshape(-1, *[1] * (first.ndim - 1))
    return weight * first.astype(np.float32) + (1 - weight) * second.astype(np.float32)


def has_level(levels: np.ndarray) -> np.ndarray:
    """[N] bool: whether an example has any of its levels [N, L]."""
    return np.asarray(np.isfinite(levels).any(axis=-1))


def mean_levels(levels: np.ndarray) -> np.ndarray:
    """[L]: the mean of each of [N, L] levels over the examples that have it, one at least."""
    return np.mean(levels, axis=0, where=np.isfinite(levels))


def num_steps(num_examples: int, batch_size: int) -> int:
    """Steps of an epoch, the last, smaller one included."""
    return -(-num_examples // batch_size)


def num_with(target: str, levels: np.ndarray) -> int:
    """How many examples, of levels [N, 3], have the frame `target`; all have a raw one."""
    return len(levels) if target == RAW else int(np.isfinite(levels[:, _level_index(target)]).sum())


def num_examples(dataset_dir: Path, split: str) -> int:
    """Examples of a split, from the dataset's metadata."""
    return int(tfds.builder_from_directory(dataset_dir).info.splits[split].num_examples)


def _untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without TensorFlow's tuning: its thread can take 10 s to end with an epoch."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _frame(encoded: Any, height: int, width: int) -> Any:
    """Decodes a frame and, where its stored size is another, resizes it as everyone does."""

    def fitted(frame: np.ndarray) -> np.ndarray:
        if frame.shape[:2] == (height, width):
            return frame
        return resize_rgb(frame, width=width, height=height)

    frame = tf.io.decode_png(encoded, channels=3)
    frame = tf.numpy_function(fitted, [frame], tf.uint8, stateful=False)
    return tf.ensure_shape(tf.cast(frame, tf.float32), [height, width, 3])


def _encoded(dataset_dir: Path, split: str, target: str) -> tf.data.Dataset:
    """Raw frames, and those of `target`, of the examples that have it."""
    images = sorted({RAW, target})
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    if target == RAW:
        return _partial(dataset_dir, split, dict.fromkeys(images, True), decoders)
    index = _level_index(target)
    dataset = _partial(dataset_dir, split, dict.fromkeys([*images, LEVELS], True), decoders)
    present = dataset.filter(lambda row: tf.math.is_finite(row[LEVELS][index]))
    return present.map(lambda row: {name: row[name] for name in images})


def _level_index(target: str) -> int:
    return IMAGES.index(target) - 1


def _partial(
    dataset_dir: Path, split: str, features: dict[str, bool], decoders: dict[str, Any]
) -> tf.data.Dataset:
    return tfds.builder_from_directory(dataset_dir).as_dataset(
        split=split,  # pyright: ignore[reportCallIssue]: the decorated method hides its signature
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(features, decoders=decoders),
        # One shard after the other: by default TFDS reads 16 by turns, and then the stored order,
        # from which batches follow, would not be the shards' own.
        read_config=tfds.ReadConfig(
            try_autocache=False, add_tfds_id=False, interleave_cycle_length=1
        ),
    )


def _mixed(seed: int, epoch: int) -> int:
    """One seed of two, below 2**31."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0] >> 1)
