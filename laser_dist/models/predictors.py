"""Models of backbones and heads: predictors, and the joint model of end-to-end training."""

import dataclasses
import logging
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

# Keras finds a layer of a saved model only if its module has been imported.
import laser_dist.models.layers  # noqa: F401
from laser_dist.errors import UserError
from laser_dist.models.autoencoder import decoder_of, encoder_of
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.variants import Variant, variant_named
from laser_dist.models.weight_files import check_readable
from laser_dist.storage import limit, open_regular, too_large

MAX_MODEL_BYTES = limit("MAX_MODEL_BYTES", 2 << 30)
"""Largest model file, 2 GiB, packed and unpacked."""

logger = logging.getLogger(__name__)


@keras.saving.register_keras_serializable(package="laser_jnd")
class PredictorSpecLayer(keras.layers.Layer):
    """Identity layer that stores the `PredictorSpec`."""

    def __init__(self, spec: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = PredictorSpec.of(spec)

    def call(self, inputs: Any) -> Any:
        """Return the input."""
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Return every constructor argument, name, trainable and dtype."""
        return {**super().get_config(), "spec": dataclasses.asdict(self.spec)}


def predictor_spec_of(model: keras.Model) -> PredictorSpec:
    """Return the spec stored in a predictor.

    Raises:
      ValueError: the model does not come from `predictors.build_predictor`.
    """
    return _layer_of(model).spec


def change_spec(model: keras.Model, **changes: Any) -> None:
    """Replace values in the spec of a predictor; see `predictor_spec_of`."""
    layer = _layer_of(model)
    layer.spec = dataclasses.replace(layer.spec, **changes)


def feature_extractor(variant: Variant, autoencoder: keras.Model) -> keras.Model:
    """Return the part of a backbone that a head of `variant` needs, sharing its weights.

    Returns:
      The encoder, frames [B, H, W, 3] to latents, or the complete autoencoder, frames to frames.
    """
    return encoder_of(autoencoder) if variant.space == "latent" else autoencoder


def build_predictor(
    autoencoders: Sequence[keras.Model],
    heads: Sequence[keras.Model],
    spec: PredictorSpec,
    *,
    name: str = "predictor",
) -> keras.Model:
    """Build one model of backbones and heads that computes only the levels.

    Latent variants contain no decoder. Weights are shared with the given models. Unless the
    variant is end to end, the used parts of the backbones are frozen, in the given autoencoders
    too.

    Args:
      autoencoders: from `build_autoencoder`, one per level of the spec, in the same order, of one
        size, with distinct names.
      heads: from `build_head`: one for a variant that predicts all levels at once, else one per
        level of the spec, with distinct names.
      spec: variant and meaning of the output.
      name: name of the model.

    Returns:
      Model from raw frames [B, H, W, 3] float32, RGB in 0..255, to levels [B, L] float32 on the
      dataset's scale, or levels and spreads [B, L, 2].

    Raises:
      ValueError: number, names or sizes of the parts do not match.
    """
    variant = variant_named(spec.variant)
    _check_parts(variant, autoencoders, heads, spec.levels)
    extractors = [feature_extractor(variant, autoencoder) for autoencoder in autoencoders]
    if not variant.end_to_end:
        for extractor in extractors:
            extractor.trainable = False
    raw = _raw_input(autoencoders[0])
    features = [extractor(raw) for extractor in extractors]
    if variant.num_levels > 1:
        levels = heads[0](features)
    else:
        levels = [head(each) for head, each in zip(heads, features, strict=True)]
        levels = (
            keras.layers.Concatenate(axis=1, name="all_levels", dtype="float32")(levels)
            if len(levels) > 1
            else levels[0]
        )
    layer = PredictorSpecLayer(dataclasses.asdict(spec), name="predictor_spec", dtype="float32")
    return keras.Model(raw, layer(levels), name=name)


def build_joint_model(
    variant: Variant, autoencoder: keras.Model, head: keras.Model, *, name: str = "joint"
) -> keras.Model:
    """Build the training model of an end-to-end variant: raw frames to frame and level.

    Weights are shared with the given models, so a predictor of the same parts follows the training.

    Args:
      variant: E2E_LAT or E2E_REC.
      autoencoder: from `build_end_to_end_autoencoder`.
      head: as in `build_predictor`.
      name: name of the model.

    Returns:
      Model from raw frames [B, H, W, 3] float32, RGB in 0..255, to a list of two: frames
      [B, H, W, 3] and levels [B, 1], both float32.

    Raises:
      ValueError: `variant` is not end to end, or the parts do not match.
    """
    if not variant.end_to_end:
        raise ValueError(f"{variant.name} is not an end-to-end variant")
    _check_parts(variant, [autoencoder], [head], (1,))
    raw = _raw_input(autoencoder)
    latent = encoder_of(autoencoder)(raw)
    frame = decoder_of(autoencoder)(latent)
    level = head(latent if variant.space == "latent" else frame)
    return keras.Model(raw, [frame, level], name=name)


def load_saved_model(path: Path, *, is_trusted: bool = False) -> keras.Model:
    """Load a model saved by laser-jnd, without running code inside the file.

    Args:
      path: of the file.
      is_trusted: whether the file is part of a run; if not, a child process reads it first.

    Raises:
      UserError: the file is missing, too large, or not a Keras model, or its layers need more
        weights than it has bytes.
    """
    hint = "Name a model file (.keras), or train again."
    damaged = UserError(f"{path} is not a .keras model, or is damaged.", hint=hint)
    with open_regular(path, max_bytes=MAX_MODEL_BYTES, hint=hint) as file:
        try:
            # Other suffixes and contents are other formats to Keras, which are not checked here.
            if path.suffix != ".keras":
                raise ValueError(f"suffix {path.suffix}")
            with zipfile.ZipFile(file) as archive:
                num_bytes = sum(entry.file_size for entry in archive.infolist())
        except (ValueError, zipfile.BadZipFile) as error:
            raise damaged from error
    if problem := too_large(f"{path}, unpacked,", num_bytes, MAX_MODEL_BYTES):
        raise UserError(problem, hint=hint)
    if not is_trusted:
        check_readable(path)
    created: list[int] = []
    try:
        with _limited_weights(num_bytes, created):
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras has no common error for a file that is not a model
        logger.debug("Loading %s failed", path, exc_info=True)
        if sum(created) > num_bytes:
            damaged = UserError(
                f"{path} needs more weights than its {num_bytes:,} bytes.", hint=hint
            )
        raise damaged from error
    if not isinstance(model, keras.Model):
        raise UserError(f"{path} holds a {type(model).__name__} instead of a model.", hint=hint)
    return model


@contextmanager
def _limited_weights(most: int, created: list[int]) -> Iterator[None]:
    """Let layers create at most this many numbers, each of which has a byte in the model's file.

    Keras creates all weights that a file states before it reads them.

    Args:
      most: largest number.
      created: receives the size of each weight before it is created.
    """
    layer: Any = keras.layers.Layer
    add_weight = layer.add_weight

    def checked(self: Any, shape: Any = None, *args: Any, **kwargs: Any) -> Any:
        created.append(math.prod(shape or ()))
        if sum(created) > most:
            raise ValueError("too many weights")
        return add_weight(self, shape, *args, **kwargs)

    layer.add_weight = checked
    try:
        yield
    finally:
        layer.add_weight = add_weight


def _layer_of(model: keras.Model) -> PredictorSpecLayer:
    layers: Iterable[Any] = model.layers
    for layer in layers:
        if isinstance(layer, PredictorSpecLayer):
            return layer
    raise ValueError(f"Model {model.name} has no predictor spec.")


def _raw_input(autoencoder: keras.Model) -> Any:
    return keras.Input(autoencoder.input_shape[1:], name="raw", dtype="float32")


def _check_parts(
    variant: Variant,
    autoencoders: Sequence[keras.Model],
    heads: Sequence[keras.Model],
    levels: Sequence[int],
) -> None:
    num_levels = variant.num_levels if variant.num_levels > 1 else len(levels)
    _check_names("backbones", variant, autoencoders, num_levels)
    _check_names("heads", variant, heads, 1 if variant.num_levels > 1 else num_levels)
    expected = [feature_extractor(variant, each).output_shape for each in autoencoders]
    got = [shape for head in heads for shape in _input_shapes(head)]
    if got != expected or len(levels) != num_levels:
        raise ValueError(f"heads of {variant.name} take features {got} instead of {expected}")


def _check_names(kind: str, variant: Variant, models: Sequence[keras.Model], expected: int) -> None:
    names = [model.name for model in models]
    if len(set(names)) != expected or len(names) != expected:
        raise ValueError(f"{variant.name} needs {expected} {kind} of distinct names, got {names}")


def _input_shapes(head: keras.Model) -> list[Any]:
    shape = head.input_shape
    return shape if isinstance(shape, list) else [shape]
