"""Load a finished run and name the levels of frames or of a whole clip.

With a model that gives a spread beside each level, also the quantizers at which any other share of
the viewers is satisfied.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from laser_dist.errors import UserError
from laser_dist.jnd.normal_sur import normal_level
from laser_dist.jnd.scale import LEVEL_SUR, Scale, scale_named
from laser_dist.models.files import load_saved
from laser_dist.models.predictor_spec import PredictorSpec, predictor_spec_of
from laser_dist.video.codec import sample_frames


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained model with what must be known to feed it.

    Attributes:
      model: raw frames [B, H, W, 3] float32 in 0..255, RGB, to levels [B, L], or to levels and
        spreads [B, L, 2].
      width: of the frames it takes.
      height: of the frames it takes.
      answer: what its numbers say: which L levels, on which scale, with or without spreads.
      scale: what the levels count in.
    """

    model: keras.Model
    width: int
    height: int
    answer: PredictorSpec
    scale: Scale


@dataclass(frozen=True, eq=False, kw_only=True)
class ClipPrediction:
    """The levels of one clip.

    Attributes:
      answer: what the model's numbers say; `answer.levels` are the L levels of all that follows.
      levels: [L] float32, mean over the sampled frames, on the scale the model was trained on.
        They are what the model says: neither rounded nor forced to ascend.
      spreads: [L] float32, mean over the sampled frames of the standard deviation of the viewers'
        samples; None of a model that does not give it.
      per_frame: [N, L] float32, the levels of each sampled frame.
      timestamps_s: when in the clip each of the N frames stands.
      satisfied: the share of viewers that is asked for.
      at_share: [L] float64, where that share is satisfied; at 0.75 these are `levels`.
      quantizers: [L] int, `at_share` rounded to the nearest whole number of the scale: what to hand
        to an encoder.
    """

    answer: PredictorSpec
    levels: np.ndarray
    spreads: np.ndarray | None
    per_frame: np.ndarray
    timestamps_s: tuple[float, ...]
    satisfied: float
    at_share: np.ndarray
    quantizers: np.ndarray


def load_predictor(path: Path) -> Predictor:
    """Load a complete predictor: a finished run's, or a model file.

    Args:
      path: a run directory, holding `models/predictor.keras`, or such a file itself.

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
    return from_model(load_model(file), origin=str(file))


def load_model(path: Path) -> keras.Model:
    """Load one saved Keras model of ours; code inside the file is never run.

    Raises:
      UserError: no such file, or not a Keras model file.
    """
    try:
        return load_saved(path)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"model {path}",
            "a whole Keras model file",
            str(error).splitlines()[0],
            "Train again, or name another run.",
        ) from error


def from_model(model: keras.Model, *, origin: str = "model") -> Predictor:
    """Check a model's shapes and take it as a predictor.

    Args:
      model: of `models.predictors.build_predictor`, which says what it answers.
      origin: named in the error, for example the file the model came from.

    Raises:
      UserError: it does not say what it answers, or does not map one batch of RGB frames of fixed
        size to that.
    """
    answer = _answer(model, origin)
    inputs, outputs = model.inputs, model.outputs
    shapes = f"{[i.shape for i in inputs]} to {[o.shape for o in outputs]}"
    frame = tuple(inputs[0].shape[1:])
    fits = len(inputs) == len(outputs) == 1 and len(frame) == 3 and None not in frame
    expected = _answer_shape(answer)
    if not fits or frame[-1] != 3 or tuple(outputs[0].shape[1:]) != expected:
        raise UserError(
            f"predictor {origin}",
            f"one input [B, H, W, 3] and one output [B, {', '.join(map(str, expected))}]",
            shapes,
            "Train again, or name another run.",
        )
    scale = scale_named(answer.scale, of=f"predictor {origin}")
    return Predictor(
        model=model, width=int(frame[1]), height=int(frame[0]), answer=answer, scale=scale
    )


def _answer(model: keras.Model, origin: str) -> PredictorSpec:
    try:
        return predictor_spec_of(model)
    except ValueError as error:
        raise UserError(
            f"predictor {origin}",
            "a model that says what it answers",
            f"one that does not, {model.name}",
            "Name a run of this version of the project.",
        ) from error


def _answer_shape(answer: PredictorSpec) -> tuple[int, ...]:
    """Of one frame's answer: (L,), or (L, 2) with spreads."""
    return (len(answer.levels), 2) if answer.spread else (len(answer.levels),)


def predict_frames(predictor: Predictor, frames: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
    """Levels of single frames.

    Args:
      predictor: as loaded.
      frames: uint8 [N, H, W, 3], RGB, of exactly the predictor's size.
      batch_size: how many go through the model at once; changes the memory, not the answer.

    Returns:
      float32 [N, L], or [N, L, 2] of levels and spreads.

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
        return np.zeros((0, *_answer_shape(predictor.answer)), np.float32)
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


def predict_clip(
    predictor: Predictor, path: Path, num_frames: int = 8, *, satisfied: float = LEVEL_SUR
) -> ClipPrediction:
    """Levels of any video or image FFmpeg reads.

    Args:
      predictor: as loaded.
      path: the clip; its frames are scaled, not cropped, to the predictor's size.
      num_frames: how many frames are looked at, evenly over the clip; fewer if it has fewer.
      satisfied: share of the viewers who shall be satisfied, 0 < share < 1.

    Raises:
      UserError: no such file, not a readable video or image, or another share than 0.75 of a
        predictor without spreads.
    """
    check_share(predictor.answer, satisfied)
    sampled = sample_frames(
        path, num_frames=num_frames, width=predictor.width, height=predictor.height
    )
    answers = predict_frames(predictor, np.stack([frame.rgb for frame in sampled]))
    per_frame = answers[..., 0] if predictor.answer.spread else answers
    levels = per_frame.mean(axis=0)
    spreads = answers[..., 1].mean(axis=0) if predictor.answer.spread else None
    at_share = normal_level(
        levels, 0.0 if spreads is None else spreads, satisfied, scale=predictor.scale
    )
    return ClipPrediction(
        answer=predictor.answer,
        levels=levels,
        spreads=spreads,
        per_frame=per_frame,
        timestamps_s=tuple(float(frame.timestamp_s) for frame in sampled),
        satisfied=satisfied,
        at_share=at_share,
        quantizers=nearest_quantizers(at_share, predictor.scale),
    )


def check_share(answer: PredictorSpec, satisfied: float) -> None:
    """Refuse to say what a model does not know.

    Raises:
      UserError: another share than 0.75 of a model without spreads.
    """
    if satisfied != LEVEL_SUR and not answer.spread:
        raise UserError(
            f"share of satisfied viewers, of a model of {answer.variant}",
            f"{LEVEL_SUR}, where its levels lie, as it gives no spread of the viewers",
            f"{satisfied}",
            "Train one that does: laser-jnd train with --set head.spread=true.",
        )


def nearest_quantizers(levels: np.ndarray, scale: Scale) -> np.ndarray:
    """Round levels to the nearest quantizer an encoder takes for lossy coding.

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
