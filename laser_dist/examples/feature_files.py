"""Files of cached features: each worker writes one part, and all workers read them row by row.

`FOLDER/BACKBONE-SPACE-KEY/SPLIT-VERSION-00000-of-00002.npy` is one worker's part of one backbone's
features of one split, float16 [n, h, w, c]. The key depends on the model and the data. `SPLIT.json`
is written when every part is complete; it holds the number of parts.
"""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.examples.example_codec import as_float
from laser_dist.examples.frame_pairs import FramePairs
from laser_dist.examples.memory_maps import gather, new_map
from laser_dist.examples.read_ahead import ReadAhead
from laser_dist.storage import write_text

BATCH_SIZE = 8  # frames per worker and step


@dataclass(frozen=True)
class FeatureFiles:
    """One backbone's features of one version of a split.

    Attributes:
      folder: folder of the backbone's features.
      split: name of the split, such as "train".
      version: 0 for frames as stored, 1 for mirrored ones.
      num_parts: number of workers that wrote them.
    """

    folder: Path
    split: str
    version: int
    num_parts: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (h, w, c) of the features of an example."""
        return self._parts[0].shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Type of the features."""
        return self._parts[0].dtype

    def read(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copy the features of examples, by stored positions [n], to [n, h, w, c]."""
        if self.num_parts == 1:
            gather(self._parts[0], indices, out)
            return
        batches, places = np.divmod(indices, BATCH_SIZE * self.num_parts)
        parts, offsets = np.divmod(places, BATCH_SIZE)
        for part in np.unique(parts):
            chosen = parts == part
            out[chosen] = self._parts[part][batches[chosen] * BATCH_SIZE + offsets[chosen]]

    def part_path(self, index: int) -> Path:
        """Return the path of a worker's part."""
        name = f"{self.split}-{self.version}-{index:05d}-of-{self.num_parts:05d}.npy"
        return self.folder / name

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        # Mapped, not read: the system caches what fits, and frees it when memory is short.
        return [np.load(self.part_path(i), mmap_mode="r") for i in range(self.num_parts)]


@dataclass(frozen=True)
class FeatureKey:
    """Everything that the features of a split depend on.

    Attributes:
      model: hash of the backbone's file.
      data: fingerprint of the dataset.
      size: (width, height) of the frames, in pixels.
      num_examples: number of examples of the split.
      versions: number of versions, 1 or 2.
    """

    model: str
    data: str
    size: tuple[int, int]
    num_examples: int
    versions: int

    def short(self) -> str:
        """Return a short hash for a folder's name, the same for all splits."""
        about = json.dumps([self.model, self.data, *self.size])
        return hashlib.sha256(about.encode()).hexdigest()[:12]


def num_parts_of(folder: Path, split: str, key: FeatureKey, names: Collection[str]) -> int:
    """Return the number of parts of complete features with this key; 0 if there are none.

    Args:
      folder: folder with `SPLIT.json`, if there is one.
      split: name of the split, such as "train".
      key: key of the wanted features.
      names: names of the files in the folder.
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


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen backbone's model from frames to features [b, h, w, c], once on each device.

    Attributes:
      models: equal models, one for each device of this worker.
      devices: name of each device; None is TensorFlow's default.
    """

    models: Sequence[keras.Model]
    devices: Sequence[str | None] = (None,)

    @property
    def model(self) -> keras.Model:
        """The first model, for shapes."""
        return self.models[0]


def write_parts(
    extractors: Mapping[Path, Extractor],
    frames: FramePairs,
    split: str,
    *,
    versions: int,
    heartbeat: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Compute and write this worker's part of a split's features, a batch per device at a time.

    Args:
      extractors: extractors by the folder of their features, which all workers share, all with the
        same devices. The frames are read once for all of them.
      frames: the split, unshuffled, in global batches of `BATCH_SIZE` per worker, independent of
        the number of devices.
      split: name of the split.
      versions: 1 for frames as stored, 2 to add mirrored ones.
      heartbeat: called after each batch.

    Returns:
      The paths of the written files.

    Raises:
      FloatingPointError: a feature is too large for float16.
    """
    writers = [_Writer(folder, one, frames, split, versions) for folder, one in extractors.items()]
    num_devices = len(next(iter(extractors.values())).devices)
    done, turn = 0, cycle(range(num_devices))
    running: deque[Future[None]] = deque()

    def extract(present: np.ndarray, start: int, device: int) -> None:
        for writer in writers:
            writer.put([present, present[:, :, ::-1]][:versions], start, device)

    with ThreadPoolExecutor(num_devices) as pool:
        for batch in ReadAhead(frames.epoch(0)):
            present = batch.inputs[batch.weights > 0]
            if len(present):
                running.append(pool.submit(extract, present, done, next(turn)))
                done += len(present)
            if len(running) > num_devices:
                running.popleft().result()
            heartbeat()
        for each in running:
            each.result()
            heartbeat()
    return [path for writer in writers for path in writer.finish()]


class _Writer:
    """Writes one worker's part of one backbone's features, a file per version."""

    def __init__(
        self, folder: Path, extractor: Extractor, frames: FramePairs, split: str, versions: int
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shard = frames.shard
        # An empty file cannot be mapped.
        shape = (max(_num_own(frames), 1), *extractor.model.output_shape[1:])
        files = [FeatureFiles(folder, split, v, shard.num_workers) for v in range(versions)]
        self._finals = [each.part_path(shard.index) for each in files]
        self._unfinished = [path.with_suffix(".unfinished") for path in self._finals]
        self._parts = [new_map(path, shape, np.float16) for path in self._unfinished]
        self._extract = [
            tf.function(
                lambda raw, model=model: model(as_float(raw), training=False), autograph=False
            )
            for model in extractor.models
        ]
        self._devices = extractor.devices
        self._name = folder.name

    def put(self, views: Sequence[np.ndarray], start: int, device: int) -> None:
        """Compute the features of the same frames in each version, and write them from a row on."""
        for part, view in zip(self._parts, views, strict=True):
            with tf.device(self._devices[device]):
                features = self._extract[device](view).numpy()
            if not np.abs(features).max() <= np.finfo(np.float16).max:
                raise FloatingPointError(
                    f"A feature of {self._name} is {np.abs(features).max()}, too large for "
                    "float16. Train with --no-feature-cache."
                )
            part[start : start + len(view)] = features

    def finish(self) -> list[Path]:
        """Rename the files to their final names; return these."""
        for part, path, final in zip(self._parts, self._unfinished, self._finals, strict=True):
            part.flush()
            os.replace(path, final)
        return self._finals


def finish_files(folder: Path, split: str, key: FeatureKey, num_parts: int) -> Path:
    """Write `SPLIT.json`; the chief calls this when every worker has written its part.

    Returns:
      The path of the file.
    """
    path = folder / f"{split}.json"
    write_text(path, json.dumps({"key": asdict(key), "num_parts": num_parts}, indent=2))
    return path


def num_bytes(extractors: Iterable[keras.Model], count: int, versions: int) -> int:
    """Return the size of all extractors' files for a split of `count` examples."""
    shapes: Sequence[Any] = [extractor.output_shape[1:] for extractor in extractors]
    return sum(2 * math.prod(shape) for shape in shapes) * count * versions


def _num_own(frames: FramePairs) -> int:
    """Return the number of the split's examples that this worker reads."""
    size = frames.batch_size
    counts = [min(size, len(frames.rows) - start) for start in range(0, len(frames.rows), size)]
    return sum(int(frames.shard.slice_of(count, size).weights.sum()) for count in counts)
