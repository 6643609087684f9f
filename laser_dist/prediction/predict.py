"""Load a finished run and name the levels of frames or of a whole clip."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

# Loading a saved model finds our layers by their registered names, so they must be known first.
import laser_dist.models.answer  # noqa: F401
import laser_dist.models.layers  # noqa: F401
from laser_dist.errors import UserError
from laser_dist.jnd.scale import Scale, scale_named
from laser_dist.models.answer import answer_of
from laser_dist.video.codec import sample_frames

_NUM_LEVELS = 3


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained model with what must be known to feed it.

    Attributes:
      model: raw frames [B, H, W, 3] float32 in 0..255, RGB, to levels [B, 3].
      width: of the frames it takes.
      height: of the frames it takes.
      scale: what the levels count in.
    """

    model: keras.Model
    width: int
    height: int
    scale: Scale


@dataclass(frozen=True, eq=False)
class ClipPrediction:
    """The levels of one clip.

    Attributes:
      levels: [3] float32, mean over the sampled frames, on the scale the model was trained on.
        They are what the model says: neither rounded nor forced to ascend.
      per_frame: [N, 3] float32, the levels of each sampled frame.
      timestamps_s: when in the clip each of the N frames stands.
      quantisers: [3] int, `levels` rounded to the nearest whole number of the scale: what to hand
        to an encoder.
    """

    levels: np.ndarray
    per_frame: np.ndarray
    timestamps_s: tuple[float, ...]
    quantisers: np.ndarray


def load_predictor(path: Path, scale: Scale | None = None) -> Predictor:
    """Load a complete predictor: a finished run's, or a model file.

    Args:
      path: a run directory, holding `models/predictor.keras`, or such a file itself.
      scale: of the levels, as a run's configuration says; None takes what the model itself says
        (`laser_dist.models.answer`).

    Raises:
      UserError: no finished model there, or a file that is not such a model.
    """
    file = path / "models" / "predictor.keras" if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"model {path}",
            "a model file, or a run with a finished model in models/predictor.keras",
            "no such file",
            "Train first (laser-jnd train), or name another run.",
        )
    model = load_model(file)
    return from_model(model, scale or scale_of(model, origin=str(file)), origin=str(file))


def scale_of(model: keras.Model, *, origin: str) -> Scale:
    """What a model's levels count in, as the model itself says.

    Raises:
      UserError: it does not say, so it is no predictor.
    """
    try:
        answer = answer_of(model)
    except ValueError as error:
        raise UserError(
            f"model {origin}",
            "a predictor that says what it answers",
            f"another model, {model.name}",
            "Name a predictor.keras of a run, or what import-weights wrote.",
        ) from error
    return scale_named(answer.scale, of=f"model {origin}")


def load_model(path: Path) -> keras.Model:
    """Load one saved Keras model of ours; code inside the file is never run.

    Raises:
      UserError: no such file, or not a Keras model file.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"model {path}",
            "a whole Keras model file",
            str(error).splitlines()[0],
            "Train again, or name another run.",
        ) from error
    assert isinstance(model, keras.Model)  # what Keras saves in a .keras file of ours
    return model


def from_model(model: keras.Model, scale: Scale, *, origin: str = "model") -> Predictor:
    """Check a model's shapes and take it as a predictor.

    Args:
      model: raw frames to levels.
      scale: of the levels.
      origin: named in the error, for example the file the model came from.

    Raises:
      UserError: it does not map one batch of RGB frames of fixed size to three levels.
    """
    inputs, outputs = model.inputs, model.outputs
    shapes = f"{[i.shape for i in inputs]} to {[o.shape for o in outputs]}"
    frame = tuple(inputs[0].shape[1:])
    fits = len(inputs) == len(outputs) == 1 and len(frame) == 3 and None not in frame
    if not fits or frame[-1] != 3 or tuple(outputs[0].shape[1:]) != (_NUM_LEVELS,):
        raise UserError(
            f"predictor {origin}",
            "one input [B, H, W, 3] and one output [B, 3]",
            shapes,
            "Name a run whose variant predicts all three levels.",
        )
    return Predictor(model=model, width=int(frame[1]), height=int(frame[0]), scale=scale)


def predict_frames(predictor: Predictor, frames: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
    """Levels of single frames.

    Args:
      predictor: as loaded.
      frames: uint8 [N, H, W, 3], RGB, of exactly the predictor's size.
      batch_size: how many go through the model at once; changes the memory, not the answer.

    Returns:
      float32 [N, 3].

    Raises:
      ValueError: frames of another shape or type.
    """
    expected = (predictor.height, predictor.width, 3)
    if frames.dtype != np.uint8 or frames.shape[1:] != expected:
        raise ValueError(
            f"expected uint8 frames [N, {predictor.height}, {predictor.width}, 3],"
            f" got {frames.dtype} {frames.shape}"
        )
    if len(frames) == 0:
        return np.zeros((0, _NUM_LEVELS), np.float32)
    return _forward(predictor.model, frames, batch_size)


def predict_images(model: keras.Model, frames: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
    """What a backbone makes of frames: its idea of them at one JND level.

    Args:
      model: an autoencoder, raw frames [B, H, W, 3] in 0..255 to frames of the same shape.
      frames: uint8 [N, H, W, 3], RGB.
      batch_size: how many go through the model at once.

    Returns:
      uint8 [N, H, W, 3], rounded and clipped to 0..255.
    """
    images = _forward(model, frames, batch_size)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def predict_clip(predictor: Predictor, path: Path, num_frames: int = 8) -> ClipPrediction:
    """Levels of any video or image FFmpeg reads.

    Args:
      predictor: as loaded.
      path: the clip; its frames are scaled, not cropped, to the predictor's size.
      num_frames: how many frames are looked at, evenly over the clip; fewer if it has fewer.

    Raises:
      UserError: no such file, or not a readable video or image.
    """
    sampled = sample_frames(
        path, num_frames=num_frames, width=predictor.width, height=predictor.height
    )
    per_frame = predict_frames(predictor, np.stack([frame.rgb for frame in sampled]))
    levels = per_frame.mean(axis=0)
    return ClipPrediction(
        levels=levels,
        per_frame=per_frame,
        timestamps_s=tuple(float(frame.timestamp_s) for frame in sampled),
        quantisers=nearest_quantisers(levels, predictor.scale),
    )


def nearest_quantisers(levels: np.ndarray, scale: Scale) -> np.ndarray:
    """Round levels to the nearest quantiser an encoder takes for lossy coding.

    Returns:
      int64 of the same shape.
    """
    return np.clip(np.rint(levels), scale.lowest, scale.highest).astype(np.int64)


def _forward(model: keras.Model, frames: np.ndarray, batch_size: int) -> np.ndarray:
    """Run the model batch by batch: only one batch is ever held as float32."""
    parts = [
        np.asarray(model.predict_on_batch(frames[start : start + batch_size].astype(np.float32)))
        for start in range(0, len(frames), batch_size)
    ]
    return np.concatenate(parts).astype(np.float32)
