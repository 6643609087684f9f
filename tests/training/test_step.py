import json
import subprocess
import sys
from pathlib import Path

import keras
import ml_dtypes  # noqa: F401 - gives NumPy the type bfloat16
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fakes import linear_model, prepared

from laser_dist.examples.order import Batch
from laser_dist.training.learning.objectives import LevelObjective
from laser_dist.training.learning.step import REQUESTS, Mean, Stepper

pytestmark = pytest.mark.slow

REPLICAS = Path(__file__).with_name("replicas.py")
START = np.array([[1.0], [-2.0]], np.float32)
INPUTS = np.array([[1, 0], [2, 1], [0, 3], [1, 1], [4, -1]], np.float32)
TARGETS = np.array([[2], [1], [-5], [0], [3]], np.float32)
LEVELS = np.array([[2, 4, 6], [1, 0, 9], [-5, 3, 3], [0, 1, 1], [3, 3, 7]], np.float32)


def squares(outputs, targets):
    """Return the loss, and the outputs as another metric."""
    return {"loss": (outputs[:, 0] - targets[:, 0]) ** 2, "output": outputs[:, 0]}


def plain(means):
    """Return totals and counts by name, for comparison with a tolerance."""
    return {
        f"{name} {part}": value
        for name, mean in means.items()
        for part, value in (("total", mean.total), ("count", mean.count))
    }


def measure(stepper, batch):
    return stepper.measure(stepper.to_devices(batch))()[0]


class Learner:
    """Linear model of two weights; with learning rate 1, a step equals the gradient."""

    def __init__(self):
        self.model = linear_model(START)
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(self.model.trainable_variables)
        strategy = tf.distribute.get_strategy()
        self.stepper = Stepper(strategy, self.model, squares, optimizer, local_replicas=1)

    def gradient(self, batch):
        self.model.set_weights([START])
        (means,) = self.stepper.train(self.stepper.to_devices(batch))()
        assert means.pop(REQUESTS) == Mean(0, 0)
        return START - self.model.get_weights()[0], means


@pytest.fixture(scope="module")
def learner():
    return Learner()


@pytest.fixture(scope="module")
def level_stepper():
    """Return a stepper of a model with three levels."""
    optimizer = keras.optimizers.SGD(1.0)
    model = linear_model(np.array([[1.0, 2.0, -1.0], [0.5, -2.0, 3.0]]))
    optimizer.build(model.trainable_variables)
    stepper = Stepper(
        tf.distribute.get_strategy(), model, LevelObjective(), optimizer, local_replicas=1
    )
    stepper.model = model
    return stepper


def batch(indices, weights=None, count=None):
    """Return a batch of some examples; by default it is the global batch, with weights of 1."""
    indices = list(indices)
    weights = np.ones(len(indices)) if weights is None else weights
    count = len(indices) if count is None else count
    return Batch(INPUTS[indices], TARGETS[indices], np.array(weights, np.float32), count)


def mean_gradient(indices):
    """Return the gradient of the mean of (x w - y)^2 over the examples."""
    errors = INPUTS[indices] @ START - TARGETS[indices]
    return np.mean(2 * errors * INPUTS[indices], axis=0)[:, None]


def test_a_step_follows_the_gradient_of_the_mean_loss(learner):
    gradient, means = learner.gradient(batch(range(5)))
    # Outputs 1, 0, -6, -1, 6 against 2, 1, -5, 0, 3: errors -1, -1, -1, -1, 3; squares sum to 13.
    assert means == {"loss": Mean(13, 5), "output": Mean(0, 5)}
    # 2 (-1 - 2 - 0 - 1 + 12) / 5 and 2 (0 - 1 - 3 - 1 - 3) / 5
    np.testing.assert_allclose(gradient, [[16 / 5], [-16 / 5]], rtol=1e-6)
    np.testing.assert_allclose(gradient, mean_gradient([0, 1, 2, 3, 4]), rtol=1e-6)


@settings(max_examples=20)
@given(present=st.lists(st.booleans(), min_size=5, max_size=5).filter(any))
def test_padding_changes_neither_the_gradient_nor_the_sums(learner, present):
    indices = [index for index in range(5) if present[index]]
    gradient, means = learner.gradient(batch(range(5), weights=present, count=len(indices)))
    np.testing.assert_allclose(gradient, mean_gradient(indices), rtol=1e-5, atol=1e-6)
    expected, expected_means = learner.gradient(batch(indices))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    assert plain(means) == pytest.approx(plain(expected_means))


def test_a_batch_of_only_padding_changes_nothing(learner):
    gradient, means = learner.gradient(batch([0, 1], weights=[0, 0], count=3))
    np.testing.assert_array_equal(gradient, 0)
    assert set(means.values()) == {Mean()}


@settings(max_examples=20)
@given(first=st.integers(1, 4))
def test_the_gradients_of_a_batchs_parts_add_up(learner, first):
    full, means = learner.gradient(batch(range(5)))
    parts = [range(first), range(first, 5)]
    (one, means_one), (other, means_other) = (learner.gradient(batch(p, count=5)) for p in parts)
    np.testing.assert_allclose(one + other, full, rtol=1e-5, atol=1e-6)
    merged = {name: means_one[name].merge(means_other[name]) for name in means}
    assert plain(merged) == pytest.approx(plain(means))


def test_measure_returns_the_sums_and_does_not_change_the_weights(learner):
    _, means = learner.gradient(batch(range(5)))
    learner.model.set_weights([START])
    assert measure(learner.stepper, batch(range(5))) == means
    padded = measure(learner.stepper, batch([0, 2, 4], weights=[1, 1, 0]))
    assert padded == {"loss": Mean(2, 2), "output": Mean(-5, 2)}
    np.testing.assert_array_equal(learner.model.get_weights()[0], START)


@settings(max_examples=20)
@given(
    missing=st.lists(st.booleans(), min_size=15, max_size=15).map(
        lambda flags: np.array(flags).reshape(5, 3)
    ),
    first=st.integers(1, 4),
)
def test_missing_levels_are_excluded_for_any_division_of_a_batch(level_stepper, missing, first):
    levels = np.where(missing, np.nan, LEVELS).astype(np.float32)
    parts = [slice(0, first), slice(first, 5)]
    one, other = (
        measure(
            level_stepper,
            Batch(INPUTS[part], levels[part], np.ones(len(levels[part]), np.float32), 5),
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


def test_a_nan_loss_is_not_treated_as_a_missing_value(learner):
    one = Batch(np.full((2, 2), np.nan, np.float32), TARGETS[:2], np.ones(2, np.float32), 2)
    assert np.isnan(measure(learner.stepper, one)["loss"].total)
    assert measure(learner.stepper, one)["output"] == Mean()


def test_merged_means_equal_the_mean_of_all_values_and_an_empty_mean_is_neutral():
    values = [1.0, 4.0, 7.0]
    one, other = Mean(sum(values[:1]), 1), Mean(sum(values[1:]), 2)
    assert one.merge(other) == other.merge(one)
    assert one.merge(other).compute() == np.mean(values)
    assert Mean().merge(one) == one
    assert np.isnan(Mean().compute())


def test_measure_runs_the_model_in_inference_mode():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.999)])
    stepper = Stepper(
        tf.distribute.get_strategy(), model, squares, keras.optimizers.SGD(), local_replicas=1
    )
    assert measure(stepper, batch([2]))["output"].total == 0
    assert measure(stepper, batch([1]))["output"].total == 2


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Return what `replicas.py` writes."""
    # Devices must be configured before TensorFlow starts, which needs a separate process.
    path = tmp_path_factory.mktemp("replicas") / "result.json"
    subprocess.run([sys.executable, str(REPLICAS), str(path)], check=True, timeout=300)
    return json.loads(path.read_text())


def test_batch_norms_ignore_padding_on_any_number_of_devices(replicas):
    """Batches of 8 are padded on these numbers of devices, and the last one, of 5, on one too."""
    assert replicas["norms"].keys() == {"3", "5", "6", "7"}
    for found in replicas["norms"].values():
        assert found["difference"] < 1e-3 * found["moved"]
    assert replicas["norms"]["3"]["unsynchronized"] > 0.1 * replicas["norms"]["3"]["moved"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_are_added_up_in_the_format_that_is_asked_for(replicas, precision):
    """The sum is that of NumPy with the same format."""
    gradients, sums = replicas["gradients"][precision]
    parts = np.array(gradients, np.float32).astype(np.dtype(precision))
    expected = (parts[0] + parts[1]).astype(np.float32)
    for received in sums:
        np.testing.assert_array_equal(np.array(received, np.float32), expected)
    exact = np.sum(gradients, axis=0)
    bound = (
        0 if precision == "float32" else 1.01 * 2**-8 * (np.abs(gradients).sum(0) + np.abs(exact))
    )
    assert (np.abs(expected - exact) <= bound + 1e-6).all()


def test_two_devices_learn_the_same_as_one(replicas):
    result = replicas
    assert result["replicas"] == 2
    # Adam divides by gradients near zero, which amplifies rounding errors.
    assert result["largest_difference"] < 1e-3 * result["moved"]
    for one, two in zip(result["means_of_one"], result["means_of_two"], strict=True):
        assert one.keys() == two.keys()
        for name, (total, count) in one.items():
            assert two[name] == pytest.approx([total, count], rel=1e-4)
    assert result["shared"] == [[0, 1], [0.5, 0.5]]
    # Every third of the 26 examples in five batches lacks its second level; each is used twice.
    assert sum(means["jnd1"][1] for means in result["means_of_one"]) == 2 * 26
    assert sum(means["jnd2"][1] for means in result["means_of_one"]) == 2 * (4 * 4 + 1)


@pytest.mark.parametrize("blended", [False, True])
def test_the_model_gets_float_frames_that_are_mirrored_or_features_that_are_blended(blended):
    """The values are those of NumPy's operations on the batch."""
    rng = np.random.default_rng(0)
    weights, levels = np.ones(4, np.float32), rng.normal(size=(4, 1)).astype(np.float32)
    if blended:
        features = [rng.normal(size=(4, 2, 3, 5)).astype(np.float16) for _ in range(4)]
        kept = np.array([0, 0.25, 0.5, 1], np.float32)
        one = Batch(features[:2], levels, weights, 4, mates=features[2:], kept=kept)
        inputs = [keras.Input((2, 3, 5)) for _ in range(2)]
    else:
        raw, target = rng.integers(256, size=(2, 4, 6, 8, 3), dtype=np.uint8)
        mirrored = np.array([True, False, True, False])
        one = Batch(raw, [target, levels], weights, 4, mirrored=mirrored)
        inputs = [keras.Input((6, 8, 3))]

    def objective(outputs, targets):
        arrays = tf.nest.flatten((outputs, targets))
        return {"loss": tf.zeros(4)} | {f"{i}": moment(x) for i, x in enumerate(arrays)}

    def moment(array):
        """Return [b]: sums of the values times their positions, which show where each is."""
        flat = tf.reshape(array, [4, -1])
        return tf.linalg.matvec(flat, tf.range(flat.shape[1], dtype=tf.float32))

    model = keras.Model(inputs, [keras.layers.Identity()(each) for each in inputs])
    stepper = Stepper(tf.distribute.get_strategy(), model, objective, keras.optimizers.SGD(), 1)
    means = measure(stepper, one)
    expected = tf.nest.flatten(prepared(one))
    assert len(means) == 1 + len(expected)
    for number, array in enumerate(expected):
        flat = array.reshape(4, -1).astype(np.float64)
        total = (flat @ np.arange(flat.shape[1])).sum()
        assert means[str(number)].total == pytest.approx(total, rel=1e-4)
