"""Writes a dataset's shards as TFRecord files."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.tfrecordio import _TFRecordUtil
from etils import epath
from tensorflow_datasets.core import example_serializer, naming

from beam_pipelines.dataset.measured_files import StoredPair, read_pairs
from beam_pipelines.dataset.shards import Shard, WrittenShard
from beam_pipelines.elements import PairSettings, SourceMetadata
from laser_dist import storage
from laser_dist.jnd.scale import Scale
from tfds_builders.jnd_features import example_of, pair_features

FILE_FORMAT = "tfrecord"


class WriteShards(beam.DoFn):
    """Writes each shard to a file, complete or absent, with the name that TFDS expects."""

    def __init__(self, dataset: str, folder: str, settings: PairSettings, scale: Scale) -> None:
        """Store the arguments.

        Args:
          dataset: name of the dataset, such as "videoset_jnd".
          folder: folder of the dataset's files, a path or URL.
          settings: settings of the examples.
          scale: scale of the levels.
        """
        self._dataset = dataset
        self._folder = folder
        self._settings = settings
        self._scale = scale
        self._features: Any = None
        self._serializer: Any = None

    def setup(self) -> None:
        """Create what cannot be pickled."""
        self._features = pair_features(self._settings, self._scale)
        specs = self._features.get_serialized_info()
        for spec in specs.values():
            # TFDS asks TensorFlow for the type of nested features, which costs each worker seconds
            # of CPU time; for numbers, NumPy's type is enough.
            spec._tf_dtype = spec.np_dtype
        self._serializer = example_serializer.ExampleSerializer(specs)

    def process(self, shard: Shard) -> Iterable[WrittenShard]:
        """Write a shard and yield its description."""
        examples = [self._serialize(source, pair) for source, pair in _pairs_of(shard)]
        with tempfile.TemporaryDirectory() as scratch:
            template = naming.ShardedFileTemplate(
                data_dir=epath.Path(scratch),
                dataset_name=self._dataset,
                split=shard.split,
                filetype_suffix=FILE_FORMAT,
            )
            path = template.sharded_filepath(shard_index=shard.index, num_shards=shard.num_shards)
            with open(path, "wb") as file:
                # TFDS's own writer imports TensorFlow: seconds of CPU time in each worker.
                for serialized in examples:
                    _TFRecordUtil.write_record(file, serialized)
            storage.check_not_removed(self._folder)
            storage.upload(Path(path), storage.join(self._folder, path.name))
        yield WrittenShard(
            split=shard.split,
            index=shard.index,
            num_examples=len(examples),
            num_bytes=sum(map(len, examples)),
        )

    def _serialize(self, source: SourceMetadata, pair: StoredPair) -> bytes:
        example = self._features.encode_example(example_of(source, pair))
        # The serializer's own method writes the fields in the order of a hash table, which differs
        # between processes.
        return self._serializer.get_tf_example(example).SerializeToString(deterministic=True)


def _pairs_of(shard: Shard) -> list[tuple[SourceMetadata, StoredPair]]:
    """Read a shard's examples in order; each source's file is opened once."""
    rows: dict[str, list[int]] = {}
    for location, row in shard.examples:
        rows.setdefault(location, []).append(row)
    found: dict[tuple[str, int], tuple[SourceMetadata, StoredPair]] = {}
    for location, wanted in rows.items():
        source, pairs = read_pairs(location, wanted)
        found |= {(location, row): (source, pair) for row, pair in zip(wanted, pairs, strict=True)}
    return [found[example] for example in shard.examples]
