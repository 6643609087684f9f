"""Features of frozen backbones, kept beside the run: computed once, by all workers together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from laser_dist.training.data import FramePairs
from laser_dist.training.feature_files import (
    BATCH_SIZE,
    FeatureFiles,
    FeatureKey,
    files_of,
    finish_files,
    forget_files,
    num_bytes,
    write_parts,
)
from laser_dist.training.features import KeptFeatures
from laser_dist.training.loop import Place
from laser_dist.training.order import Share
from laser_dist.training.records import Records
from laser_dist.training.reuse import file_hash, model_path
from laser_dist.training.stored import RAW
from laser_dist.training.together import wait_for_all

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
        found = {name: files_of(self._folder(name), split, keys[name]) for name in extractors}
        missing = {name: extractors[name] for name in extractors if found[name] is None}
        if self.place.is_chief:
            for name in missing:  # until the new parts are whole nobody may take them for the old
                forget_files(self._folder(name), split)
        wait_for_all(self.place.strategy)
        if missing:
            size = num_bytes(missing.values(), total, versions) / 1e6
            text = f"features of {split}: {total} frames, {size:,.0f} MB"
            self.place.log.event("note", text=text)
            frames = self._frames(split, next(iter(missing.values())))
            folders = {self._folder(name): extractor for name, extractor in missing.items()}
            write_parts(folders, frames, split, versions=versions)
        wait_for_all(self.place.strategy)
        for name in missing:
            if self.place.is_chief:
                finish_files(self._folder(name), split, keys[name], self.share.num_workers)
            found[name] = [
                FeatureFiles(self._folder(name), split, version, self.share.num_workers)
                for version in range(versions)
            ]
        return KeptFeatures([files for files in found.values() if files is not None])

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

    def _folder(self, backbone: str) -> Path:
        return self.place.run_dir / FOLDER / f"{backbone}-{self.space}"
