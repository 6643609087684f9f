"""The label table holds the labels of the examples, without their frames."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from label_tables import plain
from videoset_builds import examples

from laser_dist.errors import UserError
from laser_dist.examples.example_codec import features_of
from laser_dist.examples.label_table import read_label_table
from laser_dist.examples.labels import LABEL_COLUMNS, labels_in
from laser_dist.examples.records import open_records

pytestmark = [
    pytest.mark.beam,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]
SPLITS = ("train", "validation", "test")
FRAMES = {"raw", "jnd1", "jnd2", "jnd3"}


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


@pytest.mark.parametrize("split", SPLITS)
def test_training_reads_the_labels_of_the_examples(dataset, split):
    stored = {each["source_id"].decode(): each for each in examples(dataset, split)}
    table = pq.read_table(dataset / "labels" / f"{split}.parquet")
    labels = labels_in(read_label_table(dataset, split, len(table), LABEL_COLUMNS))
    assert len(labels.levels) == len(table)
    for row, source_id in enumerate(table["source_id"].to_pylist()):
        levels, samples = (plain(stored[source_id][k]) for k in ("jnd_levels", "viewer_samples"))
        np.testing.assert_array_equal(labels.levels[row], levels)
        means, variances = zip(*((np.mean(each), np.var(each)) for each in samples), strict=True)
        np.testing.assert_allclose(labels.sample_means[row], means, rtol=1e-6)
        np.testing.assert_allclose(labels.sample_variances[row], variances, rtol=1e-5)


@pytest.mark.parametrize("damage", ["cut", "other", "missing"])
def test_a_table_that_does_not_match_the_examples_is_an_error(dataset, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(dataset, folder)
    path = folder / "labels" / "train.parquet"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "missing":
        path.unlink()
    else:
        pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(UserError, match=r"label table .*train\.parquet cannot be used"):
        read_label_table(folder, "train", len(open_records(folder, "train")), LABEL_COLUMNS)
