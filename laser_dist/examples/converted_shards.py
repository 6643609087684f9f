"""TFRecord copies of the shards of datasets in another file format of TFDS.

Training reads examples in random order, through an index that TFRecord files have. TFDS's other
formats are read once, in order and by TFDS itself, and copied to the user's cache directory.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.core import file_adapters

from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.storage.cache import cache_folder, is_copy, record_copy
from laser_dist.storage.run_files import RunFiles

_FOLDER = "records"

logger = logging.getLogger(__name__)


def converted_shards(location: str, names: Sequence[str], file_format: str) -> list[str]:
    """Return the paths of TFRecord files with the examples of some shards, in the same order.

    Args:
      location: path or URL of the dataset.
      names: names of the shards in its folder.
      file_format: their format, as in `dataset_info.json`, such as "array_record".

    Raises:
      UserError: TFDS cannot read the format here, or a shard is missing or damaged.
    """
    try:
        adapter = file_adapters.ADAPTER_FOR_FORMAT[file_adapters.FileFormat(file_format)]
    except ValueError as error:
        raise UserError(
            f"{location} holds {file_format} files, which TFDS does not know.",
            hint="Convert it to TFRecord files.",
        ) from error
    shards = RunFiles(location)
    folder = cache_folder(_FOLDER, hashlib.sha256(location.encode()).hexdigest()[:16])
    logger.info("reading %d %s files of %s", len(names), file_format, location)
    return [str(_converted(shards, name, folder, adapter)) for name in names]


def _converted(shards: RunFiles, name: str, folder: Path, adapter: Any) -> Path:
    shard, copy = shards.local / name, folder / f"{name}.tfrecord"
    where = storage.join(shards.location, name)
    if not shards.fetch(shard, reuse=True):
        raise UserError(f"Dataset file {where} is missing.", hint="Build the dataset again.")
    status = shard.stat()
    version = f"{status.st_size} {status.st_mtime_ns}"
    if is_copy(copy, version):
        return copy
    try:
        examples = enumerate(_examples(adapter, str(shard)))
        with storage.atomic_path(copy) as path:
            file_adapters.TfRecordFileAdapter.write_examples(path, examples)
    except ImportError as error:
        raise UserError(
            f"Dataset file {where} cannot be read: {error}.",
            hint="Install the package that reads this format, or convert the dataset to TFRecord.",
        ) from error
    # The readers of the formats raise errors of their own libraries.
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"Dataset file {where} is damaged.", hint="Copy the dataset again, or build it again."
        ) from error
    record_copy(copy, version)
    return copy


def _examples(adapter: Any, path: str) -> Iterable[bytes]:
    """Return the serialized examples of a shard."""
    if adapter.SUPPORTS_TF_DATA:
        return adapter.make_tf_data(path).as_numpy_iterator()
    source = ArrayRecordDataSource([path])  # the only format that tf.data does not read
    return (source[index] for index in range(len(source)))
