"""Models that Keras runs: predictors, and backbones for the frames that they reconstruct."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from laser_dist.errors import UserError
from laser_dist.jnd.scale import scale_named
from laser_dist.keras_import import limit_gpus
from laser_dist.models.predictors import load_saved_model, predictor_spec_of
from laser_dist.prediction.predictor import Predictor, run_in_batches, wrong_shapes
from laser_dist.video.containers import MAX_PIXELS


def load_keras(path: Path, *, is_trusted: bool = False) -> Predictor:
    """Load a predictor from a `.keras` file; TensorFlow takes GPU memory as it is needed.

    Args:
      path: of the file.
      is_trusted: whether the file is part of a run.

    Raises:
      UserError: the file is missing or not a predictor.
    """
    if keras.backend.backend() == "tensorflow":
        limit_gpus()
    return from_model(load_saved_model(path, is_trusted=is_trusted), origin=str(path))


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
        raise wrong_shapes(origin, model.input_shape, model.output_shape, spec)
    return Predictor(
        forward=_forward_of(model),
        width=int(frame[1]),
        height=int(frame[0]),
        spec=spec,
        scale=scale_named(spec.scale, of=origin),
        runtime=f"Keras {keras.__version__}",
        origin=origin,
        num_parameters=model.count_params(),
    )


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
    images = run_in_batches(_forward_of(model), frames, batch_size, origin)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _forward_of(model: keras.Model) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    alone = threading.Lock()  # Keras compiles a model in its first call

    def forward(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        with alone:
            return np.asarray(model.predict_on_batch(frames.astype(np.float32)))

    return forward
