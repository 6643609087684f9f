"""Frame pairs in global batches, of which each worker takes a distinct part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from laser_dist.examples.example_codec import RAW
from laser_dist.examples.frames import Frames
from laser_dist.examples.order import Batch, WorkerShard, num_steps, shuffled, step_rng


@dataclass(frozen=True, kw_only=True, eq=False)
class FramePairs:
    """Batches of raw frames and the frames to learn.

    A worker reads and decodes only its own part of each global batch. An epoch contains every
    example exactly once. Its global batches do not depend on the number of workers. `rows` leaves
    out examples without the target.

    Attributes:
      frames: frames of the split.
      target: "raw", "jnd1", "jnd2" or "jnd3".
      rows: [N] stored positions of the examples that have the target.
      batch_size: size of the global batch.
      shard: this worker's part of the batches.
      seed: seed of the order; None uses the stored order.
      flips: whether half of the pairs, drawn again in each epoch, are mirrored left to right.
      crop: side of random squares, drawn again in each epoch, that replace frames; None for full
        frames.
      crops_per_frame: number of squares per frame; an example then is a square.
      labels: [M, L] or [M, L, 3] of all stored examples, for the target's level; a batch's targets
        are then a list of two, frames and labels.
    """

    frames: Frames
    target: str
    rows: np.ndarray
    batch_size: int
    shard: WorkerShard = WorkerShard()
    seed: int | None = None
    flips: bool = False
    crop: int | None = None
    crops_per_frame: int = 1
    labels: np.ndarray | None = None

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch; the same `index` gives the same ones.

        Args:
          index: number of the epoch.
          start: number of global batches to skip, without reading them.
        """
        rows = self.rows[shuffled(len(self.rows), index, self.seed)]
        for step in range(start, num_steps(len(rows), self.batch_size)):
            of_batch = rows[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(of_batch, step_rng(self.seed, index, step))

    def _batch(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """Return this worker's part of the global batch of some stored examples."""
        part = self.shard.slice_of(len(rows), self.batch_size)
        own = rows[part.places]
        frames = self.frames.read((RAW,) if self.target == RAW else (RAW, self.target), own)
        # Drawn for the complete batch, so that it does not depend on the worker.
        mirrored = (rng.random(self.batch_size) < 0.5)[part.places] & self.flips
        copies = 1
        if self.crop is not None:
            copies = self.crops_per_frame
            corners = self._corners(rng, self.crop)[part.places]
            frames = [_squares(each, corners, self.crop) for each in frames]
        raw, target = frames[0], frames[-1]
        return Batch(
            raw,
            target if self.labels is None else [target, self.labels[own]],
            np.repeat(part.weights, copies),
            len(rows) * copies,
            mirrored=np.repeat(mirrored, copies),
        )

    def _corners(self, rng: np.random.Generator, side: int) -> np.ndarray:
        """Return [batch_size, crops_per_frame, 2]: row and column of each square's first pixel."""
        width, height = self.frames.size
        ends = [height - side + 1, width - side + 1]
        return rng.integers(ends, size=(self.batch_size, self.crops_per_frame, 2))


def _squares(frames: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Return [b * k, side, side, c]: k squares of each frame [b, H, W, c] at corners [b, k, 2]."""
    return np.stack(
        [
            frame[top : top + side, left : left + side]
            for frame, of_frame in zip(frames, corners, strict=True)
            for top, left in of_frame
        ]
    )
