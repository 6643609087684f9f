"""Features of frozen backbones for heads: cached in files, or recomputed in every epoch.

Both give the same batches, except that cached features are rounded to float16.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from laser_dist.examples.example_codec import RAW, as_float
from laser_dist.examples.feature_files import FeatureFiles
from laser_dist.examples.frames import Frames
from laser_dist.examples.memory_maps import aligned
from laser_dist.examples.order import (
    Batch,
    EpochOrder,
    WorkerShard,
    epoch_order,
    has_level,
)


class Features(Protocol):
    """A source of features."""

    def read(self, rows: np.ndarray, versions: np.ndarray) -> list[np.ndarray]:
        """Return the features of examples.

        Args:
          rows: [b] positions in the stored order.
          versions: [b] 0 for a frame as stored, 1 for a mirrored one.

        Returns:
          [b, h, w, c] of each backbone.
        """
        ...


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Features in memory-mapped files.

    Attributes:
      branches: for each backbone, the files of each version (as stored, mirrored).
    """

    branches: Sequence[Sequence[FeatureFiles]]

    def read(self, rows: np.ndarray, versions: np.ndarray) -> list[np.ndarray]:
        """Return the features of examples, as `Features.read`, in float16."""
        shapes = [(len(rows), *branch[0].shape) for branch in self.branches]
        found = aligned(shapes, self.branches[0][0].dtype)
        for version in np.unique(versions):
            chosen = versions == version
            for branch, out in zip(self.branches, found, strict=True):
                if chosen.all():
                    branch[version].read(rows, out)
                    continue
                own = np.empty((int(chosen.sum()), *out.shape[1:]), out.dtype)
                branch[version].read(rows[chosen], own)
                out[chosen] = own
        return found


@dataclass(frozen=True, eq=False)
class ComputedFeatures:
    """Features that are computed when they are read.

    Attributes:
      frames: frames of the split.
      extractors: frozen extractors from frames to features [b, h, w, c], one per branch.
    """

    frames: Frames
    extractors: Sequence[keras.Model]

    def read(self, rows: np.ndarray, versions: np.ndarray) -> list[np.ndarray]:
        """Return the features of examples, as `Features.read`, in float32."""
        (frames,) = self.frames.read((RAW,), rows)
        return [features.numpy() for features in self._extract(frames, versions == 1)]

    @cached_property
    def _extract(self) -> Callable[..., Any]:
        return tf.function(self._features_of, autograph=False)  # traced once, not in every epoch

    def _features_of(self, frames: Any, mirrored: Any) -> Any:
        frames = as_float(frames, mirrored)
        return [
            tf.cast(extractor(frames, training=False), tf.float32) for extractor in self.extractors
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBatches:
    """Batches of features of the examples that have any level.

    Attributes:
      features: source of the features.
      targets: [N, L] or [N, L, 3] float32 of all stored examples; NaN where a level is missing,
        here and in the batches.
      batch_size: size of the global batch.
      shard: this worker's part of the batches.
      seed: seed of order, versions and blending; None uses the stored order and version 0.
      num_versions: 1, or 2 with mirrored frames.
      mixup: as `StageConfig.mixup`; unused if `seed` is None.
    """

    features: Features
    targets: np.ndarray
    batch_size: int
    shard: WorkerShard = WorkerShard()
    seed: int | None = None
    num_versions: int = 1
    mixup: float = 0.0

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch; the same `index` gives the same ones.

        Args:
          index: number of the epoch.
          start: number of global batches to skip, without reading them.
        """
        usable = np.flatnonzero(has_level(self.targets))
        order = epoch_order(
            self.targets[usable],
            index,
            seed=self.seed,
            batch_size=self.batch_size,
            num_versions=self.num_versions,
            mixup=self.mixup,
        )
        rows, total = usable[order.rows], len(usable)
        for first in range(start * self.batch_size, total, self.batch_size):
            count = min(self.batch_size, total - first)
            part = self.shard.slice_of(count, self.batch_size)
            yield self._batch(order, rows, first + part.places, part.weights, count)

    def _batch(
        self,
        order: EpochOrder,
        rows: np.ndarray,
        places: np.ndarray,
        weights: np.ndarray,
        count: int,
    ) -> Batch:
        """Return the examples at some positions of an epoch, each blended with its mate."""
        mates, kept = order.mates[places], order.kept[places]
        features = self.features.read(rows[places], order.versions[places])
        targets = self.targets[rows[places]]
        if self.seed is None or self.mixup <= 0:
            return Batch(_only(features), targets, weights, count)
        # Also if this worker has nothing to blend: the step's graph is the same on all workers.
        others = features
        if not np.array_equal(mates, places):
            others = self.features.read(rows[mates], order.versions[mates])
            targets = _blend(targets, self.targets[rows[mates]], kept)
        return Batch(_only(features), targets, weights, count, mates=_only(others), kept=kept)


def _only(branches: list[np.ndarray]) -> Any:
    """Return features as a model takes them: of a single backbone, no list."""
    return branches[0] if len(branches) == 1 else branches


def _blend(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return [b, ...] float32: a share [b] of the first plus the rest of the second."""
    weight = share.reshape(-1, *[1] * (first.ndim - 1))
    return weight * first.astype(np.float32) + (1 - weight) * second.astype(np.float32)
