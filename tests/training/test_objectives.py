import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.training.objectives import frame_objective, level_objective


def test_the_error_of_a_frame_is_the_mean_over_its_pixels_and_channels():
    frames = np.full((2, 1, 2, 3), 100, np.float32)
    targets = frames.copy()
    targets[0, 0, 0] = [98, 101, 100]  # errors 2, -1, 0 and three of 0: (4 + 1) / 6
    targets[1] = 90  # all off by 10: 100
    values = frame_objective(frames, targets)
    assert values.keys() == {"loss"}
    np.testing.assert_allclose(values["loss"], [5 / 6, 100])


def test_a_frame_of_bytes_is_not_wrapped_around():
    frames = np.full((1, 2, 2, 3), 1, np.uint8)
    targets = np.full((1, 2, 2, 3), 255, np.uint8)
    assert frame_objective(frames, targets)["loss"].numpy() == [254**2]


def test_the_error_of_levels_is_the_mean_of_their_absolute_errors():
    levels = np.array([[20, 30, 40], [25, 25, 25]], np.float32)
    targets = np.array([[21, 28, 40], [25, 28, 31]], np.float32)
    values = level_objective(levels, targets)
    assert list(values) == ["loss", "jnd1", "jnd2", "jnd3"]
    np.testing.assert_array_equal(values["jnd1"], [1, 0])
    np.testing.assert_array_equal(values["jnd2"], [2, 3])
    np.testing.assert_array_equal(values["jnd3"], [0, 6])
    np.testing.assert_array_equal(values["loss"], [(1 + 2 + 0) / 3, (0 + 3 + 6) / 3])


@given(num_levels=st.sampled_from([1, 3]), batch=st.integers(1, 5), seed=st.integers(0, 99))
def test_each_example_is_measured_by_itself(num_levels, batch, seed):
    rng = np.random.default_rng(seed)
    levels, targets = rng.uniform(0, 51, size=(2, batch, num_levels)).astype(np.float32)
    together = level_objective(levels, targets)
    assert len(together) == 1 + num_levels
    for index in range(batch):
        alone = level_objective(levels[index : index + 1], targets[index : index + 1])
        for name, values in together.items():
            assert values.shape == (batch,)
            assert values[index].numpy() == pytest.approx(alone[name][0].numpy())
