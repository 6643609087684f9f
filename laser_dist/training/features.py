"""Features of frozen backbones for heads: kept in files, or computed anew in every epoch.

Both give the same batches; kept ones are rounded to float16.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from laser_dist.training.feature_files import FeatureFiles
from laser_dist.training.labels import has_level
from laser_dist.training.order import SHUFFLE_BUFFER, EpochOrder, Share, epoch_order
from laser_dist.training.step import Batch
from laser_dist.training.stored import RAW, decode_frames, encoded, untuned

# Of one worker's part of a batch: features of its examples, and of those they are blended with.
Pair = tuple[np.ndarray, np.ndarray]


class Features(Protocol):
    """Where features come from."""

    def walk(
        self, order: EpochOrder, usable: np.ndarray, batch_size: int, share: Share
    ) -> Iterator[Pair]:
        """This worker's part of each global batch of an epoch.

        Args:
          order: of the epoch.
          usable: [N] which stored example each of the order's rows is.
          batch_size: global.
          share: this worker's.

        Yields:
          Twice [b, branches, h, w, c]; what is beyond the last example repeats it.
        """
        ...


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """Features read from files, of which memory holds what a batch needs.

    Attributes:
      branches: of each backbone, for each version (as stored, mirrored) its files.
    """

    branches: Sequence[Sequence[FeatureFiles]]

    def walk(
        self, order: EpochOrder, usable: np.ndarray, batch_size: int, share: Share
    ) -> Iterator[Pair]:
        """As `Features.walk`."""
        for places in worker_places(len(order.rows), batch_size, share):
            mates = order.mates[places]
            first = self._rows(order, usable, places)
            yield (
                first,
                first if np.array_equal(mates, places) else self._rows(order, usable, mates),
            )

    def _rows(self, order: EpochOrder, usable: np.ndarray, places: np.ndarray) -> np.ndarray:
        rows, versions = usable[order.rows[places]], order.versions[places]
        parts: list[np.ndarray] = []
        for branch in self.branches:
            found = branch[0].rows(rows)
            for version in np.unique(versions[versions > 0]):
                chosen = versions == version
                found[chosen] = branch[version].rows(rows[chosen])
            parts.append(found)
        return np.stack(parts, axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class FreshFeatures:
    """Features computed as they are asked for, from frames read in the order of the epoch.

    Attributes:
      dataset_dir: of the prepared dataset.
      split: such as "train".
      extractors: frozen, one per branch of the head; frames in, features [b, h, w, c] out.
    """

    dataset_dir: Path
    split: str
    extractors: Sequence[keras.Model]

    def walk(
        self, order: EpochOrder, usable: np.ndarray, batch_size: int, share: Share
    ) -> Iterator[Pair]:
        """As `Features.walk`."""
        height, width = self.extractors[0].input_shape[1:3]
        dataset = encoded(self.dataset_dir, self.split, RAW).enumerate()
        dataset = dataset.filter(_among(usable))
        if order.shuffle_seed is not None:
            dataset = dataset.shuffle(SHUFFLE_BUFFER, seed=order.shuffle_seed)
        batches = dataset.map(lambda _, row: row[RAW]).batch(batch_size).prefetch(2)
        parts = worker_places(len(order.rows), batch_size, share)
        for images, places in zip(untuned(batches), parts, strict=True):
            start = places[0] // batch_size * batch_size
            mates = order.mates[places]
            pair = [
                self._extract(
                    tf.gather(images, chosen - start),
                    tf.constant(order.versions[chosen]),
                    height,
                    width,
                ).numpy()
                for chosen in ([places] if np.array_equal(mates, places) else [places, mates])
            ]
            yield pair[0], pair[-1]

    @cached_property
    def _extract(self) -> Callable[..., Any]:
        return tf.function(self._features_of)  # made once, not in every epoch

    def _features_of(self, images: Any, versions: Any, height: int, width: int) -> Any:
        frames = decode_frames(images, height, width)
        mirrored = versions[:, None, None, None] == 1
        frames = tf.where(mirrored, frames[:, :, ::-1], frames)
        parts = [extractor(frames, training=False) for extractor in self.extractors]
        return tf.cast(tf.stack(parts, axis=1), tf.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBatches:
    """Batches of features, of those examples that have any level.

    Attributes:
      features: where they come from.
      targets: [N, L] or [N, L, 3] float32 of all stored examples; NaN where a level is missing,
        here and in the batches.
      batch_size: global.
      share: this worker's.
      seed: of order, choice of version and blending; None keeps the order and takes version 0.
      num_versions: 1, or 2 with mirrored ones.
      mixup: as `StageConfig.mixup`; none where `seed` is None.
    """

    features: Features
    targets: np.ndarray
    batch_size: int
    share: Share = Share()
    seed: int | None = None
    num_versions: int = 1
    mixup: float = 0.0

    def epoch(self, index: int) -> Iterator[Batch]:
        """Batches of one epoch; the same `index` gives the same ones."""
        usable = np.flatnonzero(has_level(self.targets))
        targets = self.targets[usable]
        order = epoch_order(
            targets,
            index,
            seed=self.seed,
            batch_size=self.batch_size,
            num_versions=self.num_versions,
            mixup=self.mixup,
        )
        total = len(targets)
        parts = worker_places(total, self.batch_size, self.share)
        walk = self.features.walk(order, usable, self.batch_size, self.share)
        for places, (first, second) in zip(parts, walk, strict=True):
            start = places[0] // self.batch_size * self.batch_size
            count = min(self.batch_size, total - start)
            rows, mates = order.rows[places], order.rows[order.mates[places]]
            kept = order.kept[places]
            features = first.astype(np.float32) if second is first else _blend(first, second, kept)
            blended = (
                targets[rows] if second is first else _blend(targets[rows], targets[mates], kept)
            )
            branches = [features[:, branch] for branch in range(features.shape[1])]
            inputs = branches[0] if len(branches) == 1 else branches
            positions = start + np.arange(self.batch_size)[self.share.slice_of(self.batch_size)]
            yield Batch(inputs, blended, (positions < total).astype(np.float32), count)


def _among(usable: np.ndarray) -> Callable[..., Any]:
    """Whether an enumerated example is one of `usable`."""
    wanted = np.zeros(usable.max(initial=0) + 2, bool)  # the last one stands for all beyond
    wanted[usable] = True
    mask = tf.constant(wanted)
    return lambda *entry: mask[tf.minimum(entry[0], len(wanted) - 1)]


def worker_places(total: int, batch_size: int, share: Share) -> Iterator[np.ndarray]:
    """Of each global batch, which places of the order are this worker's, within the batch.

    A last, smaller batch is filled up with its own examples over again, which weigh nothing: so
    batch norms see what they would see of the smaller batch.
    """
    own = share.slice_of(batch_size)
    for start in range(0, total, batch_size):
        count = min(batch_size, total - start)
        yield start + np.arange(own.start, own.stop) % count


def _blend(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """[b, ...] float32: `share` [b] of the first and the rest of the second."""
    weight = share.reshape(-1, *[1] * (first.ndim - 1))
    return weight * first.astype(np.float32) + (1 - weight) * second.astype(np.float32)
