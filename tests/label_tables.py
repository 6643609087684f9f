"""Writes the label tables of datasets that TFDS itself wrote, as `laser-jnd build` would."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds


def write_label_tables(folder):
    """Write a row for each example, in stored order: all that it holds except its images."""
    builder = tfds.builder_from_directory(folder)
    features = {
        name: feature
        for name, feature in builder.info.features.items()
        if not isinstance(feature, tfds.features.Image)
    }
    target = Path(folder) / "labels"
    target.mkdir()
    for split in builder.info.splits:
        if builder.info.file_format in tfds.core.FileFormat.with_tf_data():
            in_order = tfds.ReadConfig(interleave_cycle_length=1)  # one shard after the other
            decoders = tfds.decode.PartialDecoding(features)
            options = {"decoders": decoders, "read_config": in_order}
            examples = tfds.as_numpy(builder.as_dataset(split=split, **options))
        else:
            examples = builder.as_data_source(split=split)
        rows = [{k: plain(v) for k, v in each.items() if k in features} for each in examples]
        without_samples = {"viewer_samples": [[], [], []]}
        table = pa.Table.from_pylist([without_samples | row for row in rows])
        pq.write_table(table, target / f"{split}.parquet")


def plain(value):
    """Convert a TFDS value to what a table holds: text, numbers, lists."""
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "to_list"):  # ragged
        return value.to_list()
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value
