"""Frames of examples by number, read and decoded by a few threads."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from laser_dist.training.examples.example_codec import decode_frame, encoded_images
from laser_dist.training.examples.records import Records

_DECODERS = 2  # threads: the step needs the other cores


@dataclass(frozen=True, eq=False)
class FrameReader:
    """Reads frames of some images of each example.

    Attributes:
      records: records of the split.
      images: names of the images, such as ("raw", "jnd1").
      height: height of the returned frames in pixels.
      width: width of the returned frames in pixels.
      pool: threads that decode.
    """

    records: Records
    images: Sequence[str]
    height: int
    width: int
    pool: ThreadPoolExecutor

    def frames(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return frames of examples by their positions [n] in the stored order, with repeats.

        Returns:
          For each image [n, height, width, 3] float32, RGB in 0..255.
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
    """Yield a reader whose threads end with the block."""
    with ThreadPoolExecutor(_DECODERS, "decode") as pool:
        yield FrameReader(records, images, height, width, pool)
