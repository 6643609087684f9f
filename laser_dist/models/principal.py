"""Initialize an autoencoder with the principal components of its training frames.

From random weights an autoencoder of this depth needs thousands of steps to learn that neighboring
pixels are similar. That part is linear, so it is computed instead. Layer by layer, the 2×2 patches
of the previous layer's output are projected on their first principal components, and the decoder
projects back. A component c takes two channels, c and -c: their LeakyReLUs differ by (1 + slope) c,
so the initial network is linear, and every unit has a gradient.

Source: Krähenbühl et al. 2016, "Data-dependent initializations of convolutional neural networks",
section 3. We differ in that pairs of channels carry a component through the nonlinearity, and in
that the decoder is initialized too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from laser_dist.models.autoencoder import NEGATIVE_SLOPE, decoder_of, encoder_of

_PATCH = 2  # a layer's stride: patches of this side do not overlap
# Output i of a 5×5 layer of stride 2 reads inputs 2i - 1 to 2i + 3, and the transposed layer writes
# them: these taps cover the patch 2i, 2i + 1.
_TAPS = slice(1, 1 + _PATCH)

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Projection:
    """Principal components of the patches of one layer.

    Attributes:
      mean: [2, 2, c], mean of the patches.
      basis: [2, 2, c, k], orthonormal columns, ordered by decreasing variance.
    """

    mean: Array
    basis: Array


def start_from_principal_components(autoencoder: keras.Model, frames: NDArray[Any]) -> None:
    """Set the weights of an autoencoder so that it reconstructs by principal components.

    Unused channels keep their random weights in the encoder and have zero weights in the decoder,
    so they have no effect until training changes them. A single filter cannot form a pair; then
    the weights stay unchanged.

    Args:
      autoencoder: from `build_autoencoder`, of any input size.
      frames: [N, H, W, 3], RGB in 0..255, sides multiples of 16: a sample of the training frames.
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
    """Return the projection of each layer, computed on the output of the previous projections.

    Args:
      frames: as above.
      most: largest number of components of each layer.
    """
    values: Array = frames.astype(np.float64)
    projections: list[_Projection] = []
    for count in most:
        patches = _patches(values)
        rows = patches.reshape(-1, patches.shape[-1])
        mean = rows.mean(axis=0)
        centered = rows - mean
        _, vectors = np.linalg.eigh(centered.T @ centered)
        basis = _with_positive_peak(vectors[:, ::-1][:, :count])
        values = (patches - mean) @ basis
        shape = (_PATCH, _PATCH, len(mean) // _PATCH**2)
        projections.append(_Projection(mean.reshape(shape), basis.reshape(*shape, -1)))
    return projections


def _patches(values: Array) -> Array:
    """Cut [N, h, w, c] into [N, h / 2, w / 2, 4c], the channels ordered row, column, channel."""
    number, height, width, channels = values.shape
    cut = values.reshape(number, height // _PATCH, _PATCH, width // _PATCH, _PATCH, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(*cut.shape[:2], cut.shape[3], -1)


def _with_positive_peak(basis: Array) -> Array:
    """Return the components with the sign that makes the largest entry of each positive."""
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
    # A bias is one number per channel: the mean over the patch, not per position.
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
    """Return components as pairs of channels, c and -c, before their LeakyReLUs."""
    return np.concatenate([values, -values], axis=axis)


def _joined(values: Array, axis: int) -> Array:
    """Return weights of components as weights of their channel pairs, after their LeakyReLUs."""
    return _split(values / (1.0 + NEGATIVE_SLOPE), axis)


def _convolutions(model: keras.Model) -> list[Any]:
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    return [layer for layer in model.layers if isinstance(layer, kinds)]
