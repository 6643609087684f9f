from dataclasses import replace

import keras
import numpy as np
import pytest
from training_fakes import HEIGHT, NUM_TRAIN, NUM_VALIDATION, WIDTH, frame

from laser_dist.training.data import FramePairs, Share, read_labels
from laser_dist.training.latents import read_shares, write_share

PATCH = 16


@pytest.fixture(scope="module")
def extractors():
    """Mean and maximum of each patch: features that are worked out by hand."""
    shape = (HEIGHT, WIDTH, 3)
    return [
        keras.Sequential([keras.Input(shape), layer(PATCH)])
        for layer in (keras.layers.AveragePooling2D, keras.layers.MaxPooling2D)
    ]


def patch_features(frames):
    """[N, branches, h, w, 3], what the extractors make of frames [N, H, W, 3]."""
    rows, columns = HEIGHT // PATCH, WIDTH // PATCH
    patches = frames.reshape(-1, rows, PATCH, columns, PATCH, 3).astype(np.float64)
    return np.stack([patches.mean((2, 4)), patches.max((2, 4))], axis=1)


def pairs(dataset_dir, split, batch_size):
    return FramePairs(
        dataset_dir=dataset_dir,
        split=split,
        target="raw",
        height=HEIGHT,
        width=WIDTH,
        batch_size=batch_size,
    )


def written(folder, extractors, frames, num_workers, versions):
    """Features that `num_workers` wrote, the last worker first, and that all read."""
    for index in reversed(range(num_workers)):
        share = replace(frames, share=Share(index, num_workers))
        write_share(folder, extractors, share, versions=versions)
    return read_shares(folder, frames.split, frames.batch_size, num_workers)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
# Two places per worker in each step: the last step of the seven examples is incomplete, and of the
# two examples the first worker gets both.
@pytest.mark.parametrize(("split", "count"), [("train", NUM_TRAIN), ("validation", NUM_VALIDATION)])
def test_features_of_all_shares_are_in_stored_order(
    dataset_dir, tmp_path, extractors, num_workers, split, count
):
    source = pairs(dataset_dir, split, 2 * num_workers)
    features = written(tmp_path, extractors, source, num_workers, versions=2)
    assert features.shape == (2, count, 2, HEIGHT // PATCH, WIDTH // PATCH, 3)
    assert features.dtype == np.float16
    stored = [int(name) for name in read_labels(dataset_dir, split).source_ids]
    frames = np.stack([frame(number) for number in stored])
    # Means of 16 or of 256 whole numbers below 50: halves, which float16 holds.
    np.testing.assert_array_equal(features[0], patch_features(frames))
    np.testing.assert_array_equal(features[1], patch_features(frames[:, :, ::-1]))


def test_the_mirrored_version_is_made_only_where_it_is_asked_for(dataset_dir, tmp_path, extractors):
    source = pairs(dataset_dir, "train", 4)
    both = written(tmp_path / "both", extractors, source, 2, versions=2)
    one = written(tmp_path / "one", extractors, source, 2, versions=1)
    np.testing.assert_array_equal(one, both[:1])


def test_a_share_is_written_whole_and_splits_lie_apart(dataset_dir, tmp_path, extractors):
    for split in ("train", "validation"):
        write_share(tmp_path, extractors, pairs(dataset_dir, split, 4), versions=1)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npy", ".npy"]
    sizes = [read_shares(tmp_path, split, 4, 1).shape[1] for split in ("train", "validation")]
    assert sizes == [NUM_TRAIN, NUM_VALIDATION]
