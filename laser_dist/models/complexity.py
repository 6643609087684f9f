"""Cost of the models, computed from their specs without Keras: parameters and MACs.

MACs are multiply-accumulates for one frame. Convolutions, transposed convolutions and dense layers
count, including those of channel attention. Biases, norms, activations and pooling do not: together
they are below 1% of a published model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from laser_dist.models.specs import NUM_CHANNELS, NUM_STAGES, BackboneSpec, HeadSpec
from laser_dist.models.variants import Variant

_BACKBONE_KERNEL = 5
_HEAD_KERNEL = 3


@dataclass(frozen=True)
class Cost:
    """Cost of a model or a part of it.

    Attributes:
      parameters: number of parameters.
      trainable: parameters that training changes.
      macs: multiply-accumulates for one frame; divide by 1e9 for GMAC.
    """

    parameters: int = 0
    trainable: int = 0
    macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.trainable + other.trainable,
            self.macs + other.macs,
        )

    def __mul__(self, count: int) -> Cost:
        return Cost(self.parameters * count, self.trainable * count, self.macs * count)


def encoder_cost(spec: BackboneSpec) -> Cost:
    """Return the cost of the encoder of a backbone."""
    channels = [NUM_CHANNELS, *[spec.filters] * (NUM_STAGES - 1), spec.latent_filters]
    cost = Cost()
    for stage in range(NUM_STAGES):
        positions = spec.height * spec.width // 4 ** (stage + 1)  # of the layer's output
        cost += _layer(channels[stage], channels[stage + 1], _BACKBONE_KERNEL**2, positions)
    return cost


def decoder_cost(spec: BackboneSpec) -> Cost:
    """Return the cost of the decoder of a backbone."""
    channels = [spec.latent_filters, *[spec.filters] * (NUM_STAGES - 1), NUM_CHANNELS]
    cost = Cost()
    for stage in range(NUM_STAGES):
        # Each input position meets the complete kernel once, whatever the stride.
        positions = spec.height * spec.width // 4 ** (NUM_STAGES - stage)
        cost += _layer(channels[stage], channels[stage + 1], _BACKBONE_KERNEL**2, positions)
    return cost


def head_cost(variant: Variant, backbone: BackboneSpec, head: HeadSpec) -> Cost:
    """Return the cost of the head of a variant."""
    rows, columns, channels = variant.feature_shape(backbone)
    cost = _norm(channels) * variant.num_levels
    for number, filters in enumerate(head.filters, start=1):
        block = _layer(channels, filters, _HEAD_KERNEL**2, rows * columns) + _norm(filters)
        if head.attention_ratio is not None:
            hidden = max(1, filters // head.attention_ratio)
            attention = _layer(filters, hidden) + _layer(hidden, filters)
            # The shared network runs twice, on the average and on the maximum.
            block += attention + Cost(macs=attention.macs)
        cost += block * (variant.num_levels if number == 1 else 1)
        channels = filters
        if number % head.pool_every == 0:
            rows, columns = max(1, rows // 2), max(1, columns // 2)
    units = [channels if head.pooling == "average" else rows * columns * channels, *head.dense]
    hidden_layers = sum((_layer(*pair) for pair in zip(units, units[1:], strict=False)), Cost())
    cost += hidden_layers * (1 if head.shared_dense else variant.num_levels)
    outputs = 2 if head.spread else 1
    return cost + _layer(units[-1], 1) * (outputs * variant.num_levels)


def predictor_cost(variant: Variant, backbone: BackboneSpec, head: HeadSpec) -> Cost:
    """Return the cost of a predictor of one head, as `predictors.build_predictor` builds it.

    The decoder that an end-to-end latent variant is trained with does not count.
    """
    extractor = encoder_cost(backbone)
    if variant.space == "reconstructed":
        extractor += decoder_cost(backbone)
    if not variant.end_to_end:
        extractor = Cost(extractor.parameters, 0, extractor.macs)  # frozen
    return extractor * variant.num_levels + head_cost(variant, backbone, head)


def _layer(inputs: int, outputs: int, kernel_size: int = 1, positions: int = 1) -> Cost:
    weights = math.prod((inputs, outputs, kernel_size))
    return Cost(weights + outputs, weights + outputs, weights * positions)


def _norm(channels: int) -> Cost:
    """Return the cost of a batch norm, of whose 4 parameters per channel 2 are statistics."""
    return Cost(4 * channels, 2 * channels)
