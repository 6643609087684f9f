"""Features of frozen backbones, kept beside the run: computed once, by all workers together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from laser_dist.training.examples.data import FramePairs
from laser_dist.training.examples.feature_files import (
    BATCH_SIZE,
    FeatureFiles,
    FeatureKey,
    finish_files,
    num_bytes,
    num_parts_of,
    write_parts,
)
from laser_dist.training.examples.features import KeptFeatures
from laser_dist.training.examples.order import Share
from laser_dist.training.examples.records import Records
from laser_dist.training.examples.stored import RAW
from laser_dist.training.learning.loop import Place
from laser_dist.training.learning.together import all_agree, wait_for_all
from laser_dist.training.reuse import file_hash, model_path
from laser_dist.training.storage.run_store import RunStore

FOLDER = "features"


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Keeps features of one run.

    Attributes:
      records: of each split.
      share: this worker's.
      place: where the run runs and writes.
      space: of the features, "latent" or "reconstructed".
    """

    records: Mapping[str, Records]
    share: Share
    place: Place
    space: str

    def features(
        self, split: str, extractors: Mapping[str, keras.Model], versions: int
    ) -> KeptFeatures:
        """What the extractors give for a split; what is not there yet is computed.

        Args:
          split: such as "train".
          extractors: of each backbone, by the name of its stage, in the order of the branches.
          versions: 1 for frames as stored, 2 to add mirrored ones.
        """
        total = len(self.records[split])
        keys = {name: self._key(name, extractors[name], total, versions) for name in extractors}
        # Looked for before any is written, so that all workers come to the same end.
        found = {name: self._found(name, split, keys[name]) for name in extractors}
        missing = {name: extractors[name] for name in extractors if not found[name]}
        if self.place.is_chief:
            for name in extractors:
                self._tidy(name, split, keys[name], is_missing=name in missing)
        self._wait()
        if missing:
            size = num_bytes(missing.values(), total, versions) / 1e6
            text = f"features of {split}: {total} frames, {size:,.0f} MB"
            self.place.log.event("note", text=text)
            frames = self._frames(split, next(iter(missing.values())))
            folders = {self._folder(name, keys[name]): one for name, one in missing.items()}
            beat = self._beat(split)
            parts_written = write_parts(folders, frames, split, versions=versions, beat=beat)
            with self.place.paused():
                self.store.push(*parts_written)
        self._wait()
        branches: list[list[FeatureFiles]] = []
        for name, key in keys.items():
            folder = self._folder(name, key)
            if name in missing and self.place.is_chief:
                self.store.push(finish_files(folder, split, key, self.share.num_workers))
            parts = found[name] or self.share.num_workers
            files = [FeatureFiles(folder, split, version, parts) for version in range(versions)]
            for path in (each.part_path(part) for each in files for part in range(parts)):
                # What lies in a folder of this key is the same wherever it was computed.
                with self.place.paused():
                    self.store.fetch(path, reuse=True)
            branches.append(files)
        return KeptFeatures(branches)

    def _found(self, name: str, split: str, key: FeatureKey) -> int:
        """How many parts there are, if they are whole; 0 if not."""
        folder = self._folder(name, key)
        parts = 0
        if self.store.fetch(folder / f"{split}.json"):
            parts = num_parts_of(folder, split, key, self.store.names(folder))
        return parts if all_agree(self.place.strategy, parts > 0) else 0

    def _tidy(self, name: str, split: str, key: FeatureKey, *, is_missing: bool) -> None:
        """Removes what is of no use: features of an earlier backbone, and parts of a broken try."""
        folder, prefix = self._folder(name, key), f"{name}-{self.space}-"
        for other in self.store.names(folder.parent):
            if other.startswith(prefix) and other != folder.name:
                self.store.remove(folder.parent / other)
        if is_missing:
            for file in self.store.names(folder):
                if file.startswith((f"{split}-", f"{split}.")):
                    self.store.remove(folder / file)

    def _wait(self) -> None:
        with self.place.paused():  # who is waited for is watched
            wait_for_all(self.place.strategy)

    def _beat(self, split: str) -> Callable[[], None]:
        return lambda: self.place.beat(f"features of {split}")

    @property
    def store(self) -> RunStore:
        """Of the run."""
        return self.place.store

    def _key(self, name: str, extractor: keras.Model, total: int, versions: int) -> FeatureKey:
        height, width = extractor.input_shape[1:3]
        return FeatureKey(
            model=file_hash(model_path(self.place.run_dir, name)),
            data=self.place.config["dataset"]["fingerprint"],
            size=(width, height),
            num_examples=total,
            versions=versions,
        )

    def _frames(self, split: str, extractor: keras.Model) -> FramePairs:
        height, width = extractor.input_shape[1:3]
        return FramePairs(
            records=self.records[split],
            target=RAW,
            rows=np.arange(len(self.records[split])),
            height=height,
            width=width,
            batch_size=BATCH_SIZE * self.share.num_workers,
            share=replace(self.share, devices=1),
        )

    def _folder(self, backbone: str, key: FeatureKey) -> Path:
        return self.place.run_dir / FOLDER / f"{backbone}-{self.space}-{key.short()}"
