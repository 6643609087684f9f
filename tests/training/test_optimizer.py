"""Optimizer of a stage: schedule, gradient clipping and weight decay."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fakes import linear_model

from laser_dist.training.config import StageConfig
from laser_dist.training.learning.loop import make_optimizer

pytestmark = pytest.mark.slow


def rates(optimizer, steps):
    """Return the learning rate of each step; steps are numbered from 0."""
    found = []
    for step in steps:
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    return np.array(found)


def test_a_constant_rate_does_not_change():
    settings = StageConfig(epochs=3, learning_rate=0.25, clip_norm=0.5)
    optimizer = make_optimizer(settings, steps_per_epoch=10)
    assert set(rates(optimizer, range(30))) == {0.25}
    assert optimizer.global_clipnorm == 0.5


def test_a_cosine_rate_rises_for_a_twentieth_and_falls_to_zero():
    settings = StageConfig(epochs=5, learning_rate=0.5, schedule="cosine")
    learning_rates = rates(make_optimizer(settings, steps_per_epoch=40), range(201))
    rising = 0.05 * np.arange(11)  # 200 / 20 steps
    np.testing.assert_allclose(learning_rates[:11], rising, rtol=1e-6)
    falling = 0.5 * (1 + np.cos(np.pi * np.arange(191) / 190)) / 2
    np.testing.assert_allclose(learning_rates[10:], falling, atol=1e-6)


@settings(max_examples=15)
@given(epochs=st.integers(1, 30), steps_per_epoch=st.integers(1, 30))
def test_any_cosine_rate_rises_to_one_maximum_and_ends_at_zero(epochs, steps_per_epoch):
    config = StageConfig(epochs=epochs, learning_rate=0.5, schedule="cosine")
    steps = epochs * steps_per_epoch
    learning_rates = rates(
        make_optimizer(config, steps_per_epoch), range(0, steps + 1, max(1, steps // 40))
    )
    highest = int(learning_rates.argmax())
    assert (np.diff(learning_rates[: highest + 1]) >= 0).all()
    assert (np.diff(learning_rates[highest:]) <= 0).all()
    assert learning_rates.max() <= 0.5
    optimizer = make_optimizer(config, steps_per_epoch)
    assert rates(optimizer, [max(2, steps)])[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("clip_norm", "expected"), [(2.0, 2 / math.sqrt(6)), (None, 10.0)])
def test_the_norm_of_a_gradient_is_kept_and_clipping_can_be_switched_off(clip_norm, expected):
    model = linear_model(np.zeros((3, 2), np.float32))
    optimizer = make_optimizer(StageConfig(epochs=1, clip_norm=clip_norm), steps_per_epoch=1)
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.ones((3, 2)) * 10], model.trainable_variables)
    assert float(optimizer.gradient_norm) == pytest.approx(10 * math.sqrt(6))
    # Adam's first moment after one step is a tenth of the gradient.
    momentum = next(v.numpy() for v in optimizer.variables if "momentum" in v.path)
    np.testing.assert_allclose(momentum, 0.1 * expected, rtol=1e-5)


def test_weight_decay_does_not_apply_to_biases_and_norms():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    settings = StageConfig(epochs=1, learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(settings, 1)
    optimizer.build(model.trainable_variables)
    model.set_weights([np.ones(each.shape) for each in model.get_weights()])
    gradients = [tf.zeros(each.shape) for each in model.trainable_variables]
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    values_by_name = {each.path.split("/")[-1]: each.numpy() for each in model.trainable_variables}
    np.testing.assert_allclose(values_by_name.pop("kernel"), 0.95)
    assert values_by_name.keys() == {"bias", "gamma", "beta"}
    for values in values_by_name.values():
        np.testing.assert_array_equal(values, 1)
