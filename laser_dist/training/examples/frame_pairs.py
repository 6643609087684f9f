"""Frame pairs in global batches, of which each worker takes a distinct part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from laser_dist.training.examples.example_codec import RAW
from laser_dist.training.examples.frame_reader import FrameReader, frame_reader
from laser_dist.training.examples.order import Batch, WorkerShard, num_steps, shuffled, step_rng
from laser_dist.training.examples.records import Records


@dataclass(frozen=True, kw_only=True, eq=False)
class FramePairs:
    """Batches of a raw frame and the frame to learn.

    A worker reads and decodes its own part of each global batch and no more. An epoch sees every
    example exactly once, and the same global batches, whatever the number of workers. An example
    that lacks the target's level is none here: `rows` leaves it out before batches are made.

    Attributes:
      records: of the split.
      target: "raw", "jnd1", "jnd2" or "jnd3".
      rows: [N] which stored examples have the target.
      height: of the frames given, in pixels; the stored ones are resized if they differ.
      width: of the frames given, in pixels.
      batch_size: global.
      share: this worker's.
      seed: of the order; None keeps the stored order.
      flips: whether half of the pairs, drawn again in each epoch, are mirrored left to right.
      crop: side of random squares that are given in place of whole frames, drawn again in each
        epoch; None for whole frames.
      crops_per_frame: squares per frame; an example then is a square.
      labels: [M, L] or [M, L, 3] of all stored examples, of the target's level; then a batch's
        targets are a list of two, frames and labels.
    """

    records: Records
    target: str
    rows: np.ndarray
    height: int
    width: int
    batch_size: int
    shard: WorkerShard = WorkerShard()
    seed: int | None = None
    flips: bool = False
    crop: int | None = None
    crops_per_frame: int = 1
    labels: np.ndarray | None = None

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch; the same `index` gives the same ones.

        Args:
          index: of the epoch.
          start: global batches that are left out at its beginning; none of them is read.
        """
        rows = self.rows[shuffled(len(self.rows), index, self.seed)]
        images = (RAW,) if self.target == RAW else (RAW, self.target)
        with frame_reader(self.records, images, height=self.height, width=self.width) as reader:
            for step in range(start, num_steps(len(rows), self.batch_size)):
                of_batch = rows[step * self.batch_size : (step + 1) * self.batch_size]
                yield self._batch(reader, of_batch, step_rng(self.seed, index, step))

    def _batch(self, reader: FrameReader, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """This worker's part of the global batch of some stored examples."""
        part = self.shard.slice_of(len(rows), self.batch_size)
        own = rows[part.places]
        frames = reader.frames(own)
        # Drawn for all places of the batch: what one has does not depend on the worker.
        mirrored = rng.random(self.batch_size) < 0.5
        if self.flips:
            choose = mirrored[part.places, None, None, None]
            frames = [np.where(choose, each[:, :, ::-1], each) for each in frames]
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
        )

    def _corners(self, rng: np.random.Generator, side: int) -> np.ndarray:
        """[batch_size, crops_per_frame, 2]: row and column where each square begins."""
        ends = [self.height - side + 1, self.width - side + 1]
        return rng.integers(ends, size=(self.batch_size, self.crops_per_frame, 2))


def _squares(frames: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """[b * k, side, side, c] of frames [b, H, W, c], k squares of each at `corners` [b, k, 2]."""
    return np.stack(
        [
            frame[top : top + side, left : left + side]
            for frame, of_frame in zip(frames, corners, strict=True)
            for top, left in of_frame
        ]
    )
