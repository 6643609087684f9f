"""Where an autoencoder starts: at the principal components of the frames it will learn.

From random weights an autoencoder of this depth spends thousands of steps on finding out that
neighboring pixels are alike. That much is linear, so it is computed instead. Layer by layer, the
2×2 patches of what the layer before gives are projected on their first principal components, and
the decoder projects back. A component c takes two channels, c and -c: their LeakyReLUs differ by
(1 + slope) c, so what the layers compute at the start is linear, and training goes on from there
with every unit alive.

Layer-by-layer starts from data are as in Krähenbühl et al. 2016, "Data-dependent initializations of
convolutional neural networks", section 3; we differ in that pairs of channels carry a component
through the nonlinearity, and in that the decoder is set as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from laser_dist.models.autoencoder import NEGATIVE_SLOPE, decoder_of, encoder_of

_PATCH = 2  # a layer's stride: patches of this side do not overlap
# Output i of a 5×5 layer of stride 2 sees inputs 2i - 1 to 2i + 3, and the transposed layer writes
# there: the patch 2i, 2i + 1 lies at these taps.
_TAPS = slice(1, 1 + _PATCH)

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Projection:
    """Principal components of one layer's patches.

    Attributes:
      mean: [2, 2, c] of the patches.
      basis: [2, 2, c, k], orthonormal columns, the component of most variance first.
    """

    mean: Array
    basis: Array


def start_from_principal_components(autoencoder: keras.Model, frames: NDArray[Any]) -> None:
    """Sets an autoencoder's weights so that it reconstructs by principal components.

    Channels that are left over keep their random weights in the encoder and have none in the
    decoder, so nothing is made of them until training does. With a single filter there is no pair:
    the weights stay as they are.

    Args:
      autoencoder: of `build_autoencoder`, of any input size.
      frames: [N, H, W, 3], RGB in 0..255, sides multiples of 16: a sample of what it will learn.
    """
    encoders = _convolutions(encoder_of(autoencoder))
    decoders = _convolutions(decoder_of(autoencoder))
    room = [layer.filters // 2 for layer in encoders[:-1]] + [encoders[-1].filters]
    if min(room) < 1:
        return
    projections = _analyze(frames, room)
    last = len(projections) - 1
    for index, projection in enumerate(projections):
        _set_encoder(encoders[index], projection, first=index == 0, last=index == last)
        _set_decoder(decoders[last - index], projection, first=index == last, last=index == 0)


def _analyze(frames: NDArray[Any], most: Sequence[int]) -> list[_Projection]:
    """Projections of each layer on what the projections before it give.

    Args:
      frames: as above.
      most: number of components that each layer has room for.
    """
    values: Array = frames.astype(np.float64)
    projections: list[_Projection] = []
    for count in most:
        patches = _patches(values)
        rows = patches.reshape(-1, patches.shape[-1])
        mean = rows.mean(axis=0)
        centerd = rows - mean
        _, vectors = np.linalg.eigh(centerd.T @ centerd)
        basis = _upright(vectors[:, ::-1][:, :count])
        values = (patches - mean) @ basis
        shape = (_PATCH, _PATCH, len(mean) // _PATCH**2)
        projections.append(_Projection(mean.reshape(shape), basis.reshape(*shape, -1)))
    return projections


def _patches(values: Array) -> Array:
    """[N, h, w, c] cut into [N, h / 2, w / 2, 4c], the channels ordered row, column, channel."""
    number, height, width, channels = values.shape
    cut = values.reshape(number, height // _PATCH, _PATCH, width // _PATCH, _PATCH, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(*cut.shape[:2], cut.shape[3], -1)


def _upright(basis: Array) -> Array:
    """The same components, each with the sign that makes its largest entry positive."""
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0)
    return basis * np.where(largest < 0, -1.0, 1.0)


def _set_encoder(layer: Any, projection: _Projection, *, first: bool, last: bool) -> None:
    taps, bias = projection.basis, -np.einsum("yxc,yxck->k", projection.mean, projection.basis)
    if not first:
        taps = _joined(taps, axis=2)
    if not last:
        taps, bias = _split(taps, axis=3), _split(bias, axis=0)
    kernel, biases = (values.numpy() for values in (layer.kernel, layer.bias))
    used = taps.shape[3]
    kernel[..., :used] = 0.0
    kernel[_TAPS, _TAPS, : taps.shape[2], :used] = taps
    biases[:used] = bias
    layer.kernel.assign(kernel)
    layer.bias.assign(biases)


def _set_decoder(layer: Any, projection: _Projection, *, first: bool, last: bool) -> None:
    # A bias is one number per channel: it can hold the patches' mean, not the mean of each place.
    taps, bias = projection.basis, projection.mean.mean(axis=(0, 1))
    if not first:
        taps = _joined(taps, axis=3)
    if not last:
        taps, bias = _split(taps, axis=2), _split(bias, axis=0)
    kernel, biases = (np.zeros(values.shape) for values in (layer.kernel, layer.bias))
    kernel[_TAPS, _TAPS, : taps.shape[2], : taps.shape[3]] = taps
    biases[: len(bias)] = bias
    layer.kernel.assign(kernel)
    layer.bias.assign(biases)


def _split(values: Array, axis: int) -> Array:
    """Components as pairs of channels, c and -c, before their LeakyReLUs."""
    return np.concatenate([values, -values], axis=axis)


def _joined(values: Array, axis: int) -> Array:
    """Weights of components as weights of their pairs of channels, after their LeakyReLUs."""
    return _split(values / (1.0 + NEGATIVE_SLOPE), axis)


def _convolutions(model: keras.Model) -> list[Any]:
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    return [layer for layer in model.layers if isinstance(layer, kinds)]
