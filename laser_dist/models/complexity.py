"""What a model costs: multiply-accumulates (MAC) counted from its graph, and parameters."""

import math
from typing import Any

import keras

from laser_dist.models.layers import ChannelAttention


def count_macs(model: keras.Model) -> int:
    """Multiply-accumulates for one example, counted from the graph.

    Counted are convolutions, transposed convolutions and dense layers, also those inside channel
    attention and inside nested models, as often as the graph calls them. Biases, norms,
    activations and pooling are not: together they stay below 1 % of a published model.

    Args:
      model: functional model with known input sizes.

    Returns:
      The count; divide by 1e9 for GMAC.
    """
    calls = {layer["name"]: len(layer["inbound_nodes"]) for layer in model.get_config()["layers"]}
    return sum(calls[layer.name] * _layer_macs(layer) for layer in model.layers)


def _layer_macs(layer: Any) -> int:
    if isinstance(layer, keras.Model):
        return count_macs(layer)
    if isinstance(layer, ChannelAttention):
        # The shared network runs twice, on the average and on the maximum.
        return 2 * (_size(layer.squeeze.kernel) + _size(layer.excite.kernel))
    if isinstance(layer, keras.layers.Conv2D):
        return _size(layer.kernel) * math.prod(layer.output.shape[1:3])
    if isinstance(layer, keras.layers.Conv2DTranspose):
        # Each input position meets the whole kernel once, whatever the stride.
        return _size(layer.kernel) * math.prod(layer.input.shape[1:3])
    if isinstance(layer, keras.layers.Dense):
        return _size(layer.kernel) * math.prod(layer.output.shape[1:-1])
    return 0


def _size(kernel: Any) -> int:
    return math.prod(kernel.shape)
