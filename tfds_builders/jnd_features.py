"""Features of a judged frame pair, and examples that have them."""

import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from beam_pipelines.dataset.frame_pairs import PairSettings
from beam_pipelines.dataset.measured_files import StoredPair
from beam_pipelines.elements import SourceMetadata
from laser_dist.jnd.scale import NUM_LEVELS, Scale


def pair_features(settings: PairSettings, scale: Scale) -> tfds.features.FeaturesDict:
    """Features of a frame-pair example.

    Args:
      settings: of the frames.
      scale: what levels count in.
    """
    shape = (settings.model_height, settings.model_width, 3)

    def frame(doc: str) -> tfds.features.Image:
        return tfds.features.Image(shape=shape, encoding_format="png", doc=doc)

    def levels(doc: str) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(NUM_LEVELS,), dtype=np.float32, doc=doc)

    return tfds.features.FeaturesDict(
        {
            "source_id": tfds.features.Text(doc="Clip's name; splits are by source."),
            "group_id": tfds.features.Text(doc="What clips of one footage share."),
            "frame_index": tfds.features.Scalar(np.int64, doc="Frame's number in the clip."),
            "timestamp_s": tfds.features.Scalar(np.float32, doc="Frame's time in the clip."),
            "raw": frame("Reference frame, RGB."),
            "jnd1": frame("The frame coded at JND1, RGB; black where that level is missing."),
            "jnd2": frame("The frame coded at JND2, RGB; black where that level is missing."),
            "jnd3": frame("The frame coded at JND3, RGB; black where that level is missing."),
            "jnd_levels": levels(f"JND1..3 in {scale.name}, NaN where a level is missing."),
            "jnd_level_means": levels(f"Mean of the viewers' samples per level, in {scale.name}."),
            # Three of them, but no length is given: TFDS cannot read a ragged feature that has one.
            "viewer_samples": tfds.features.Sequence(
                tfds.features.Sequence(tfds.features.Scalar(np.int64)),
                doc=f"{scale.name} that each viewer noticed, per level; order is no identity.",
            ),
            "level_origins": tfds.features.Sequence(
                tfds.features.Text(),
                length=NUM_LEVELS,
                doc="Per level: 'file' (the dataset's own coded clip), 'encoded' (made anew), or "
                "nothing where the level is missing.",
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


def example_of(facts: SourceMetadata, pair: StoredPair) -> dict[str, Any]:
    """One example, frames as the PNG they are."""
    return {
        "source_id": facts.source_id,
        "group_id": facts.group_id,
        "frame_index": pair.frame_index,
        "timestamp_s": np.float32(pair.timestamp_s),
        **{name: io.BytesIO(content) for name, content in pair.frames.items()},
        "jnd_levels": np.array([level.value for level in facts.levels], np.float32),
        "jnd_level_means": np.array([level.mean for level in facts.levels], np.float32),
        "viewer_samples": [list(level.samples) for level in facts.levels],
        "level_origins": list(facts.level_origins),
        "psnr_db": np.array(pair.psnr_db, np.float32),
        "spatial_information": np.float32(facts.spatial_information),
        "temporal_information": np.float32(facts.temporal_information),
    }
