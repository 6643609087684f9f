import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from laser_dist.errors import UserError
from laser_dist.models.heads import build_head
from laser_dist.models.specs import LATENT_HEAD, RECONSTRUCTION_HEAD, HeadSpec

# Keras 3.15 turns a variable into an array by `np.array(variable)` while saving; TensorFlow's
# variables lack the `copy` argument that numpy 2 asks for. It makes a copy instead: harmless.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
]

SHAPE = (4, 3, 6)
TINY = HeadSpec(filters=(4, 8), pool_every=2, attention_ratio=2, dense=(5, 3))
TINY_RECONSTRUCTION = HeadSpec(
    filters=(4, 3), pool_every=1, attention_ratio=None, dense=(5,), shared_dense=True
)
FAMILIES = pytest.mark.parametrize("spec", [TINY, TINY_RECONSTRUCTION])
LEVELS = pytest.mark.parametrize("levels", [1, 3])


def features(levels, shape=SHAPE, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    branches = [rng.normal(size=(batch, *shape)).astype("float32") for _ in range(levels)]
    return branches[0] if levels == 1 else branches


def run(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def randomize(head, rng):
    """Any weights, but that variances are above zero."""
    for weight in head.weights:
        values = rng.normal(0, 2, weight.shape)
        weight.assign(np.abs(values) + 0.1 if weight.path.endswith("variance") else values)


def layer_names(model):
    return [type(layer).__name__ for layer in model.layers]


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    levels=st.sampled_from([1, 3]),
    reconstruction=st.booleans(),
    pooling=st.sampled_from(["flatten", "average"]),
)
def test_heads_adapt_to_any_feature_size(height, width, levels, reconstruction, pooling):
    deep = dataclasses.replace(
        TINY_RECONSTRUCTION if reconstruction else TINY, filters=(4,) * 6, pooling=pooling
    )
    shape = (height, width, 3)
    head = build_head(deep, shape, levels=levels)
    assert head.output_shape == (None, levels)
    assert run(head, features(levels, shape)).shape == (2, levels)


def test_latent_head_has_the_published_layers_in_order():
    assert layer_names(build_head(LATENT_HEAD, (22, 40, 192), levels=1))[1:] == [
        "BatchNormalization",
        *(["Conv2D", "BatchNormalization", "ReLU", "ChannelAttention"] * 2),
        "MaxPooling2D",
        *(["Conv2D", "BatchNormalization", "ReLU", "ChannelAttention"] * 2),
        "MaxPooling2D",
        "Flatten",
        "Dense",
        "Dense",
        "Dense",
    ]


def test_reconstruction_head_has_the_published_layers_in_order():
    assert layer_names(build_head(RECONSTRUCTION_HEAD, (64, 64, 3), levels=1))[1:] == [
        "BatchNormalization",
        *(["Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D"] * 5),
        "Flatten",
        "Dense",
        "Dense",
    ]


@LEVELS
@FAMILIES
def test_hidden_layers_are_relu_and_the_output_is_as_asked(spec, levels):
    for output in ("linear", "relu"):
        head = build_head(dataclasses.replace(spec, output=output), SHAPE, levels=levels)
        dense = [layer for layer in head.layers if isinstance(layer, keras.layers.Dense)]
        outputs = [layer for layer in dense if layer.units == 1]
        assert len(outputs) == levels
        for layer in dense:
            name = output if layer in outputs else "relu"
            assert layer.activation is keras.activations.get(name)


def test_multi_level_latent_head_has_its_own_dense_part_per_level_and_the_other_shares_it():
    vector = 2 * 1 * 8  # (4, 3) halved once, 8 channels
    own = vector * 5 + 5 + 5 * 3 + 3 + 3 * 1 + 1
    latent_dense = [
        layer.count_params()
        for layer in build_head(TINY, SHAPE, levels=3).layers
        if isinstance(layer, keras.layers.Dense)
    ]
    assert sum(latent_dense) == 3 * own

    vector = 1 * 1 * 3  # (4, 3) halved twice, 3 channels
    shared = vector * 5 + 5
    shared_dense = [
        layer.count_params()
        for layer in build_head(TINY_RECONSTRUCTION, SHAPE, levels=3).layers
        if isinstance(layer, keras.layers.Dense)
    ]
    assert sum(shared_dense) == shared + 3 * (5 * 1 + 1)


@FAMILIES
def test_branches_are_multiplied_element_by_element(spec):
    head = build_head(spec, SHAPE, levels=3)
    inputs = features(3)
    product = head.get_layer("product")
    # A model of one input alone: Keras refuses it if a branch sees another branch's features.
    branches = [
        run(keras.Model(one, branch), values)
        for one, branch, values in zip(head.inputs, product.input, inputs, strict=True)
    ]
    assert all(branch.std() > 0 for branch in branches)
    expected = np.empty_like(branches[0])
    for index in np.ndindex(expected.shape):
        expected[index] = branches[0][index] * branches[1][index] * branches[2][index]
    got = run(keras.Model(head.inputs, product.output), inputs)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@LEVELS
@FAMILIES
def test_outputs_start_at_the_given_levels(spec, levels):
    start = [25.0, 31.0, 36.5][:levels]

    def outputs(initial_levels):
        keras.utils.set_random_seed(5)
        head = build_head(spec, SHAPE, levels=levels, initial_levels=initial_levels)
        return run(head, features(levels))

    difference = outputs(start) - outputs(None)
    np.testing.assert_allclose(difference, [start, start], atol=1e-4)


@LEVELS
@FAMILIES
@pytest.mark.parametrize("seed", range(4))
def test_every_weight_has_a_gradient_at_the_start(spec, levels, seed):
    keras.utils.set_random_seed(seed)
    # Wide enough that no seed leaves a whole hidden layer silent.
    wide = dataclasses.replace(spec, filters=(16, 16), dense=(32,) * len(spec.dense))
    head = build_head(wide, SHAPE, levels=levels, initial_levels=[30.0] * levels)
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.ops.abs(head(features(levels, batch=8), training=True) - 20.0))
    gradients = tape.gradient(loss, [weight.value for weight in head.trainable_weights])
    silent = [
        weight.path
        for weight, gradient in zip(head.trainable_weights, gradients, strict=True)
        if gradient is None or not np.any(gradient.numpy())
    ]
    assert silent == []


def test_published_relu_output_is_dead_below_zero_where_the_linear_one_lives():
    # A bias far below any activation stands for the half of all random starts that are dead.
    for output, alive in (("relu", False), ("linear", True)):
        spec = dataclasses.replace(TINY, output=output)
        head = build_head(spec, SHAPE, levels=1, initial_levels=[-1000.0])
        with tf.GradientTape() as tape:
            levels = head(features(1))
        gradients = tape.gradient(levels, [weight.value for weight in head.trainable_weights])
        assert any(np.any(gradient.numpy()) for gradient in gradients) is alive


def test_average_pooling_ignores_position_and_size():
    spec = dataclasses.replace(TINY, filters=(4,), pooling="average")
    small, large = (build_head(spec, (size, size, 6), levels=1) for size in (2, 8))
    assert small.count_params() == large.count_params()
    # Of constant features, away from the border that the convolution pads, nothing but the channel
    # means is left; a 1×1 kernel in the middle of the 3×3 removes the border.
    kernel = np.zeros((3, 3, 6, 4))
    kernel[1, 1] = np.random.default_rng(0).normal(size=(6, 4))
    small.get_layer("branch_block1_conv").set_weights([kernel, np.zeros(4)])
    large.set_weights(small.get_weights())
    one = features(1, (1, 1, 6))
    np.testing.assert_allclose(
        run(small, np.tile(one, (1, 2, 2, 1))), run(large, np.tile(one, (1, 8, 8, 1))), rtol=1e-5
    )


@pytest.mark.parametrize("pooling", ["flatten", "average"])
def test_first_dense_layer_sees_what_the_pooling_leaves(pooling):
    head = build_head(dataclasses.replace(TINY, pooling=pooling), (6, 4, 6), levels=1)
    vector = {"flatten": 3 * 2 * 8, "average": 8}[pooling]
    assert head.get_layer("jnd_dense1").kernel.shape == (vector, 5)


@LEVELS
@FAMILIES
def test_head_survives_saving(spec, levels, tmp_path):
    head = build_head(spec, SHAPE, levels=levels, initial_levels=[30.0] * levels)
    rng = np.random.default_rng(0)
    # Also the batch norms' statistics must come back, which at the start are 0 and 1.
    head.set_weights([rng.uniform(0.1, 1.0, size=weight.shape) for weight in head.weights])
    head.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
    np.testing.assert_array_equal(run(loaded, features(levels)), run(head, features(levels)))


def test_levels_come_out_in_float32_under_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        head = build_head(TINY, SHAPE, levels=3, initial_levels=[25.3, 31.1, 36.7])
    finally:
        keras.config.set_dtype_policy(policy)
    assert head.get_layer("block2_conv").compute_dtype == "bfloat16"
    levels = head([0 * each for each in features(3)])
    assert levels.dtype == "float32"
    # Zero features leave the biases; bfloat16 anywhere would give 25.25, 31.125, 36.75.
    np.testing.assert_allclose(levels, [[25.3, 31.1, 36.7]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings_given", "message"),
    [
        ({"filters": ()}, "head.filters must hold at least one"),
        ({"filters": (4, 0)}, r"head.filters must be at least 1, not \(4, 0\)"),
        ({"dense": (0,)}, r"head.dense must be at least 1, not \(0,\)"),
        ({"pool_every": 0}, "pool_every must be at least 1, not 0"),
        ({"attention_ratio": 0}, "attention_ratio must be at least 1, not 0"),
        ({"pooling": "max"}, "pooling must be flatten or average, not max"),
        ({"output": "softplus"}, "output must be linear or relu, not softplus"),
    ],
)
def test_invalid_head_settings_are_refused(settings_given, message):
    with pytest.raises(UserError, match=message):
        HeadSpec(**settings_given)


def test_a_head_of_two_levels_or_with_missing_start_values_is_refused():
    with pytest.raises(ValueError, match="levels must be 1 or 3, got 2"):
        build_head(TINY, SHAPE, levels=2)
    with pytest.raises(ValueError, match="initial_levels must hold 3 values, got 1"):
        build_head(TINY, SHAPE, levels=3, initial_levels=[30.0])


@LEVELS
def test_a_knee_compresses_each_branch_after_its_norm_and_survives_saving(levels, tmp_path):
    spec = dataclasses.replace(TINY, knee=0.2)
    head = build_head(spec, SHAPE, levels=levels)
    for name in ("",) if levels == 1 else ("1", "2", "3"):
        log = head.get_layer(f"branch{name}_log")
        assert (log.knee, log.input is head.get_layer(f"branch{name}_norm").output) == (0.2, True)
    head.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
    inputs = features(levels)
    np.testing.assert_array_equal(run(loaded, inputs), run(head, inputs))
    assert not any("SignedLog" in layer_names(build_head(TINY, SHAPE, levels=n)) for n in (1, 3))


@pytest.mark.parametrize("knee", [0.0, -1.0, float("inf"), float("nan")])
def test_an_invalid_knee_is_refused(knee):
    with pytest.raises(UserError, match="head.knee must be above 0 or none"):
        dataclasses.replace(TINY, knee=knee)


@pytest.mark.parametrize("higher_is_worse", [True, False])
@FAMILIES
def test_ordered_levels_never_get_better_whatever_the_weights(spec, higher_is_worse):
    ordered = dataclasses.replace(spec, ordered=True)
    head = build_head(ordered, SHAPE, levels=3, higher_is_worse=higher_is_worse)
    rng = np.random.default_rng(0)
    for _ in range(5):
        randomize(head, rng)
        steps = np.diff(run(head, features(3, batch=8, seed=int(rng.integers(99)))), axis=1)
        assert ((steps >= 0) if higher_is_worse else (steps <= 0)).all()


@pytest.mark.parametrize("start", [[26.0, 30.0, 35.0], [26.0, 30.0, 30.0]])
def test_ordered_levels_start_at_the_given_ones(start):
    head = build_head(
        dataclasses.replace(TINY, ordered=True), SHAPE, levels=3, initial_levels=start
    )
    levels = run(head, [np.zeros((1, *SHAPE), "float32")] * 3)
    np.testing.assert_allclose(levels, [start], atol=0.11)


@LEVELS
@pytest.mark.parametrize("ordered", [False, True])
@FAMILIES
def test_a_head_with_spreads_gives_level_and_spread(spec, ordered, levels):
    wide = dataclasses.replace(spec, spread=True, ordered=ordered)
    start = [26.0, 30.0, 35.0][:levels]
    head = build_head(
        wide, SHAPE, levels=levels, initial_levels=start, initial_spreads=[4.0] * levels
    )
    blank = np.zeros((1, *SHAPE), "float32")
    output = run(head, [blank] * 3 if levels == 3 else blank)
    assert output.shape == (1, levels, 2)
    np.testing.assert_allclose(output[0, :, 0], start, rtol=1e-5)
    np.testing.assert_allclose(output[0, :, 1], 4.0, rtol=1e-5)
    rng = np.random.default_rng(1)
    randomize(head, rng)
    assert (run(head, features(levels))[..., 1] >= 0.25).all()


def test_start_values_of_spreads_are_checked():
    with pytest.raises(ValueError, match="initial_spreads must be above 0.25"):
        build_head(TINY, SHAPE, levels=1, initial_spreads=[0.0])
    with pytest.raises(UserError, match="head.ordered=true requires head.output=linear"):
        HeadSpec(ordered=True, output="relu")
