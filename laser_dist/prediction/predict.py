"""Load a trained predictor, and predict the JND levels of frames or of a complete clip.

With a model that predicts a spread for each level, also the quantizers for any other satisfied-user
ratio (SUR).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from laser_dist.errors import UserError
from laser_dist.jnd.normal_sur import normal_level
from laser_dist.jnd.scale import LEVEL_SUR, Scale, scale_named
from laser_dist.models.predictor_spec import PredictorSpec, predictor_spec_of
from laser_dist.models.predictors import load_saved_model
from laser_dist.video.codec import sample_frames
from laser_dist.video.containers import MAX_PIXELS

_LARGEST = 1e30


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained model and the properties of its input and output.

    Attributes:
      model: raw frames [B, H, W, 3] float32 in 0..255, RGB, to levels [B, L], or to levels and
        spreads [B, L, 2].
      width: frame width in pixels.
      height: frame height in pixels.
      spec: meaning of the output: the L levels, their scale, with or without spreads.
      scale: scale of the levels.
      origin: name of the model in errors, such as its file.
    """

    model: keras.Model
    width: int
    height: int
    spec: PredictorSpec
    scale: Scale
    origin: str = "The model"


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


def load_predictor(path: str | Path) -> Predictor:
    """Load the predictor of a finished run, or of a model file.

    Args:
      path: a run folder with `models/predictor.keras`, or a `.keras` file.

    Raises:
      UserError: there is no finished model, or the file is not a predictor.
    """
    path = Path(path)
    file = path / "models" / "predictor.keras" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UserError(
            f"{path} has no finished model (models/predictor.keras).",
            hint=f"Resume its training with `laser-jnd train --resume {path}`.",
        )
    model = load_saved_model(file, is_trusted=path.is_dir())
    return from_model(model, origin=str(file))


def from_model(model: keras.Model, *, origin: str = "The model") -> Predictor:
    """Return a model as a predictor, after checking its spec and shapes.

    Args:
      model: from `models.predictors.build_predictor`.
      origin: name of the model in errors, such as its file.

    Raises:
      UserError: the model has no spec, or does not map RGB frames of a fixed size to the output
        of its spec.
    """
    try:
        spec = predictor_spec_of(model)
    except ValueError as error:
        raise UserError(
            f"{origin} is not a predictor of this version of laser-jnd.",
            hint="Name a run, or the models/predictor.keras of one.",
        ) from error
    shapes = [tuple(each.shape[1:]) for each in (*model.inputs, *model.outputs)]
    frame = shapes[0]
    is_frame = len(frame) == 3 and None not in frame and frame[0] * frame[1] <= MAX_PIXELS
    if not is_frame or shapes != [(*frame[:2], 3), spec.output_shape]:
        raise UserError(
            f"{origin} maps {model.input_shape} to {model.output_shape}, not RGB frames to"
            f" {spec.output_shape}.",
            hint="Train again, or name another model.",
        )
    scale = scale_named(spec.scale, of=origin)
    return Predictor(model, int(frame[1]), int(frame[0]), spec, scale, origin)


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
    predicted = _forward(predictor.model, frames, batch_size, predictor.origin)
    if predictor.spec.spread and predicted[..., 1].min() <= 0:
        raise _unusable(predictor.origin, "a spread that is not above 0")
    return predicted


def predict_images(
    model: keras.Model,
    frames: np.ndarray,
    *,
    batch_size: int = 16,
    origin: str = "The model",
) -> np.ndarray:
    """Run a backbone on frames: reconstruct how they look at one JND level.

    Args:
      model: an autoencoder, raw frames [B, H, W, 3] in 0..255 to frames of the same shape.
      frames: uint8 [N, H, W, 3], RGB.
      batch_size: frames per call of the model.
      origin: name of the model in errors, such as its file.

    Returns:
      uint8 [N, H, W, 3], rounded and clipped to 0..255.

    Raises:
      UserError: the model predicts NaN or infinity.
    """
    images = _forward(model, frames, batch_size, origin)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


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


def _forward(model: keras.Model, frames: np.ndarray, batch_size: int, origin: str) -> np.ndarray:
    """Run the model in batches: only one batch at a time is float32."""
    batches = (frames[start : start + batch_size] for start in range(0, len(frames), batch_size))
    try:
        parts = [np.asarray(model.predict_on_batch(batch.astype(np.float32))) for batch in batches]
    except Exception as error:  # Keras has no common error for layers that do not fit together
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
            raise UserError(
                f"{origin} needs more memory than is free.",
                hint="Close other programs, or use a smaller model.",
            ) from error
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise _unusable(origin, f"nothing ({cause})") from error
    predicted = np.concatenate(parts).astype(np.float32)
    # Above it, sums over frames could overflow.
    if not (np.abs(predicted) <= _LARGEST).all():
        raise _unusable(origin, "numbers that are not finite")
    return predicted


def _unusable(origin: str, what: str) -> UserError:
    return UserError(f"{origin} predicts {what}.", hint="Train again, or name another model.")
