"""Feature files: rows across the parts of all workers, and the check for completeness."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from training_fakes import HEIGHT, NUM_TRAIN, NUM_VALIDATION, WIDTH, frame, frame_pairs

from laser_dist.examples.feature_files import (
    BATCH_SIZE,
    Extractor,
    FeatureFiles,
    FeatureKey,
    finish_files,
    num_bytes,
    num_parts_of,
    write_parts,
)
from laser_dist.examples.order import WorkerShard

pytestmark = pytest.mark.slow

PATCH = 16
COUNTS = {"train": NUM_TRAIN, "validation": NUM_VALIDATION}


@pytest.fixture(scope="module")
def extractor():
    """Return a model of the mean of each patch, whose features can be computed by hand."""
    layers = [keras.Input((HEIGHT, WIDTH, 3)), keras.layers.AveragePooling2D(PATCH)]
    return keras.Sequential(layers)


def patch_means(frames):
    rows, columns = HEIGHT // PATCH, WIDTH // PATCH
    return frames.reshape(-1, rows, PATCH, columns, PATCH, 3).astype(np.float64).mean((2, 4))


def read(files, indices):
    """Return the features of examples by their positions."""
    found = np.empty((len(indices), *files.shape), files.dtype)
    files.read(indices, found)
    return found


def key(split, **changes):
    settings = {
        "model": "m",
        "data": "d",
        "size": (WIDTH, HEIGHT),
        "num_examples": COUNTS[split],
        "versions": 2,
    }
    return FeatureKey(**settings | changes)


def write(folder, extractor, dataset_dir, split, num_workers, *, finish=True, num_devices=1):
    """Write the parts of all workers, the last worker first."""
    devices = [None] * num_devices
    for index in reversed(range(num_workers)):
        frames = frame_pairs(
            dataset_dir,
            "raw",
            split=split,
            batch_size=BATCH_SIZE * num_workers,
            shard=WorkerShard(index, num_workers),
        )
        write_parts(
            {folder: Extractor([extractor] * num_devices, devices)}, frames, split, versions=2
        )
    if finish:
        finish_files(folder, split, key(split), num_workers)


def files_of(folder, split, wanted):
    """Return the files of each version; None if they are incomplete or have another key."""
    names = {path.name for path in folder.iterdir()}
    parts = num_parts_of(folder, split, wanted, names)
    return (
        [FeatureFiles(folder, split, v, parts) for v in range(wanted.versions)] if parts else None
    )


def test_several_devices_write_the_files_of_one(extractor, dataset_dir, tmp_path):
    for name, num_devices in (("one", 1), ("three", 3)):
        write(tmp_path / name, extractor, dataset_dir, "train", 2, num_devices=num_devices)
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 2 * 2 + 1
    for path in files:
        assert path.read_bytes() == (tmp_path / "three" / path.name).read_bytes()


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_of_all_parts_are_in_stored_order(
    dataset_dir, tmp_path, extractor, monkeypatch, num_workers, split
):
    # Each worker has two positions per step: the last step of the seven examples is incomplete, and
    # the first worker gets both validation examples.
    monkeypatch.setattr("laser_dist.examples.feature_files.BATCH_SIZE", 2)
    monkeypatch.setattr(f"{__name__}.BATCH_SIZE", 2)
    write(tmp_path, extractor, dataset_dir, split, num_workers)
    stored, mirrored = files_of(tmp_path, split, key(split))
    rows = tfds.as_numpy(tfds.builder_from_directory(dataset_dir).as_dataset(split=split))
    frames = np.stack([frame(int(row["source_id"])) for row in rows])
    for indices in (np.arange(len(frames)), np.arange(len(frames))[::-1], np.array([1, 0, 1])):
        # Means of 256 integers below 50: multiples of 1/2, which float16 represents exactly.
        expected = patch_means(frames[indices])
        np.testing.assert_array_equal(read(stored, indices), expected)
        expected = patch_means(frames[indices][:, :, ::-1])
        np.testing.assert_array_equal(read(mirrored, indices), expected)


def test_only_complete_files_of_the_same_model_and_data_are_reused(
    dataset_dir, tmp_path, extractor
):
    write(tmp_path, extractor, dataset_dir, "train", 2, finish=False)
    assert files_of(tmp_path, "train", key("train")) is None
    finish_files(tmp_path, "train", key("train"), 2)
    assert files_of(tmp_path, "train", key("train")) is not None
    for change in ({"model": "other"}, {"data": "other"}, {"versions": 1}, {"size": (16, 16)}):
        assert files_of(tmp_path, "train", key("train", **change)) is None
    FeatureFiles(tmp_path, "train", 1, 2).part_path(1).unlink()
    assert files_of(tmp_path, "train", key("train")) is None


def test_a_split_with_fewer_examples_than_workers_can_be_read(dataset_dir, tmp_path, extractor):
    write(tmp_path, extractor, dataset_dir, "validation", 3)
    stored, _ = files_of(tmp_path, "validation", key("validation"))
    assert read(stored, np.arange(2)).shape == (2, 2, 3, 3)


def test_num_bytes_is_the_size_of_the_files(dataset_dir, tmp_path, extractor):
    write(tmp_path, extractor, dataset_dir, "train", 1)
    arrays = [np.load(path) for path in tmp_path.glob("*.npy")]
    assert sum(each.nbytes for each in arrays) == num_bytes([extractor], NUM_TRAIN, 2)


def test_a_part_can_be_written_again(dataset_dir, tmp_path, extractor):
    for _ in range(2):
        write(tmp_path, extractor, dataset_dir, "train", 1)
    assert not list(tmp_path.glob("*.unfinished"))
    complete = replace(key("train"), num_examples=NUM_TRAIN)
    assert files_of(tmp_path, "train", complete) is not None


def test_features_beyond_float16_are_refused(dataset_dir, tmp_path):
    shape = (HEIGHT, WIDTH, 3)
    huge = keras.Sequential([keras.Input(shape), keras.layers.Rescaling(1e4)])
    with pytest.raises(FloatingPointError, match="too large for float16.*--no-feature-cache"):
        write(tmp_path, huge, dataset_dir, "train", 1)
    assert files_of(tmp_path, "train", key("train")) is None


def test_the_folder_depends_on_the_model_and_the_data_but_not_on_the_split():
    assert key("train").short() == key("validation", versions=1).short()
    others = {key("train", **change).short() for change in ({"model": "x"}, {"data": "x"})}
    assert len(others | {key("train").short()}) == 3
