import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fakes import linear_model

from laser_dist.training.step import Batch, Stepper

REPLICAS = Path(__file__).with_name("replicas.py")
START = np.array([[1.0], [-2.0]], np.float32)
INPUTS = np.array([[1, 0], [2, 1], [0, 3], [1, 1], [4, -1]], np.float32)
TARGETS = np.array([[2], [1], [-5], [0], [3]], np.float32)


def squares(outputs, targets):
    """The loss, and the outputs themselves as a further metric."""
    return {"loss": (outputs[:, 0] - targets[:, 0]) ** 2, "output": outputs[:, 0]}


class Learner:
    """A linear model of two weights, whose step of rate 1 is its gradient."""

    def __init__(self):
        self.model = linear_model(START)
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(self.model.trainable_variables)
        strategy = tf.distribute.get_strategy()
        self.stepper = Stepper(strategy, self.model, squares, optimizer, local_replicas=1)

    def gradient(self, batch):
        self.model.set_weights([START])
        sums = self.stepper.train(batch)
        return START - self.model.get_weights()[0], sums


@pytest.fixture(scope="module")
def learner():
    return Learner()


def batch(places, weights=None, count=None):
    """A part of the examples; all of them weigh 1 and are all of their batch unless told."""
    places = list(places)
    weights = np.ones(len(places)) if weights is None else weights
    count = len(places) if count is None else count
    return Batch(INPUTS[places], TARGETS[places], np.array(weights, np.float32), count)


def mean_gradient(places):
    """Of the mean of (x w - y)^2 over the examples: 2 (x w - y) x on average."""
    errors = INPUTS[places] @ START - TARGETS[places]
    return np.mean(2 * errors * INPUTS[places], axis=0)[:, None]


def test_a_step_goes_down_the_gradient_of_the_mean_loss(learner):
    gradient, sums = learner.gradient(batch(range(5)))
    # Outputs 1, 0, -6, -1, 6 against 2, 1, -5, 0, 3: errors -1, -1, -1, -1, 3; squares 13 in all.
    assert sums == {"loss": 13, "output": 0, "count": 5}
    # 2 (-1 - 2 - 0 - 1 + 12) / 5 and 2 (0 - 1 - 3 - 1 - 3) / 5
    np.testing.assert_allclose(gradient, [[16 / 5], [-16 / 5]], rtol=1e-6)
    np.testing.assert_allclose(gradient, mean_gradient([0, 1, 2, 3, 4]), rtol=1e-6)


@settings(max_examples=20)
@given(present=st.lists(st.booleans(), min_size=5, max_size=5).filter(any))
def test_padding_changes_neither_gradient_nor_sums(learner, present):
    kept = [place for place in range(5) if present[place]]
    gradient, sums = learner.gradient(batch(range(5), weights=present, count=len(kept)))
    np.testing.assert_allclose(gradient, mean_gradient(kept), rtol=1e-5, atol=1e-6)
    alone, sums_alone = learner.gradient(batch(kept))
    np.testing.assert_allclose(gradient, alone, rtol=1e-5, atol=1e-6)
    assert sums == pytest.approx(sums_alone)


def test_a_share_of_nothing_but_padding_changes_nothing(learner):
    gradient, sums = learner.gradient(batch([0, 1], weights=[0, 0], count=3))
    np.testing.assert_array_equal(gradient, 0)
    assert set(sums.values()) == {0}


@settings(max_examples=20)
@given(first=st.integers(1, 4))
def test_the_parts_of_a_batch_add_up_to_it(learner, first):
    whole, sums = learner.gradient(batch(range(5)))
    parts = [range(first), range(first, 5)]
    (one, sums_one), (other, sums_other) = (learner.gradient(batch(p, count=5)) for p in parts)
    np.testing.assert_allclose(one + other, whole, rtol=1e-5, atol=1e-6)
    assert {name: sums_one[name] + sums_other[name] for name in sums} == pytest.approx(sums)


def test_measuring_gives_the_sums_and_leaves_the_weights(learner):
    _, sums = learner.gradient(batch(range(5)))
    learner.model.set_weights([START])
    assert learner.stepper.measure(batch(range(5))) == sums
    padded = learner.stepper.measure(batch([0, 2, 4], weights=[1, 1, 0]))
    assert padded == {"loss": 2, "output": -5, "count": 2}
    np.testing.assert_array_equal(learner.model.get_weights()[0], START)


def test_only_measuring_switches_training_off():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.999)])
    stepper = Stepper(
        tf.distribute.get_strategy(), model, squares, keras.optimizers.SGD(), local_replicas=1
    )
    assert stepper.measure(batch([2]))["output"] == 0
    assert stepper.measure(batch([1]))["output"] == 2


@pytest.mark.slow
def test_two_devices_learn_what_one_learns(tmp_path):
    # The devices of a process are fixed before TensorFlow starts: hence a process of its own.
    told_path = tmp_path / "told.json"
    subprocess.run([sys.executable, str(REPLICAS), str(told_path)], check=True, timeout=300)
    told = json.loads(told_path.read_text())
    assert told["replicas"] == 2
    # Adam divides by gradients near zero, which makes more of rounding.
    assert told["largest_difference"] < 1e-3 * told["moved"]
    for one, two in zip(told["sums_of_one"], told["sums_of_two"], strict=True):
        assert two == pytest.approx(one, rel=1e-4)
