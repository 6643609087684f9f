"""Frame pairs in global batches, of which each worker takes a distinct part."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from laser_dist.training.labels import has_level
from laser_dist.training.order import SHUFFLE_BUFFER, Share, mixed_seed
from laser_dist.training.step import Batch
from laser_dist.training.stored import RAW, decode_frames, encoded, untuned

_OWN = "label"


@dataclass(frozen=True, kw_only=True, eq=False)
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
      labels: [N, L] or [N, L, 3] of all stored examples, of the target's level; then a batch's
        targets are a list of two, frames and labels.
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
    labels: np.ndarray | None = None

    def epoch(self, index: int) -> Iterator[Batch]:
        """Batches of one epoch; the same `index` gives the same ones."""
        dataset = encoded(self.dataset_dir, self.split, self.target)
        if self.labels is not None:
            # The examples that have the target are those whose label is there.
            present = tf.data.Dataset.from_tensor_slices(self.labels[has_level(self.labels)])
            dataset = tf.data.Dataset.zip(dataset, present).map(lambda row, own: {**row, _OWN: own})
        if self.seed is not None:
            dataset = dataset.shuffle(SHUFFLE_BUFFER, seed=mixed_seed(self.seed, index))
        batches = dataset.batch(self.batch_size).enumerate()
        decoded = batches.map(
            lambda number, batch: self._decode(batch, index, number),
            num_parallel_calls=2,
            deterministic=True,
        )
        for raw, target, labels, weights, count in untuned(decoded.prefetch(2)).as_numpy_iterator():
            copies = 1 if self.crop is None else self.crops_per_frame
            targets = target if self.labels is None else [target, labels]
            yield Batch(raw, targets, np.repeat(weights, copies), int(count) * copies)

    def _decode(self, batch: Any, epoch: int, number: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Decodes this worker's part of a batch, padded to full size with weight 0."""
        count = tf.shape(batch[RAW])[0]
        places = self.share.slice_of(self.batch_size)
        indices = tf.range(places.start, places.stop)
        weights = tf.cast(indices < count, tf.float32)
        present = tf.math.floormod(indices, count)  # over again, so that batch norms see no other
        own = {name: tf.gather(values, present) for name, values in batch.items()}
        raw = target = decode_frames(own[RAW], self.height, self.width)
        if self.target != RAW:
            target = decode_frames(own[self.target], self.height, self.width)
        seed = tf.stack([tf.constant(mixed_seed(self.seed or 0, epoch), tf.int64), number])
        if self.flips:
            draws = tf.random.stateless_uniform([self.batch_size], seed)[places]
            mirrored = draws[:, None, None, None] < 0.5
            raw = tf.where(mirrored, raw[:, :, ::-1], raw)
            target = tf.where(mirrored, target[:, :, ::-1], target)
        if self.crop is not None:
            raw, target = self._crops(raw, target, seed, places)
        return raw, target, own.get(_OWN, weights), weights, count

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
