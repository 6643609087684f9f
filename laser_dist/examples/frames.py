"""Frames of a split by the positions of their examples: decoded when they are read, or cached."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from laser_dist.examples.example_codec import RAW, decode_frame, encoded_images
from laser_dist.examples.memory_maps import aligned, gather
from laser_dist.examples.records import Records
from laser_dist.machine import num_cores


class Frames(Protocol):
    """Frames of one split, all of one size."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        ...

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def read(self, images: Sequence[str], rows: np.ndarray) -> list[np.ndarray]:
        """Return some images of some examples.

        Args:
          images: names of the images, such as ("raw", "jnd1").
          rows: [n] positions in the stored order, with repeats.

        Returns:
          For each name [n, height, width, 3] uint8, RGB.
        """
        ...


def sample_frames(frames: Frames, most: int) -> np.ndarray:
    """Return up to `most` raw frames spread evenly over a split, the same on every worker.

    Returns:
      [n, height, width, 3] float32, RGB in 0..255.
    """
    chosen = sorted({index * len(frames) // most for index in range(most)})
    return frames.read((RAW,), np.array(chosen))[0].astype(np.float32)


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """Frames that are decoded when they are read, by all cores.

    Attributes:
      records: records of the split.
      size: width and height in pixels; stored frames of another size are resized.
    """

    records: Records
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.records)

    def read(self, images: Sequence[str], rows: np.ndarray) -> list[np.ndarray]:
        """Return some images of some examples, as `Frames.read`."""
        wanted, back = np.unique(rows, return_inverse=True)
        records = self.records.read(wanted)
        decoded = self.pool.map(lambda record: self._decode(images, record), records)
        return [np.stack(of_image)[back] for of_image in zip(*decoded, strict=True)]

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that decode, one per core: the decoders release Python's lock."""
        return ThreadPoolExecutor(num_cores(), "decode")

    def _decode(self, images: Sequence[str], record: bytes) -> list[np.ndarray]:
        width, height = self.size
        return [decode_frame(image, height, width) for image in encoded_images(record, images)]


@dataclass(frozen=True, eq=False)
class CachedFrames:
    """Frames in memory-mapped files.

    Attributes:
      maps: [N, height, width, 3] uint8 of each image, by its name.
    """

    maps: Mapping[str, np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self._any.shape[1:3]
        return width, height

    def __len__(self) -> int:
        return len(self._any)

    def read(self, images: Sequence[str], rows: np.ndarray) -> list[np.ndarray]:
        """Return some images of some examples, as `Frames.read`."""
        found = aligned([(len(rows), *self._any.shape[1:])] * len(images), np.uint8)
        for name, out in zip(images, found, strict=True):
            gather(self.maps[name], rows, out)
        return found

    @property
    def _any(self) -> np.ndarray:
        return next(iter(self.maps.values()))
