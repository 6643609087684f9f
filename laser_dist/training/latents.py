"""Features of frozen backbones, computed once: they are the same in every epoch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.training.data import FramePairs, Share

BATCH_SIZE = 8


def write_share(
    folder: Path, extractors: Sequence[keras.Model], frames: FramePairs, *, versions: int
) -> Path:
    """Computes this worker's share of a split's features and writes it as one file.

    Args:
      folder: shared by all workers.
      extractors: frozen, one per branch of the head; frames in, features [b, h, w, c] out.
      frames: of the split, unshuffled; its share is this worker's.
      versions: 1 for the frames as stored, 2 to add the mirrored ones.

    Returns:
      The file: float16 [V, n, branches, h, w, c], n examples of this share in stored order.
    """
    parts: list[np.ndarray] = []

    @tf.function
    def extract(raw: Any) -> Any:
        return tf.stack([extractor(raw, training=False) for extractor in extractors], axis=1)

    for batch in frames.epoch(0):
        present = batch.inputs[batch.weights > 0]
        if len(present):
            views = [present, present[:, :, ::-1]][:versions]
            parts.append(np.stack([extract(view).numpy().astype(np.float16) for view in views]))
    shapes = [extractor.output_shape[1:] for extractor in extractors]
    none = np.zeros((versions, 0, len(extractors), *shapes[0]), np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    final = _share_path(folder, frames.split, frames.share)
    unfinished = final.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.save(file, np.concatenate([none, *parts], axis=1))
    os.replace(unfinished, final)
    return final


def read_shares(folder: Path, split: str, batch_size: int, num_workers: int) -> np.ndarray:
    """All workers' shares, back in stored order.

    Args:
      folder: as given to `write_share`.
      split: such as "train".
      batch_size: global, of the frames that were walked.
      num_workers: how many shares there are.

    Returns:
      [V, N, branches, h, w, c] float16.
    """
    shares = [Share(index, num_workers) for index in range(num_workers)]
    parts = [np.load(_share_path(folder, split, share), mmap_mode="r") for share in shares]
    total = sum(part.shape[1] for part in parts)
    features = np.empty((parts[0].shape[0], total, *parts[0].shape[2:]), np.float16)
    for share, part in zip(shares, parts, strict=True):
        places = np.arange(total) % batch_size
        own = share.slice_of(batch_size)
        features[:, (places >= own.start) & (places < own.stop)] = part
    return features


def _share_path(folder: Path, split: str, share: Share) -> Path:
    return folder / f"{split}-{share.index:05d}-of-{share.num_workers:05d}.npy"
