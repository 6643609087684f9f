"""The authors' published weights as models of ours.

A published model is one flat Keras 2 graph; its file holds the layers in the order Keras gives
them: by their distance from the outputs, the farthest first, and at one distance branch by branch.
Names are automatic and say nothing, so layers are told apart by order and shape. Kernels of 5×5
are the backbones', the rest is the head's; within either the layers form a chain, or equal chains
side by side, so their order follows from the topology alone, whatever stands between them.

The published models read frames as B, G, R. What is made here takes R, G, B like any model of ours.
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
    """A reconstruction model of a published file.

    Args:
      file: such as `JND1Reconstruction.h5`.
      name: what it reconstructs, one of `AUTOENCODERS`.
      height: of its frames in pixels, which the file does not tell.
      width: likewise.

    Returns:
      As `build_autoencoder` makes it, for RGB.

    Raises:
      UserError: the file holds another model, or a size that the backbone does not take.
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
    """A predictor of published files.

    Args:
      variant: of the files.
      files: one, of a variant that predicts all levels at once; else one for each level.
      levels: which JND levels those are, ascending.
      height: of the frames in pixels; latent heads' files tell no more than its pooled product.
      width: likewise.

    Returns:
      As `build_predictor` makes it, for RGB, with levels in QP.

    Raises:
      UserError: a file holds another model, or one for frames of another size.
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
    answer = PredictorSpec(variant=variant.name, levels=tuple(levels), scale="QP", simulated=False)
    return build_predictor(autoencoders, heads, answer)


def _swap_channels(autoencoders: Sequence[keras.Model], frame_head: keras.Model | None) -> None:
    """Turns models that take and make B, G, R into ones of R, G, B, or back.

    Args:
      autoencoders: whole, though a latent predictor will use the encoders alone.
      frame_head: the head that looks at their frames, None of a head that looks at latents.
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
                # In the kernel of a convolution what comes in is the last axis but one, and in
                # that of a transposed one what goes out.
                weight.assign(values[:, :, ::-1, :])
            elif not isinstance(layer, keras.layers.Conv2D):  # whose bias is of what it makes
                weight.assign(values[::-1])


def _autoencoders(
    file: WeightFile, names: Sequence[str], height: int, width: int
) -> list[keras.Model]:
    """Autoencoders of one file; where it has no decoders they keep fresh ones."""
    stored, count = _backbone_layers(file), len(names)
    spec = BackboneSpec(
        filters=_outputs_of(file, stored[0]),
        latent_filters=_outputs_of(file, stored[_ENCODER.index("latent") * count]),
        height=height,
        width=width,
    )
    autoencoders = [build_autoencoder(spec, name) for name in names]
    ours = [
        part(autoencoder).get_layer(name)
        for part, layer_names in ((encoder_of, _ENCODER), (decoder_of, _DECODER))
        for name in layer_names
        for autoencoder in autoencoders
    ]
    for layer, source in zip(ours, stored, strict=False):  # the file may end with the encoders
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
    """Our names of a head's layers with weights, in the order of published files.

    A part of a layer stands after a dot.
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
    """The published form, in the sizes of the file."""
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
    """How many layers a published file has of backbones, and of a head."""
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
    alike = " or ".join(each for each in known if _counts(each) == got)
    raise UserError(
        f"Weights {file.origin}",
        f"{expected[0]} layers of 5x5 kernels and {expected[1]} others, as {name} has",
        f"{got[0]} and {got[1]}" + (f", as {alike} has" if alike else ""),
        f"Name --variant {alike.split(' or ')[0]}." if alike else "Name another file.",
    )


def _outputs_of(file: WeightFile, layer: StoredLayer) -> int:
    """How many filters or units a layer has."""
    kernel = layer.weights.get("kernel")
    if kernel is None or not kernel.ndim:
        raise _wrong(file, layer, "a kernel", _told(layer))
    return kernel.shape[-1]


def _fill(layer: Any, source: StoredLayer, file: WeightFile, path: str = "") -> None:
    """Gives a layer of ours a stored one's weights."""
    expected = {weight.name: tuple(weight.shape) for weight in layer.weights}
    got = {what: values.shape for what, values in source.weights.items()}
    if got != expected:
        told = ", ".join(f"{what} {shape}" for what, shape in expected.items())
        raise _wrong(file, source, told, _told(source), path)
    for weight in layer.weights:
        weight.assign(source.weights[weight.name])


def _check_level(file: WeightFile, path: str, source: StoredLayer) -> None:
    """The authors named the outputs: the one name that says something, so it must agree."""
    named = _LEVEL_IN_NAME.fullmatch(source.name)
    ours = re.fullmatch(r"jnd([123])_output", path)
    if named and ours and named[1] != ours[1]:
        raise _wrong(file, source, f"the output of JND{ours[1]} here", f"that of JND{named[1]}")


def _told(layer: StoredLayer) -> str:
    return ", ".join(f"{what} {values.shape}" for what, values in layer.weights.items())


def _wrong(
    file: WeightFile, layer: StoredLayer, expected: str, got: str, path: str = ""
) -> UserError:
    after_map = path.endswith("dense1")
    next_step = "Its frames may have another size: --size." if after_map else "Name another file."
    return UserError(f"Weights {file.origin}, layer {layer.name}", expected, got, next_step)
