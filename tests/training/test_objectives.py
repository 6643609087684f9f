import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from laser_dist.training.learning.objectives import JointObjective, LevelObjective, frame_objective

pytestmark = pytest.mark.slow


def test_the_frame_loss_is_the_mean_squared_error_over_pixels_and_channels():
    frames = np.full((2, 1, 2, 3), 100, np.float32)
    targets = frames.copy()
    targets[0, 0, 0] = [98, 101, 100]  # errors 2, -1, 0 and three zeros: (4 + 1) / 6
    targets[1] = 90  # all errors are 10: 100
    values = frame_objective(frames, targets)
    assert values.keys() == {"loss"}
    np.testing.assert_allclose(values["loss"], [5 / 6, 100])


def test_uint8_frames_do_not_wrap_around():
    frames = np.full((1, 2, 2, 3), 1, np.uint8)
    targets = np.full((1, 2, 2, 3), 255, np.uint8)
    assert frame_objective(frames, targets)["loss"].numpy() == [254**2]


def test_the_level_loss_is_the_mean_absolute_error():
    levels = np.array([[20, 30, 40], [25, 25, 25]], np.float32)
    targets = np.array([[21, 28, 40], [25, 28, 31]], np.float32)
    values = LevelObjective()(levels, targets)
    assert list(values) == ["loss", "jnd1", "jnd2", "jnd3"]
    np.testing.assert_array_equal(values["jnd1"], [1, 0])
    np.testing.assert_array_equal(values["jnd2"], [2, 3])
    np.testing.assert_array_equal(values["jnd3"], [0, 6])
    np.testing.assert_array_equal(values["loss"], [(1 + 2 + 0) / 3, (0 + 3 + 6) / 3])


def test_missing_levels_are_excluded_from_the_loss():
    levels = np.array([[20, 30, 40], [25, 25, 25], [1, 2, 3]], np.float32)
    targets = np.array([[21, 28, np.nan], [np.nan, np.nan, 31], [np.nan] * 3], np.float32)
    values = LevelObjective()(levels, targets)
    np.testing.assert_array_equal(values["jnd1"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(values["jnd2"], [2, np.nan, np.nan])
    np.testing.assert_array_equal(values["jnd3"], [np.nan, 6, np.nan])
    np.testing.assert_allclose(values["loss"], [(1 + 2) / 2, 6, 0], rtol=1e-6)


def test_a_missing_level_has_no_gradient():
    levels = tf.Variable([[20.0, 30.0, 40.0], [25.0, 25.0, 25.0]])
    targets = np.array([[21, 28, np.nan], [np.nan, np.nan, np.nan]], np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(LevelObjective()(levels, targets)["loss"])
    gradient = tape.gradient(loss, levels).numpy()
    np.testing.assert_allclose(gradient, [[-1 / 2, 1 / 2, 0], [0, 0, 0]], rtol=1e-6)


@tf.function(input_signature=[tf.TensorSpec([None, 3])] * 2)
def losses_and_gradients(levels, targets):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(levels)
        masked = LevelObjective()(levels, targets)["loss"]
        plain = tf.reduce_mean(tf.abs(levels - targets), axis=1)
    return (masked, tape.gradient(masked, levels)), (plain, tape.gradient(plain, levels))


@given(batch=st.integers(1, 40), seed=st.integers(0, 99))
def test_without_missing_levels_the_loss_is_the_mean_bit_for_bit(batch, seed):
    rng = np.random.default_rng(seed)
    levels, targets = rng.uniform(0, 51, size=(2, batch, 3)).astype(np.float32)
    for masked, plain in zip(*losses_and_gradients(levels, targets), strict=True):
        np.testing.assert_array_equal(masked, plain)


@given(num_levels=st.sampled_from([1, 3]), batch=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_loss_of_an_example_does_not_depend_on_its_batch(num_levels, batch, seed):
    rng = np.random.default_rng(seed)
    levels, targets = rng.uniform(0, 51, size=(2, batch, num_levels)).astype(np.float32)
    objective = LevelObjective((1, 2, 3) if num_levels == 3 else (2,))
    together = objective(levels, targets)
    assert len(together) == 1 + num_levels
    for index in range(batch):
        single = objective(levels[index : index + 1], targets[index : index + 1])
        for name, values in together.items():
            assert values.shape == (batch,)
            assert values[index].numpy() == pytest.approx(single[name][0].numpy())


@pytest.mark.parametrize("higher_is_worse", [True, False])
def test_the_likelihood_is_the_one_of_a_normal_distribution(higher_is_worse):
    rng = np.random.default_rng(0)
    samples = rng.normal(31, 4, size=(2, 3, 20))
    level, spread = np.full((2, 3), 28.0), np.full((2, 3), 5.0)
    sign = 1 if higher_is_worse else -1
    mean = level + sign * norm.ppf(0.75) * spread
    expected = -norm.logpdf(samples, mean[..., None], spread[..., None]).mean((1, 2))
    targets = np.stack([level, samples.mean(2), samples.var(2)], -1).astype(np.float32)
    predictions = np.stack([level, spread], -1).astype(np.float32)
    values = LevelObjective((1, 2, 3), True, higher_is_worse)(predictions, targets)
    np.testing.assert_allclose(values["likelihood"], expected, rtol=1e-4)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-4)  # the levels have no error


def test_a_level_without_samples_has_no_likelihood_but_a_level_loss():
    predictions = tf.Variable([[[20.0, 3.0], [30.0, 3.0]], [[20.0, 3.0], [30.0, 3.0]]])
    nan = np.nan
    targets = np.array([[[21, 22, 9], [33, nan, nan]], [[nan] * 3, [31, nan, nan]]], np.float32)
    with tf.GradientTape() as tape:
        values = LevelObjective((1, 2), True)(predictions, targets)
        loss = tf.reduce_sum(values["loss"])
    np.testing.assert_array_equal(values["jnd2"], [3, 1])
    np.testing.assert_array_equal(values["jnd1"], [1, nan])
    assert np.isfinite(values["likelihood"][0])
    assert np.isnan(values["likelihood"][1])
    assert values["loss"][1] == 1
    gradient = tape.gradient(loss, predictions).numpy()
    assert np.isfinite(gradient).all()
    assert (gradient[1, 0] == 0).all()


def test_the_joint_loss_has_the_published_weights():
    frames, target_frames = np.full((1, 2, 2, 3), 10.0), np.full((1, 2, 2, 3), 20.0)
    values = JointObjective(LevelObjective((2,)))(
        [frames, np.array([[30.0]])], [target_frames, np.array([[33.0]])]
    )
    np.testing.assert_allclose(values["loss"], [0.01 * 100 + 0.99 * 3], rtol=1e-6)
    np.testing.assert_allclose(values["frame"], [100])
    np.testing.assert_allclose(values["jnd2"], [3])
