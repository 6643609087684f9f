"""Cache of the features of frozen backbones in the run's folder; all workers fill it together."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from laser_dist.examples.example_codec import RAW
from laser_dist.examples.feature_files import (
    BATCH_SIZE,
    Extractor,
    FeatureFiles,
    FeatureKey,
    finish_files,
    num_bytes,
    num_parts_of,
    write_parts,
)
from laser_dist.examples.features import CachedFeatures
from laser_dist.examples.frame_pairs import FramePairs
from laser_dist.examples.frames import Frames
from laser_dist.storage.cache import file_hash
from laser_dist.training.learning.collectives import all_agree
from laser_dist.training.learning.loop import TrainingContext
from laser_dist.training.reuse import model_path

FOLDER = "features"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Feature cache of one run.

    Attributes:
      frames: returns the frames of a split; called if features are missing.
      num_examples: number of examples of each split.
      context: devices and storage of the run.
      space: space of the features, "latent" or "reconstructed".
    """

    frames: Callable[[str], Frames]
    num_examples: Mapping[str, int]
    context: TrainingContext
    space: str

    def features(
        self, split: str, extractors: Mapping[str, Extractor], versions: int
    ) -> CachedFeatures:
        """Return the features of a split; compute those that are missing.

        Args:
          split: name of the split, such as "train".
          extractors: extractor of each backbone, by the name of its stage, in branch order.
          versions: 1 for frames as stored, 2 to add mirrored ones.
        """
        total = self.num_examples[split]
        keys = {
            name: self._key(name, each.model, total, versions) for name, each in extractors.items()
        }
        # All lookups come before the first write, so that all workers find the same.
        found = {name: self._found(name, split, keys[name]) for name in extractors}
        missing = {name: extractors[name] for name in extractors if not found[name]}
        if self.context.is_chief:
            for name in extractors:
                self._tidy(name, split, keys[name], is_missing=name in missing)
        self.context.wait_for_all()
        parts_written: list[Path] = []
        if missing:
            models = [each.model for each in missing.values()]
            size = num_bytes(models, total, versions) / 1e6
            logger.info("features of %s: %d frames, %.0f MB", split, total, size)
            parts_written = write_parts(
                {self._folder(name, keys[name]): one for name, one in missing.items()},
                self._pairs(split),
                split,
                versions=versions,
                heartbeat=lambda: self.context.heartbeat(f"features of {split}"),
            )
            with self.context.suspended():
                self.context.store.push(*parts_written)
        self.context.wait_for_all()
        branches: list[list[FeatureFiles]] = []
        for name, key in keys.items():
            folder = self._folder(name, key)
            if name in missing and self.context.is_chief:
                self.context.store.push(
                    finish_files(folder, split, key, self.context.shard.num_workers)
                )
            parts = found[name] or self.context.shard.num_workers
            files = [FeatureFiles(folder, split, version, parts) for version in range(versions)]
            for path in (each.part_path(part) for each in files for part in range(parts)):
                if path not in parts_written:
                    with self.context.suspended():
                        self.context.store.fetch(path, reuse=True)
            branches.append(files)
        return CachedFeatures(branches)

    def _found(self, name: str, split: str, key: FeatureKey) -> int:
        """Return the number of parts if all are there, else 0."""
        folder = self._folder(name, key)
        parts = 0
        if self.context.store.fetch(folder / f"{split}.json"):
            parts = num_parts_of(folder, split, key, self.context.store.names(folder))
        return parts if all_agree(self.context.strategy, parts > 0) else 0

    def _tidy(self, name: str, split: str, key: FeatureKey, *, is_missing: bool) -> None:
        """Remove features of an earlier backbone, and parts of an interrupted attempt."""
        folder, prefix = self._folder(name, key), f"{name}-{self.space}-"
        for other in self.context.store.names(folder.parent):
            if other.startswith(prefix) and other != folder.name:
                self.context.store.remove(folder.parent / other)
        if is_missing:
            for file in self.context.store.names(folder):
                if file.startswith((f"{split}-", f"{split}.")):
                    self.context.store.remove(folder / file)

    def _key(self, name: str, extractor: keras.Model, total: int, versions: int) -> FeatureKey:
        height, width = extractor.input_shape[1:3]
        return FeatureKey(
            model=file_hash(model_path(self.context.run_dir, name)),
            data=self.context.config["dataset"]["fingerprint"],
            size=(width, height),
            num_examples=total,
            versions=versions,
        )

    def _pairs(self, split: str) -> FramePairs:
        return FramePairs(
            frames=self.frames(split),
            target=RAW,
            rows=np.arange(self.num_examples[split]),
            batch_size=BATCH_SIZE * self.context.shard.num_workers,
            shard=replace(self.context.shard, devices=1),
        )

    def _folder(self, backbone: str, key: FeatureKey) -> Path:
        return self.context.run_dir / FOLDER / f"{backbone}-{self.space}-{key.short()}"
