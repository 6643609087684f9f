"""Frames of examples by number: read and decoded by a few threads, each example once."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from laser_dist.training.examples.example_codec import decode_frame, encoded_images
from laser_dist.training.examples.records import Records

_DECODERS = 2  # threads: beside the step, which takes the processor's other cores


@dataclass(frozen=True, eq=False)
class FrameReader:
    """Reads frames of some images of each example.

    Attributes:
      records: of the split.
      images: names, such as ("raw", "jnd1").
      height: of the frames given, in pixels.
      width: of the frames given, in pixels.
      pool: that decodes.
    """

    records: Records
    images: Sequence[str]
    height: int
    width: int
    pool: ThreadPoolExecutor

    def frames(self, rows: np.ndarray) -> list[np.ndarray]:
        """Frames of examples by their places [n] in the stored order; one may come repeatedly.

        Returns:
          Of each image [n, height, width, 3] float32, RGB in 0..255.
        """
        wanted, back = np.unique(rows, return_inverse=True)
        decoded = list(self.pool.map(self._decoded, self.records.read(wanted)))
        return [
            np.stack(of_image).astype(np.float32)[back] for of_image in zip(*decoded, strict=True)
        ]

    def _decoded(self, record: bytes) -> list[np.ndarray]:
        images = encoded_images(record, self.images)
        return [decode_frame(image, self.height, self.width) for image in images]


@contextmanager
def frame_reader(
    records: Records, images: Sequence[str], *, height: int, width: int
) -> Iterator[FrameReader]:
    """A reader with threads of its own, which end with the block."""
    with ThreadPoolExecutor(_DECODERS, "decode") as pool:
        yield FrameReader(records, images, height, width, pool)
