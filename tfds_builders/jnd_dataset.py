"""What every dataset of judged frame pairs has in common: features, metadata, examples."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from beam_pipelines.elements import MeasuredSource

NUM_LEVELS = 3


def pair_features(*, height: int, width: int, scale: str) -> tfds.features.FeaturesDict:
    """Features of a frame-pair example.

    Args:
      height: of the frames, in pixels.
      width: of the frames, in pixels.
      scale: what levels count in, such as "QP".
    """

    def frame(doc: str) -> tfds.features.Image:
        return tfds.features.Image(shape=(height, width, 3), encoding_format="png", doc=doc)

    def levels(doc: str) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(NUM_LEVELS,), dtype=np.float32, doc=doc)

    return tfds.features.FeaturesDict(
        {
            "source_id": tfds.features.Text(doc="Clip's name; splits are by source."),
            "group_id": tfds.features.Text(doc="What clips of one footage share."),
            "frame_index": tfds.features.Scalar(np.int64, doc="Frame's number in the clip."),
            "timestamp_s": tfds.features.Scalar(np.float32, doc="Frame's time in the clip."),
            "raw": frame("Reference frame, RGB."),
            "jnd1": frame("The frame coded at JND1, RGB."),
            "jnd2": frame("The frame coded at JND2, RGB."),
            "jnd3": frame("The frame coded at JND3, RGB."),
            "jnd_levels": levels(f"JND1..3 in {scale}, as the label table has them."),
            "jnd_level_means": levels(f"Mean of the viewers' samples per level, in {scale}."),
            # Three of them, but no length is given: TFDS cannot read a ragged feature that has one.
            "viewer_samples": tfds.features.Sequence(
                tfds.features.Sequence(tfds.features.Scalar(np.int64)),
                doc=f"First {scale} that each viewer noticed, per level; order is no identity.",
            ),
            "level_origins": tfds.features.Sequence(
                tfds.features.Text(),
                length=NUM_LEVELS,
                doc="Per level: 'file' (the dataset's own coded clip) or 'encoded' (made anew).",
            ),
            "psnr_db": levels("PSNR of each level's frame against the raw one, RGB."),
            "spatial_information": tfds.features.Scalar(
                np.float32, doc="SI of the whole reference clip (ITU-T P.910)."
            ),
            "temporal_information": tfds.features.Scalar(
                np.float32, doc="TI of the whole reference clip (ITU-T P.910)."
            ),
        }
    )


def examples_of(measured: MeasuredSource) -> Iterable[tuple[str, dict[str, Any]]]:
    """Keyed examples of one source, frames as lossless PNG."""
    source = measured.source
    of_source = {
        "source_id": source.source_id,
        "group_id": source.group_id,
        "jnd_levels": np.array([level.jnd for level in source.labels.levels], np.float32),
        "jnd_level_means": np.array([level.mean for level in source.labels.levels], np.float32),
        "viewer_samples": [list(level.samples) for level in source.labels.levels],
        "level_origins": list(measured.level_origins),
        "spatial_information": np.float32(measured.spatial_information),
        "temporal_information": np.float32(measured.temporal_information),
    }
    for pair in measured.pairs:
        frames = {f"jnd{level + 1}": pair.levels[level] for level in range(NUM_LEVELS)}
        yield (
            f"{source.source_id}_{pair.frame_index:05d}",
            {
                **of_source,
                "frame_index": pair.frame_index,
                "timestamp_s": np.float32(pair.timestamp_s),
                "psnr_db": np.array(pair.psnr_db, np.float32),
                **{name: _png(frame) for name, frame in {"raw": pair.raw, **frames}.items()},
            },
        )


def _png(frame: np.ndarray) -> io.BytesIO:
    """Lossless, quick to write: a higher level saves 5 % of the bytes for 4 times the time."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="png", compress_level=1)
    file.seek(0)
    return file
