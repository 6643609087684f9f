"""Multiply-accumulates of a built model, counted from its Keras graph."""

import math
from typing import Any

import keras

from laser_dist.models.layers import ChannelAttention


def count_macs(model: keras.Model) -> int:
    """Return the multiply-accumulates for one example, counted from the graph.

    Convolutions, transposed convolutions and dense layers count, also inside channel attention and
    nested models, as often as the graph calls them.
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
