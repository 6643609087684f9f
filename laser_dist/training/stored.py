"""A prepared dataset as it is stored: examples in order, images still encoded."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from laser_dist.video.frames import resize_rgb

RAW, LEVELS = "raw", "jnd_levels"
IMAGES = (RAW, "jnd1", "jnd2", "jnd3")  # in the order of `jnd_levels`, after the raw one


def num_examples(dataset_dir: Path, split: str) -> int:
    """Examples of a split, from the dataset's metadata."""
    return int(tfds.builder_from_directory(dataset_dir).info.splits[split].num_examples)


def num_with(target: str, levels: np.ndarray) -> int:
    """How many examples, of levels [N, 3], have the frame `target`; all have a raw one."""
    return len(levels) if target == RAW else int(np.isfinite(levels[:, level_index(target)]).sum())


def level_index(target: str) -> int:
    """Where in `jnd_levels` the level of "jnd1", "jnd2" or "jnd3" stands."""
    return IMAGES.index(target) - 1


def encoded(dataset_dir: Path, split: str, target: str) -> tf.data.Dataset:
    """Levels, raw frames, and those of `target`, of the examples that have it."""
    images = sorted({RAW, target})
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    dataset = partial_dataset(dataset_dir, split, dict.fromkeys([*images, LEVELS], True), decoders)
    if target == RAW:
        return dataset
    index = level_index(target)
    return dataset.filter(lambda row: tf.math.is_finite(row[LEVELS][index]))


def partial_dataset(
    dataset_dir: Path, split: str, features: dict[str, bool], decoders: dict[str, Any]
) -> tf.data.Dataset:
    """Some features of a split's examples, in stored order."""
    return tfds.builder_from_directory(dataset_dir).as_dataset(
        split=split,  # pyright: ignore[reportCallIssue]: the decorated method hides its signature
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(features, decoders=decoders),
        # One shard after the other: by default TFDS reads 16 by turns, and then the stored order,
        # from which batches follow, would not be the shards' own.
        read_config=tfds.ReadConfig(
            try_autocache=False, add_tfds_id=False, interleave_cycle_length=1
        ),
    )


def decode_frames(images: Any, height: int, width: int) -> Any:
    """Encoded images [b] to frames [b, height, width, 3] float32, RGB in 0..255.

    Those of another size are resized as everyone does.
    """
    return tf.map_fn(
        lambda image: _frame(image, height, width), images, fn_output_signature=tf.float32
    )


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without TensorFlow's tuning: its thread can take 10 s to end with an epoch."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def sample_frames(
    dataset_dir: Path, split: str, most: int, *, height: int, width: int
) -> np.ndarray:
    """Raw frames spread evenly over a split, the same ones on every worker.

    Args:
      dataset_dir: of the prepared dataset.
      split: such as "train".
      most: number of frames, or the split's if that has fewer.
      height: of the frames given, in pixels.
      width: of the frames given, in pixels.

    Returns:
      [N, height, width, 3] float32, RGB in 0..255.
    """
    total = num_examples(dataset_dir, split)
    chosen = {index * total // most for index in range(most)}
    rows = enumerate(encoded(dataset_dir, split, RAW))
    frames = [_frame(row[RAW], height, width) for index, row in rows if index in chosen]
    return np.stack([frame.numpy() for frame in frames])


def _frame(encoded_image: Any, height: int, width: int) -> Any:
    def fitted(frame: np.ndarray) -> np.ndarray:
        if frame.shape[:2] == (height, width):
            return frame
        return resize_rgb(frame, width=width, height=height)

    frame = tf.io.decode_png(encoded_image, channels=3)
    frame = tf.numpy_function(fitted, [frame], tf.uint8, stateful=False)
    return tf.ensure_shape(tf.cast(frame, tf.float32), [height, width, 3])
