"""Features of a labeled frame pair, and examples that have them."""

import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from beam_pipelines.dataset.measured_files import StoredPair
from beam_pipelines.elements import PairSettings, SourceMetadata
from laser_dist.jnd.scale import NUM_LEVELS, Scale


def pair_features(settings: PairSettings, scale: Scale) -> tfds.features.FeaturesDict:
    """Return the features of a frame-pair example.

    Args:
      settings: settings of the frames.
      scale: scale of the levels.
    """
    shape = (settings.model_height, settings.model_width, 3)

    def frame(doc: str) -> tfds.features.Image:
        return tfds.features.Image(shape=shape, encoding_format="png", doc=doc)

    def levels(doc: str) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(NUM_LEVELS,), dtype=np.float32, doc=doc)

    return tfds.features.FeaturesDict(
        {
            "source_id": tfds.features.Text(doc="Name of the source clip."),
            "group_id": tfds.features.Text(
                doc="Sources of similar content: one film, photograph or video."
            ),
            "frame_index": tfds.features.Scalar(
                np.int64, doc="Position of the frame in the clip, from 0."
            ),
            "timestamp_s": tfds.features.Scalar(
                np.float32, doc="Time of the frame in the clip, in seconds."
            ),
            "raw": frame("Reference frame, RGB."),
            "jnd1": frame("The frame encoded at JND1, RGB; black if the level is missing."),
            "jnd2": frame("The frame encoded at JND2, RGB; black if the level is missing."),
            "jnd3": frame("The frame encoded at JND3, RGB; black if the level is missing."),
            "jnd_levels": levels(f"JND1..3 in {scale.name}; NaN if a level is missing."),
            "jnd_level_means": levels(
                f"Mean of the viewers' samples per level, in {scale.name}; NaN if there are none."
            ),
            # Always three, but without a length: TFDS cannot read a ragged feature that has one.
            "viewer_samples": tfds.features.Sequence(
                tfds.features.Sequence(tfds.features.Scalar(np.int64)),
                doc=f"{scale.name} at which each viewer noticed a difference, per level.",
            ),
            "viewer_ids": tfds.features.Sequence(
                tfds.features.Sequence(tfds.features.Text()),
                doc="Name of the viewer of each of the samples; empty if the dataset has none.",
            ),
            "level_origins": tfds.features.Sequence(
                tfds.features.Text(),
                length=NUM_LEVELS,
                doc="Per level: 'file' (a clip of the dataset), 'encoded' (by the build), or empty "
                "if the level is missing.",
            ),
            "psnr_db": levels("RGB PSNR of each level's frame against the raw one, in dB."),
            "spatial_information": tfds.features.Scalar(
                np.float32, doc="SI of the complete reference clip (ITU-T P.910)."
            ),
            "temporal_information": tfds.features.Scalar(
                np.float32, doc="TI of the complete reference clip (ITU-T P.910)."
            ),
        }
    )


def example_of(source: SourceMetadata, pair: StoredPair) -> dict[str, Any]:
    """Return one example, with its frames as PNG."""
    return {
        "source_id": source.source_id,
        "group_id": source.group_id,
        "frame_index": pair.frame_index,
        "timestamp_s": np.float32(pair.timestamp_s),
        **{name: io.BytesIO(content) for name, content in pair.frames.items()},
        "jnd_levels": np.array([level.value for level in source.levels], np.float32),
        "jnd_level_means": np.array([level.mean for level in source.levels], np.float32),
        "viewer_samples": [list(level.samples) for level in source.levels],
        "viewer_ids": [list(level.viewers) for level in source.levels],
        "level_origins": list(source.level_origins),
        "psnr_db": np.array(pair.psnr_db, np.float32),
        "spatial_information": np.float32(source.spatial_information),
        "temporal_information": np.float32(source.temporal_information),
    }
