"""Building blocks of the heads."""

from typing import Any

import keras

ops: Any = keras.ops  # pyright infers the wrong types of one backend

_POOL = 2


@keras.saving.register_keras_serializable(package="laser_jnd")
class ChannelAttention(keras.layers.Layer):
    """Channel attention: weights each channel by its values at all positions of the map.

    The map is averaged and maximized over its positions. One small network, shared by both vectors
    (Dense n // ratio with ReLU, Dense n), turns them into scores. The sigmoid of the sum of the
    scores, in (0, 1), multiplies the channel.

    Input and output: [B, H, W, n]. Parameters, with m = max(1, n // ratio): 2nm + m + n.

    A saved model that contains this layer loads with `safe_mode` once this module is imported.

    Raises:
      ValueError: the ratio is below 1, or the input is not [B, H, W, n] with n known.

    Source: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, section 3, equation
    2. We differ in that both dense layers have a bias, as in the published LASeR-JND models.
    """

    def __init__(self, ratio: int = 8, **kwargs: Any) -> None:
        if ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {ratio}")
        super().__init__(**kwargs)
        self.ratio = ratio

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the shared network for `input_shape` [B, H, W, n], n known."""
        channels = input_shape[-1]
        if len(input_shape) != 4 or channels is None:
            raise ValueError(f"input must be [B, H, W, n] with n known, got {input_shape}")
        # The policy is passed on: sublayers do not inherit a layer's dtype.
        self.squeeze = keras.layers.Dense(
            max(1, channels // self.ratio),
            activation="relu",
            name="squeeze",
            dtype=self.dtype_policy,
        )
        self.excite = keras.layers.Dense(channels, name="excite", dtype=self.dtype_policy)
        self.squeeze.build((None, channels))
        self.excite.build((None, self.squeeze.units))

    def call(self, inputs: Any) -> Any:
        """Weight the channels of `inputs` [B, H, W, n]; return the same shape."""
        average = ops.mean(inputs, axis=(1, 2), keepdims=True)
        maximum = ops.max(inputs, axis=(1, 2), keepdims=True)
        scores = self.excite(self.squeeze(average)) + self.excite(self.squeeze(maximum))
        return inputs * ops.sigmoid(scores)

    def get_config(self) -> dict[str, Any]:
        """Return every constructor argument, name, trainable and dtype."""
        return {**super().get_config(), "ratio": self.ratio}


@keras.saving.register_keras_serializable(package="laser_jnd")
class SignedLog(keras.layers.Layer):
    """Compression of magnitudes that keeps signs: x to sign(x) log(1 + |x| / knee).

    It is linear near zero and logarithmic beyond the knee, like the eye's response to contrast
    (Weber and Fechner), so equal ratios of a feature become equal steps.

    Input and output: any shape. No parameters.

    Raises:
      ValueError: the knee is not above 0.
    """

    def __init__(self, knee: float, **kwargs: Any) -> None:
        if not knee > 0:
            raise ValueError(f"knee must be above 0, got {knee}")
        super().__init__(**kwargs)
        self.knee = float(knee)

    def call(self, inputs: Any) -> Any:
        """Compress `inputs`; return the same shape."""
        return ops.sign(inputs) * ops.log1p(ops.abs(inputs) / self.knee)

    def get_config(self) -> dict[str, Any]:
        """Return every constructor argument, name, trainable and dtype."""
        return {**super().get_config(), "knee": self.knee}


@keras.saving.register_keras_serializable(package="laser_jnd")
class OrderedLevels(keras.layers.Layer):
    """Ordering: turns a first level and steps of any sign into levels that never get better.

    The first level is kept. Each other one is the previous level plus (if higher is worse) or
    minus the softplus of its step.

    Input and output: [B, L]. No parameters.
    """

    def __init__(self, higher_is_worse: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.higher_is_worse = higher_is_worse

    def call(self, inputs: Any) -> Any:
        """Order `inputs` [B, L]."""
        steps = ops.softplus(inputs[:, 1:])
        signed = steps if self.higher_is_worse else -steps
        return ops.cumsum(ops.concatenate([inputs[:, :1], signed], axis=1), axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return every constructor argument, name, trainable and dtype."""
        return {**super().get_config(), "higher_is_worse": self.higher_is_worse}


def conv_block(
    x: Any, *, filters: int, attention_ratio: int | None, norm_momentum: float, name: str
) -> Any:
    """Apply Conv 3×3, batch norm, ReLU and, given a ratio, channel attention.

    With attention this is the paper's block L (latent heads); without it, followed by `halve`, it
    is block R (reconstruction heads).

    Args:
      x: symbolic tensor [B, H, W, C].
      filters: channels of the result.
      attention_ratio: ratio of `ChannelAttention`; None for no attention.
      norm_momentum: momentum of the batch norm's moving averages.
      name: prefix of the layer names.

    Returns:
      Symbolic tensor [B, H, W, filters].
    """
    x = keras.layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    x = keras.layers.BatchNormalization(momentum=norm_momentum, name=f"{name}_norm")(x)
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    if attention_ratio is not None:
        x = ChannelAttention(attention_ratio, name=f"{name}_attention")(x)
    return x


def halve(x: Any, *, name: str) -> Any:
    """Apply a 2×2 max-pool with stride 2; an odd last row or column is dropped.

    An axis of length 1 is not pooled, so heads also accept small frames, for which the published
    stack would have no positions left. At the published size this has no effect.

    Args:
      x: symbolic tensor [B, H, W, C], H and W known.
      name: the layer's name.

    Returns:
      Symbolic tensor [B, max(1, H // 2), max(1, W // 2), C].
    """
    pool_size = tuple(min(_POOL, size) for size in x.shape[1:3])
    return keras.layers.MaxPooling2D(pool_size, name=name)(x)
