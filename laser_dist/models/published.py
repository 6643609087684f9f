"""Convert the authors' published weights to models of this package.

A published model is one flat Keras 2 graph. Its file holds the layers in Keras's order: by distance
from the outputs, farthest first, and branch by branch at equal distance. Layer names are automatic,
so layers are identified by order and shape. Layers with 5×5 kernels belong to the backbones, the
others to the head. Within each group the layers form a chain or parallel equal chains, so the
topology determines their order, whatever layers are between them.

The published models read frames as B, G, R. The converted models take R, G, B.
"""

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from laser_dist.errors import UserError
from laser_dist.models.autoencoder import build_autoencoder, decoder_of, encoder_of
from laser_dist.models.heads import build_head
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import build_predictor
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import VARIANTS, Variant
from laser_dist.models.weight_files import StoredLayer, WeightFile

AUTOENCODERS = ("image", "jnd1", "jnd2", "jnd3")
_BACKBONE_KERNEL = (5, 5)
_ENCODER = ("conv1", "conv2", "conv3", "latent")
_DECODER = ("deconv1", "deconv2", "deconv3", "reconstruction")
_LEVEL_IN_NAME = re.compile(r"JND([123])_output")


def published_autoencoder(file: WeightFile, name: str, *, height: int, width: int) -> keras.Model:
    """Build the reconstruction model of a published file.

    Args:
      file: such as `JND1Reconstruction.h5`.
      name: what it reconstructs, one of `AUTOENCODERS`.
      height: frame height in pixels, which is not in the file.
      width: frame width in pixels.

    Returns:
      Model as from `build_autoencoder`, for RGB.

    Raises:
      UserError: the file holds another model, or the frame size is invalid.
    """
    _check_counts(file, name)
    [autoencoder] = _autoencoders(file, (name,), height, width)
    _swap_channels([autoencoder], None)
    return autoencoder


def published_predictor(
    variant: Variant,
    files: Sequence[WeightFile],
    levels: Sequence[int],
    *,
    height: int,
    width: int,
) -> keras.Model:
    """Build the predictor of published files.

    Args:
      variant: variant of the files.
      files: one for a variant that predicts all levels at once, else one per level.
      levels: the JND levels, ascending.
      height: frame height in pixels; files of latent heads determine only a pooled product of
        height and width.
      width: frame width in pixels.

    Returns:
      Model as from `build_predictor`, for RGB, with levels in QP.

    Raises:
      UserError: a file holds another model, or one for another frame size.
    """
    groups = [tuple(levels)] if variant.num_levels > 1 else [(level,) for level in levels]
    autoencoders, heads = [], []
    for file, group in zip(files, groups, strict=True):
        _check_counts(file, variant.name)
        names = [f"jnd{level}" for level in group]
        backbones = _autoencoders(file, names, height, width)
        head = _head(file, variant, backbones, name="_".join(["head", *names]))
        _swap_channels(backbones, head if variant.space == "reconstructed" else None)
        autoencoders += backbones
        heads.append(head)
    spec = PredictorSpec(variant=variant.name, levels=tuple(levels), scale="QP", simulated=False)
    return build_predictor(autoencoders, heads, spec)


def _swap_channels(autoencoders: Sequence[keras.Model], frame_head: keras.Model | None) -> None:
    """Convert models from B, G, R to R, G, B, or back.

    Args:
      autoencoders: complete ones, although a latent predictor uses only the encoders.
      frame_head: the head on their frames; None for a head on latents.
    """
    layers = []
    for autoencoder in autoencoders:
        layers.append(encoder_of(autoencoder).get_layer("conv1"))
        layers.append(decoder_of(autoencoder).get_layer("reconstruction"))
    if frame_head is not None:
        first = re.compile(r"branch\d?_(norm|block1_conv)")
        layers += [layer for layer in frame_head.layers if first.fullmatch(layer.name)]
    for layer in layers:
        for weight in layer.weights:
            values = np.asarray(keras.ops.convert_to_numpy(weight))
            if values.ndim == 4:
                # The second-last axis of a kernel is the input of a convolution, and the output of
                # a transposed one.
                weight.assign(values[:, :, ::-1, :])
            elif not isinstance(layer, keras.layers.Conv2D):  # whose bias is on its output
                weight.assign(values[::-1])


def _autoencoders(
    file: WeightFile, names: Sequence[str], height: int, width: int
) -> list[keras.Model]:
    """Build the autoencoders of a file; without decoders in it, theirs keep new weights."""
    stored, count = _backbone_layers(file), len(names)
    spec = BackboneSpec(
        filters=_outputs_of(file, stored[0]),
        latent_filters=_outputs_of(file, stored[_ENCODER.index("latent") * count]),
        height=height,
        width=width,
    )
    autoencoders = [build_autoencoder(spec, name) for name in names]
    targets = [
        part(autoencoder).get_layer(name)
        for part, layer_names in ((encoder_of, _ENCODER), (decoder_of, _DECODER))
        for name in layer_names
        for autoencoder in autoencoders
    ]
    for layer, source in zip(targets, stored, strict=False):  # the file may hold only encoders
        _fill(layer, source, file)
    return autoencoders


def _head(
    file: WeightFile, variant: Variant, autoencoders: Sequence[keras.Model], *, name: str
) -> keras.Model:
    order = _head_order(variant)
    stored = dict(zip(order, _head_layers(file), strict=True))
    inside = encoder_of(autoencoders[0]) if variant.space == "latent" else autoencoders[0]
    head = build_head(
        _head_spec(file, variant, stored),
        inside.output_shape[1:],
        levels=variant.num_levels,
        name=name,
    )
    for path, source in stored.items():
        layer_name, _, part = path.partition(".")
        layer = head.get_layer(layer_name)
        _check_level(file, path, source)
        _fill(getattr(layer, part) if part else layer, source, file, path)
    return head


def _head_order(variant: Variant) -> list[str]:
    """Return our names of a head's layers with weights, in the order of published files.

    A sublayer follows a dot.
    """
    spec = variant.published_head
    branches = _branch_names(variant)
    attention = ("attention.squeeze", "attention.excite") if spec.attention_ratio else ()
    parts = ("conv", "norm", *attention)
    return [
        *(f"branch{n}_norm" for n in branches),
        *(f"branch{n}_block1_{part}" for part in parts for n in branches),
        *(f"block{k}_{part}" for k in range(2, len(spec.filters) + 1) for part in parts),
        *(name for k in range(1, len(spec.dense) + 1) for name in _dense_names(variant, k)),
        *(f"jnd{n}_output" for n in branches),
    ]


def _branch_names(variant: Variant) -> tuple[str, ...]:
    return ("1", "2", "3") if variant.num_levels > 1 else ("",)


def _dense_names(variant: Variant, number: int) -> list[str]:
    if variant.published_head.shared_dense:
        return [f"dense{number}"]
    return [f"jnd{n}_dense{number}" for n in _branch_names(variant)]


def _head_spec(file: WeightFile, variant: Variant, stored: dict[str, StoredLayer]) -> HeadSpec:
    """Return the published form with the sizes of the file."""
    published = variant.published_head
    convolutions = [
        f"branch{_branch_names(variant)[0]}_block1_conv",
        *(f"block{k}_conv" for k in range(2, len(published.filters) + 1)),
    ]
    dense = [_dense_names(variant, k)[0] for k in range(1, len(published.dense) + 1)]
    return HeadSpec(
        filters=tuple(_outputs_of(file, stored[name]) for name in convolutions),
        pool_every=published.pool_every,
        attention_ratio=published.attention_ratio,
        dense=tuple(_outputs_of(file, stored[name]) for name in dense),
        shared_dense=published.shared_dense,
        output="relu",
    )


def _backbone_layers(file: WeightFile) -> list[StoredLayer]:
    return [layer for layer in file.layers if _is_of_backbone(layer)]


def _head_layers(file: WeightFile) -> list[StoredLayer]:
    return [layer for layer in file.layers if not _is_of_backbone(layer)]


def _is_of_backbone(layer: StoredLayer) -> bool:
    kernel = layer.weights.get("kernel")
    return kernel is not None and kernel.ndim == 4 and kernel.shape[:2] == _BACKBONE_KERNEL


def _counts(name: str) -> tuple[int, int]:
    """Return the numbers of backbone layers and head layers of a published file."""
    if name in AUTOENCODERS:
        return len(_ENCODER) + len(_DECODER), 0
    [variant] = [each for each in VARIANTS if each.name == name]
    only_encoders = variant.space == "latent" and not variant.end_to_end
    each = len(_ENCODER) + (0 if only_encoders else len(_DECODER))
    return each * variant.num_levels, len(_head_order(variant))


def _check_counts(file: WeightFile, name: str) -> None:
    got, expected = (len(_backbone_layers(file)), len(_head_layers(file))), _counts(name)
    if got == expected:
        return
    known = [*(variant.name for variant in VARIANTS), *AUTOENCODERS]
    matching = [each for each in known if _counts(each) == got]
    raise UserError(
        f"{file.origin} does not have the layers of {name}: it has {got[0]} layers with 5x5"
        f" kernels and {got[1]} others"
        + (f", like {' or '.join(matching)}" if matching else "")
        + f", instead of {expected[0]} and {expected[1]}.",
        hint=f"Use --variant {matching[0]}." if matching else "Name another file.",
    )


def _outputs_of(file: WeightFile, layer: StoredLayer) -> int:
    """Return the number of filters or units of a layer."""
    kernel = layer.weights.get("kernel")
    if kernel is None or not kernel.ndim:
        raise _mismatch(file, layer, "a kernel")
    return kernel.shape[-1]


def _fill(layer: Any, source: StoredLayer, file: WeightFile, path: str = "") -> None:
    """Assign the weights of a stored layer to one of our layers."""
    expected = {weight.name: tuple(weight.shape) for weight in layer.weights}
    got = {what: values.shape for what, values in source.weights.items()}
    if got != expected:
        shapes = ", ".join(f"{what} {shape}" for what, shape in expected.items())
        hint = "Check --frame-size." if path.endswith("dense1") else "Name another file."
        raise _mismatch(file, source, shapes, hint)
    for weight in layer.weights:
        weight.assign(source.weights[weight.name])


def _check_level(file: WeightFile, path: str, source: StoredLayer) -> None:
    """Check the level in the output's name, the only layer name that the authors chose."""
    named = _LEVEL_IN_NAME.fullmatch(source.name)
    ours = re.fullmatch(r"jnd([123])_output", path)
    if named and ours and named[1] != ours[1]:
        raise UserError(
            f"Layer {source.name} of {file.origin} is the output of JND{named[1]}, not of"
            f" JND{ours[1]}.",
            hint="Name another file.",
        )


def _mismatch(
    file: WeightFile, layer: StoredLayer, wanted: str, hint: str = "Name another file."
) -> UserError:
    return UserError(
        f"Layer {layer.name} of {file.origin} holds {layer.text} instead of {wanted}.", hint=hint
    )
