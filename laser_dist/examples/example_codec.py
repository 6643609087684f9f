"""Decodes the serialized examples of a prepared dataset."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from laser_dist.video.frames import resize_rgb
from laser_dist.video.images import open_image

RAW, LEVELS = "raw", "jnd_levels"
IMAGES = (RAW, "jnd1", "jnd2", "jnd3")  # in the order of `jnd_levels`, after the raw one


def num_with(target: str, levels: np.ndarray) -> int:
    """Return how many examples, with levels [N, 3], have the frame `target`; all have a raw one."""
    return len(rows_with(target, levels))


def rows_with(target: str, levels: np.ndarray) -> np.ndarray:
    """Return which examples, with levels [N, 3], have the frame `target`, in stored order."""
    if target == RAW:
        return np.arange(len(levels))
    return np.flatnonzero(np.isfinite(levels[:, level_index(target)]))


def level_index(target: str) -> int:
    """Return the index in `jnd_levels` of "jnd1", "jnd2" or "jnd3"."""
    return IMAGES.index(target) - 1


def features_of(record: bytes) -> Any:
    """Parse an example that TFDS serialized: name to a list of bytes or numbers."""
    return tf.train.Example.FromString(record).features.feature


def encoded_images(record: bytes, names: Sequence[str]) -> list[bytes]:
    """Return some images of an example, encoded as stored."""
    features = features_of(record)
    return [features[name].bytes_list.value[0] for name in names]


def decode_frame(image: bytes, height: int, width: int) -> np.ndarray:
    """Decode an image to a frame [height, width, 3] uint8, RGB; resize it if its size differs.

    Pillow releases Python's lock, so threads decode in parallel; TensorFlow's eager decoder was no
    faster on two threads than on one.
    """
    with open_image(image, "an image of the dataset") as opened:
        frame = np.asarray(opened.convert("RGB"))
    if frame.shape[:2] == (height, width):
        return frame
    return resize_rgb(frame, width=width, height=height)


def as_float(frames: Any, mirrored: Any = None) -> Any:
    """Return frames as models take them, in a TensorFlow graph.

    Args:
      frames: [b, H, W, 3] uint8.
      mirrored: [b] bool: which frames to mirror left to right; None mirrors none.

    Returns:
      [b, H, W, 3] float32, 0..255.
    """
    frames = tf.cast(frames, tf.float32)
    if mirrored is None:
        return frames
    return tf.where(mirrored[:, None, None, None], tf.reverse(frames, axis=[2]), frames)
