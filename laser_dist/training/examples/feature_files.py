"""Files of features: written by all workers, a part each, and read by all, row by row.

`FOLDER/BACKBONE-SPACE-KEY/SPLIT-VERSION-00000-of-00002.npy` is one worker's part of what one
backbone gives for one split, float16 [n, h, w, c]; the key is that of model and data. `SPLIT.json`
next to it is written when every part is there, and says how many there are.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.storage import write_text
from laser_dist.training.examples.frame_pairs import FramePairs

BATCH_SIZE = 8  # frames of one worker's step
STORED, MIRRORED = 0, 1


@dataclass(frozen=True)
class FeatureFiles:
    """What one backbone gives for one version of a split.

    Attributes:
      folder: of the backbone's features.
      split: such as "train".
      version: `STORED` or `MIRRORED`.
      num_parts: workers that wrote them.
    """

    folder: Path
    split: str
    version: int
    num_parts: int

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """[n, h, w, c] float16 of some examples, by their places [n] in the stored order."""
        batches, places = np.divmod(indices, BATCH_SIZE * self.num_parts)
        parts, offsets = np.divmod(places, BATCH_SIZE)
        found = np.empty((len(indices), *self._parts[0].shape[1:]), np.float16)
        for part in np.unique(parts):
            chosen = parts == part
            found[chosen] = self._parts[part][batches[chosen] * BATCH_SIZE + offsets[chosen]]
        return found

    def part_path(self, index: int) -> Path:
        """Where a worker's part lies."""
        name = f"{self.split}-{self.version}-{index:05d}-of-{self.num_parts:05d}.npy"
        return self.folder / name

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        # Mapped, not read: the system keeps of them what fits, and frees it where memory is short.
        return [np.load(self.part_path(i), mmap_mode="r") for i in range(self.num_parts)]


@dataclass(frozen=True)
class FeatureKey:
    """What features follow from.

    Attributes:
      model: hash of the backbone's file.
      data: fingerprint of the dataset.
      size: (width, height) of the frames.
      num_examples: of the split.
      versions: how many.
    """

    model: str
    data: str
    size: tuple[int, int]
    num_examples: int
    versions: int

    def short(self) -> str:
        """For a folder's name: of both splits the same, as it leaves out what differs in them."""
        about = json.dumps([self.model, self.data, *self.size])
        return hashlib.sha256(about.encode()).hexdigest()[:12]


def num_parts_of(folder: Path, split: str, key: FeatureKey, names: Collection[str]) -> int:
    """In how many parts the features of that key are there; 0 where they are not, or not whole.

    Args:
      folder: that has `SPLIT.json`, if there is one.
      split: such as "train".
      key: of what is looked for.
      names: of the files that are there.
    """
    try:
        about = json.loads((folder / f"{split}.json").read_text())
    except (OSError, ValueError):
        return 0
    if about.get("key") != json.loads(json.dumps(asdict(key))):
        return 0
    num_parts = int(about["num_parts"])
    files = [FeatureFiles(folder, split, version, num_parts) for version in range(key.versions)]
    paths = [each.part_path(part) for each in files for part in range(num_parts)]
    return num_parts if {path.name for path in paths} <= set(names) else 0


def write_parts(
    extractors: Mapping[Path, keras.Model],
    frames: FramePairs,
    split: str,
    *,
    versions: int,
    heartbeat: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Computes this worker's part of a split's features; memory holds a batch of them.

    Args:
      extractors: frozen ones, by the folder of their features, which all workers share; frames in,
        features [b, h, w, c] out. The frames are read once for all of them.
      frames: of the split, unshuffled, in global batches of `BATCH_SIZE` for each worker, whatever
        the number of its devices.
      split: its name.
      versions: 1 for the frames as stored, 2 to add the mirrored ones.
      heartbeat: called after each batch.

    Returns:
      The files.

    Raises:
      FloatingPointError: features that float16 cannot hold.
    """
    writers = [_Writer(folder, one, frames, split, versions) for folder, one in extractors.items()]
    for batch in frames.epoch(0):
        present = batch.inputs[batch.weights > 0]
        if len(present):
            for writer in writers:
                writer.add([present, present[:, :, ::-1]][:versions])
        heartbeat()
    return [path for writer in writers for path in writer.finish()]


class _Writer:
    """One worker's part of one backbone's features, a file for each version."""

    def __init__(
        self, folder: Path, extractor: keras.Model, frames: FramePairs, split: str, versions: int
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shard = frames.shard
        # An empty file cannot be mapped.
        shape = (max(_num_own(frames), 1), *extractor.output_shape[1:])
        files = [FeatureFiles(folder, split, v, shard.num_workers) for v in range(versions)]
        self._finals = [each.part_path(shard.index) for each in files]
        self._unfinished = [path.with_suffix(".unfinished") for path in self._finals]
        self._parts = [_new_file(path, shape) for path in self._unfinished]
        self._extract = tf.function(lambda raw: extractor(raw, training=False))
        self._name = folder.name
        self._done = 0

    def add(self, views: Sequence[np.ndarray]) -> None:
        """Appends features of the same frames in each version."""
        count = len(views[0])
        for part, view in zip(self._parts, views, strict=True):
            features = self._extract(view).numpy()
            if not np.abs(features).max() <= np.finfo(np.float16).max:
                raise FloatingPointError(
                    f"Features of {self._name}: expected within float16's range, got "
                    f"{np.abs(features).max()}. Train with --no-feature-cache."
                )
            part[self._done : self._done + count] = features
        self._done += count

    def finish(self) -> list[Path]:
        """Gives the files their names, and tells them."""
        for part, path, final in zip(self._parts, self._unfinished, self._finals, strict=True):
            part.flush()
            os.replace(path, final)
        return self._finals


def finish_files(folder: Path, split: str, key: FeatureKey, num_parts: int) -> Path:
    """Says that all parts are there; the chief calls it when every worker has written its own.

    Returns:
      The file that says so.
    """
    path = folder / f"{split}.json"
    write_text(path, json.dumps({"key": asdict(key), "num_parts": num_parts}, indent=2))
    return path


def num_bytes(extractors: Iterable[keras.Model], count: int, versions: int) -> int:
    """Size of the files of all extractors for a split of `count` examples."""
    shapes: Sequence[Any] = [extractor.output_shape[1:] for extractor in extractors]
    return sum(2 * math.prod(shape) for shape in shapes) * count * versions


def _new_file(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A mapped file that has all its room on the disk: else a full one would kill the process."""
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


def _num_own(frames: FramePairs) -> int:
    """How many of the split's examples are this worker's."""
    size = frames.batch_size
    counts = [min(size, len(frames.rows) - start) for start in range(0, len(frames.rows), size)]
    return sum(int(frames.shard.slice_of(count, size).weights.sum()) for count in counts)
