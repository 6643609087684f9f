import inspect

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laser_dist.models.layers import ChannelAttention, SignedLog, conv_block, halve

pytestmark = pytest.mark.slow


def channel_attention_by_hand(features, squeeze, squeeze_bias, excite, excite_bias):
    """CBAM's equation 2, one example and one channel at a time, in float64."""
    result = np.empty_like(features, dtype=np.float64)
    for b, example in enumerate(features.astype(np.float64)):
        flat = example.reshape(-1, example.shape[-1])
        scores = np.zeros(example.shape[-1])
        for vector in (flat.sum(axis=0) / len(flat), flat.max(axis=0)):
            hidden = np.maximum(squeeze.T @ vector + squeeze_bias, 0.0)
            scores += excite.T @ hidden + excite_bias
        for c, score in enumerate(scores):
            result[b, :, :, c] = example[:, :, c] / (1.0 + np.exp(-score))
    return result


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(1, 20),
    ratio=st.integers(1, 8),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_channel_attention_equals_a_second_implementation(channels, ratio, height, width, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, height, width, channels)).astype("float32")
    layer = ChannelAttention(ratio)
    layer.build(features.shape)
    # Biases start at zero: without new ones a forgotten bias would pass.
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])

    got = keras.ops.convert_to_numpy(layer(features))

    expected = channel_attention_by_hand(features, *layer.get_weights())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "ratio", "hidden"), [(64, 8, 8), (4, 8, 1), (9, 2, 4), (8, 1, 8)]
)
def test_channel_attention_has_one_shared_network(channels, ratio, hidden):
    layer = ChannelAttention(ratio)
    layer.build((None, 3, 3, channels))
    assert layer.count_params() == 2 * channels * hidden + hidden + channels


def test_config_of_channel_attention_holds_every_argument_and_survives_a_round_trip():
    layer = ChannelAttention(ratio=5, name="weigh", trainable=False, dtype="mixed_bfloat16")
    config = layer.get_config()
    arguments = set(inspect.signature(ChannelAttention).parameters) - {"kwargs"}
    assert arguments | {"name", "trainable", "dtype"} <= set(config)

    again = ChannelAttention.from_config(config)

    assert again.get_config() == config
    assert (again.ratio, again.name, again.trainable) == (5, "weigh", False)
    assert again.compute_dtype == "bfloat16"


def test_parts_of_channel_attention_follow_its_dtype():
    layer = ChannelAttention(2, dtype="mixed_bfloat16")
    result = layer(np.ones((1, 2, 2, 4), "float32"))
    assert keras.backend.standardize_dtype(result.dtype) == "bfloat16"
    assert layer.squeeze.compute_dtype == layer.excite.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}


def test_channel_attention_refuses_invalid_arguments():
    with pytest.raises(ValueError, match="ratio must be at least 1, got 0"):
        ChannelAttention(0)
    with pytest.raises(ValueError, match=r"must be \[B, H, W, n\] with n known"):
        ChannelAttention().build((None, 8))
    with pytest.raises(ValueError, match=r"must be \[B, H, W, n\] with n known"):
        ChannelAttention().build((None, 2, 2, None))


def test_conv_block_is_conv_norm_relu_attention():
    features = keras.Input((6, 5, 3))
    with_attention = keras.Model(
        features, conv_block(features, filters=16, attention_ratio=8, norm_momentum=0.9, name="l")
    )
    without = keras.Model(
        features,
        conv_block(features, filters=16, attention_ratio=None, norm_momentum=0.9, name="r"),
    )
    assert [type(layer).__name__ for layer in with_attention.layers[1:]] == [
        "Conv2D",
        "BatchNormalization",
        "ReLU",
        "ChannelAttention",
    ]
    assert with_attention.output_shape == without.output_shape == (None, 6, 5, 16)
    conv_and_norm = 9 * 3 * 16 + 16 + 4 * 16
    assert without.count_params() == conv_and_norm
    # Attention at ratio 8: two units between 16 and 16.
    assert with_attention.count_params() == conv_and_norm + 2 * 16 * 2 + 2 + 16


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 7), seed=st.integers(0, 2**32 - 1))
def test_halve_keeps_the_largest_of_each_window_and_never_pools_a_side_away(height, width, seed):
    features = np.random.default_rng(seed).normal(size=(1, height, width, 2)).astype("float32")
    symbolic = keras.Input((height, width, 2))
    got = keras.Model(symbolic, halve(symbolic, name="pool"))(features)

    rows, columns = max(1, height // 2), max(1, width // 2)
    tall, wide = min(2, height), min(2, width)
    expected = np.array(
        [
            [
                features[0, tall * r : tall * r + tall, wide * c : wide * c + wide].max(axis=(0, 1))
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    )[np.newaxis]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(got), expected)


@given(value=st.floats(-1e4, 1e4), knee=st.floats(0.01, 10.0))
def test_signed_log_is_odd_and_the_logarithm_beyond_its_knee(value, knee):
    got, mirrored = (float(SignedLog(knee)(np.float32([each]))[0]) for each in (value, -value))
    assert got == -mirrored
    expected = np.copysign(np.log(1.0 + abs(value) / knee), value)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_signed_log_survives_a_round_trip_of_its_configuration():
    layer = SignedLog(0.3, name="log")
    again = SignedLog.from_config(layer.get_config())
    assert (again.knee, again.name) == (0.3, "log")
    with pytest.raises(ValueError, match="knee must be above 0, got 0"):
        SignedLog(0)
