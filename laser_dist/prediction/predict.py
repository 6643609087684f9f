"""Predict the JND levels of frames or of a complete clip.

With a model that predicts a spread for each level, also the quantizers for any other satisfied-user
ratio (SUR).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laser_dist.errors import UserError
from laser_dist.jnd.normal_sur import normal_level
from laser_dist.jnd.scale import LEVEL_SUR
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.predictor import Predictor, run_in_batches, unusable
from laser_dist.video.codec import sample_frames


@dataclass(frozen=True, eq=False, kw_only=True)
class ClipPrediction:
    """The levels of one clip.

    Attributes:
      spec: meaning of the model's output; `spec.levels` are the L levels of all fields below.
      levels: [L] float32, mean over the sampled frames, on the scale of the training data; neither
        rounded nor forced to ascend.
      spreads: [L] float32, mean over the sampled frames of the standard deviation of the viewers'
        samples; None if the model does not predict it.
      levels_per_frame: [N, L] float32, the levels of each sampled frame.
      timestamps_s: [N] time of each sampled frame in the clip.
      sur: targeted satisfied-user ratio.
      levels_at_sur: [L] float64, where the SUR is `sur`; at 0.75 these are `levels`.
      quantizers: [L] int, `levels_at_sur` rounded by `Scale.quantizer_at`, for an
        encoder.
    """

    spec: PredictorSpec
    levels: np.ndarray
    spreads: np.ndarray | None
    levels_per_frame: np.ndarray
    timestamps_s: tuple[float, ...]
    sur: float
    levels_at_sur: np.ndarray
    quantizers: np.ndarray


def predict_frames(predictor: Predictor, frames: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
    """Predict the levels of single frames.

    Args:
      predictor: a loaded predictor.
      frames: uint8 [N, H, W, 3], RGB, of the predictor's size.
      batch_size: frames per call of the model; affects memory, not the result.

    Returns:
      float32 [N, L], or [N, L, 2] of levels and spreads.

    Raises:
      ValueError: the frames have another shape or dtype.
      UserError: the model predicts NaN or infinity, or a spread that is not above 0.
    """
    expected = (predictor.height, predictor.width, 3)
    if frames.dtype != np.uint8 or frames.shape[1:] != expected:
        raise ValueError(
            f"frames must be uint8 [N, {predictor.height}, {predictor.width}, 3],"
            f" got {frames.dtype} {frames.shape}"
        )
    if len(frames) == 0:
        return np.zeros((0, *predictor.spec.output_shape), np.float32)
    predicted = run_in_batches(predictor.forward, frames, batch_size, predictor.origin)
    if predictor.spec.spread and predicted[..., 1].min() <= 0:
        raise unusable(predictor.origin, "a spread that is not above 0")
    return predicted


def predict_clip(
    predictor: Predictor, path: str | Path, num_frames: int = 8, *, sur: float = LEVEL_SUR
) -> ClipPrediction:
    """Predict the levels of a video or image of a supported format.

    Args:
      predictor: a loaded predictor.
      path: the clip; its frames are scaled, not cropped, to the predictor's size.
      num_frames: frames to sample evenly over the clip; fewer if it has fewer.
      sur: satisfied-user ratio to target, in (0, 1).

    Raises:
      UserError: the file is missing or not a readable video or image, or `sur` is not 0.75 for a
        predictor without spreads.
    """
    if sur != LEVEL_SUR and not predictor.spec.spread:
        raise UserError(
            f"This model only supports --sur {LEVEL_SUR}: it does not predict the spread of the"
            " viewers.",
            hint="Train one with `laser-jnd train --set head.spread=true`.",
        )
    sampled = sample_frames(
        Path(path), num_frames=num_frames, width=predictor.width, height=predictor.height
    )
    outputs = predict_frames(predictor, np.stack([frame.rgb for frame in sampled]))
    per_frame = outputs[..., 0] if predictor.spec.spread else outputs
    levels = per_frame.mean(axis=0)
    spreads = outputs[..., 1].mean(axis=0) if predictor.spec.spread else None
    at_sur = normal_level(levels, 0.0 if spreads is None else spreads, sur, scale=predictor.scale)
    return ClipPrediction(
        spec=predictor.spec,
        levels=levels,
        spreads=spreads,
        levels_per_frame=per_frame,
        timestamps_s=tuple(float(frame.timestamp_s) for frame in sampled),
        sur=sur,
        levels_at_sur=at_sur,
        quantizers=np.array([predictor.scale.quantizer_at(level) for level in at_sur]),
    )
