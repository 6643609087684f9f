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

from laser_dist.training.examples.order import Batch
from laser_dist.training.learning.objectives import LevelObjective
from laser_dist.training.learning.step import Mean, Stepper

REPLICAS = Path(__file__).with_name("replicas.py")
START = np.array([[1.0], [-2.0]], np.float32)
INPUTS = np.array([[1, 0], [2, 1], [0, 3], [1, 1], [4, -1]], np.float32)
TARGETS = np.array([[2], [1], [-5], [0], [3]], np.float32)
LEVELS = np.array([[2, 4, 6], [1, 0, 9], [-5, 3, 3], [0, 1, 1], [3, 3, 7]], np.float32)


def squares(outputs, targets):
    """The loss, and the outputs themselves as a further metric."""
    return {"loss": (outputs[:, 0] - targets[:, 0]) ** 2, "output": outputs[:, 0]}


def plain(means):
    """Totals and counts by name, to be compared up to rounding."""
    return {
        f"{name} {part}": value
        for name, mean in means.items()
        for part, value in (("total", mean.total), ("count", mean.count))
    }


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
        means = self.stepper.train(batch)
        return START - self.model.get_weights()[0], means


@pytest.fixture(scope="module")
def learner():
    return Learner()


@pytest.fixture(scope="module")
def level_stepper():
    """Steps of a model of three levels."""
    optimizer = keras.optimizers.SGD(1.0)
    model = linear_model(np.array([[1.0, 2.0, -1.0], [0.5, -2.0, 3.0]]))
    optimizer.build(model.trainable_variables)
    stepper = Stepper(
        tf.distribute.get_strategy(), model, LevelObjective(), optimizer, local_replicas=1
    )
    stepper.model = model
    return stepper


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
    gradient, means = learner.gradient(batch(range(5)))
    # Outputs 1, 0, -6, -1, 6 against 2, 1, -5, 0, 3: errors -1, -1, -1, -1, 3; squares 13 in all.
    assert means == {"loss": Mean(13, 5), "output": Mean(0, 5)}
    # 2 (-1 - 2 - 0 - 1 + 12) / 5 and 2 (0 - 1 - 3 - 1 - 3) / 5
    np.testing.assert_allclose(gradient, [[16 / 5], [-16 / 5]], rtol=1e-6)
    np.testing.assert_allclose(gradient, mean_gradient([0, 1, 2, 3, 4]), rtol=1e-6)


@settings(max_examples=20)
@given(present=st.lists(st.booleans(), min_size=5, max_size=5).filter(any))
def test_padding_changes_neither_gradient_nor_sums(learner, present):
    kept = [place for place in range(5) if present[place]]
    gradient, means = learner.gradient(batch(range(5), weights=present, count=len(kept)))
    np.testing.assert_allclose(gradient, mean_gradient(kept), rtol=1e-5, atol=1e-6)
    alone, means_alone = learner.gradient(batch(kept))
    np.testing.assert_allclose(gradient, alone, rtol=1e-5, atol=1e-6)
    assert plain(means) == pytest.approx(plain(means_alone))


def test_a_share_of_nothing_but_padding_changes_nothing(learner):
    gradient, means = learner.gradient(batch([0, 1], weights=[0, 0], count=3))
    np.testing.assert_array_equal(gradient, 0)
    assert set(means.values()) == {Mean()}


@settings(max_examples=20)
@given(first=st.integers(1, 4))
def test_the_parts_of_a_batch_add_up_to_it(learner, first):
    whole, means = learner.gradient(batch(range(5)))
    parts = [range(first), range(first, 5)]
    (one, means_one), (other, means_other) = (learner.gradient(batch(p, count=5)) for p in parts)
    np.testing.assert_allclose(one + other, whole, rtol=1e-5, atol=1e-6)
    merged = {name: means_one[name].merge(means_other[name]) for name in means}
    assert plain(merged) == pytest.approx(plain(means))


def test_measuring_gives_the_sums_and_leaves_the_weights(learner):
    _, means = learner.gradient(batch(range(5)))
    learner.model.set_weights([START])
    assert learner.stepper.measure(batch(range(5))) == means
    padded = learner.stepper.measure(batch([0, 2, 4], weights=[1, 1, 0]))
    assert padded == {"loss": Mean(2, 2), "output": Mean(-5, 2)}
    np.testing.assert_array_equal(learner.model.get_weights()[0], START)


@settings(max_examples=20)
@given(
    missing=st.lists(st.booleans(), min_size=15, max_size=15).map(
        lambda flags: np.array(flags).reshape(5, 3)
    ),
    first=st.integers(1, 4),
)
def test_missing_levels_are_counted_out_however_a_batch_is_cut(level_stepper, missing, first):
    levels = np.where(missing, np.nan, LEVELS).astype(np.float32)
    parts = [slice(0, first), slice(first, 5)]
    one, other = (
        level_stepper.measure(
            Batch(INPUTS[part], levels[part], np.ones(len(levels[part]), np.float32), 5)
        )
        for part in parts
    )
    outputs = level_stepper.model(INPUTS).numpy()
    for index in range(3):
        errors = np.abs(outputs - LEVELS)[~missing[:, index], index]
        merged = one[f"jnd{index + 1}"].merge(other[f"jnd{index + 1}"])
        assert merged.count == len(errors)
        assert merged.total == pytest.approx(errors.sum(), rel=1e-5)
    assert one["loss"].count + other["loss"].count == 5


def test_a_loss_that_is_no_number_is_never_taken_for_a_missing_value(learner):
    one = Batch(np.full((2, 2), np.nan, np.float32), TARGETS[:2], np.ones(2, np.float32), 2)
    assert np.isnan(learner.stepper.measure(one)["loss"].total)
    assert learner.stepper.measure(one)["output"] == Mean()


def test_means_combine_as_their_values_do_and_nothing_is_neutral():
    values = [1.0, 4.0, 7.0]
    one, other = Mean(sum(values[:1]), 1), Mean(sum(values[1:]), 2)
    assert one.merge(other) == other.merge(one)
    assert one.merge(other).compute() == np.mean(values)
    assert Mean().merge(one) == one
    assert np.isnan(Mean().compute())


def test_only_measuring_switches_training_off():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.999)])
    stepper = Stepper(
        tf.distribute.get_strategy(), model, squares, keras.optimizers.SGD(), local_replicas=1
    )
    assert stepper.measure(batch([2]))["output"].total == 0
    assert stepper.measure(batch([1]))["output"].total == 2


@pytest.mark.slow
def test_two_devices_learn_what_one_learns(tmp_path):
    # The devices of a process are fixed before TensorFlow starts: hence a separate process.
    told_path = tmp_path / "told.json"
    subprocess.run([sys.executable, str(REPLICAS), str(told_path)], check=True, timeout=300)
    told = json.loads(told_path.read_text())
    assert told["replicas"] == 2
    # Adam divides by gradients near zero, which makes more of rounding.
    assert told["largest_difference"] < 1e-3 * told["moved"]
    for one, two in zip(told["means_of_one"], told["means_of_two"], strict=True):
        assert one.keys() == two.keys()
        for name, (total, count) in one.items():
            assert two[name] == pytest.approx([total, count], rel=1e-4)
    assert told["shared"] == [[0, 1], [0.5, 0.5]]
    # Of the 26 examples of five batches every third lacks its second level; each is seen twice.
    assert sum(means["jnd1"][1] for means in told["means_of_one"]) == 2 * 26
    assert sum(means["jnd2"][1] for means in told["means_of_one"]) == 2 * (4 * 4 + 1)
