"""The label table holds the labels of the examples, without their frames."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from videoset_builds import examples

from laser_dist.errors import UserError
from laser_dist.training.examples.example_codec import features_of
from laser_dist.training.examples.labels import read_labels
from laser_dist.training.examples.records import open_records

pytestmark = [
    pytest.mark.beam,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]
SPLITS = ("train", "validation", "test")
FRAMES = {"raw", "jnd1", "jnd2", "jnd3"}


class Counted:
    """Records of which only the number may be read."""

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def read(self, indices):
        raise AssertionError(f"examples {indices} were read")


def plain(value):
    """Convert a value to what a table holds."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, tf.RaggedTensor):
        return value.to_list()
    return [plain(each) for each in value] if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("split", SPLITS)
def test_a_row_is_an_example_without_its_frames(dataset, split):
    rows = pq.read_table(dataset / "labels" / f"{split}.parquet").to_pylist()
    names = [(row["source_id"], row["frame_index"]) for row in rows]
    by_name = {
        (e["source_id"].decode(), int(e["frame_index"])): e for e in examples(dataset, split)
    }
    assert len(set(names)) == len(names) == len(by_name)
    for name, row in zip(names, rows, strict=True):
        example = by_name[name]
        assert row.keys() == example.keys() - FRAMES
        for key, value in row.items():
            assert value == plain(example[key]), key


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_in_the_order_of_the_examples(dataset, split):
    records = open_records(dataset, split)
    stored = []
    for record in records.read(range(len(records))):
        features = features_of(record)
        source_id = features["source_id"].bytes_list.value[0].decode()
        stored.append((source_id, features["frame_index"].int64_list.value[0]))
    rows = pq.read_table(dataset / "labels" / f"{split}.parquet").to_pylist()
    assert [(row["source_id"], row["frame_index"]) for row in rows] == stored


def test_training_reads_the_same_labels_from_the_table_without_reading_examples(dataset, tmp_path):
    without = tmp_path / "without"
    shutil.copytree(dataset, without)
    shutil.rmtree(without / "labels")
    for split in SPLITS:
        records = open_records(dataset, split)
        ours = read_labels(dataset, split, Counted(records))
        theirs = read_labels(without, split, records)
        for name in ("levels", "sample_means", "sample_variances"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_table_that_does_not_match_the_examples_is_an_error(dataset, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(dataset, folder)
    path = folder / "labels" / "train.parquet"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(UserError, match=r"label table .*train\.parquet is damaged"):
        read_labels(folder, "train", open_records(folder, "train"))
