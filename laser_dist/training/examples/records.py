"""The examples of a prepared dataset's split by number, whatever their files are and wherever."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.training.examples.array_records import ArrayRecords
from laser_dist.training.examples.parquet_records import ParquetRecords
from laser_dist.training.examples.tfrecords import TfRecords

_REQUESTS = 16  # at a time, where each takes a store some tens of milliseconds to answer


class Records(Protocol):
    """Examples in stored order, each a serialized `tf.train.Example`."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Some of them, in the order asked for; any number of threads may call it.

        Args:
          indices: [n] places in the stored order, from 0.

        Raises:
          UserError: a file that is damaged, or a store that cannot be read.
        """
        ...


@dataclass(frozen=True)
class SplitFiles:
    """What a dataset's metadata say of a split's files.

    Attributes:
      file_format: "tfrecord", "array_record" or "parquet".
      names: of the shards, in order.
      lengths: number of examples of each.
    """

    file_format: str
    names: tuple[str, ...]
    lengths: tuple[int, ...]


def split_files(location: str | Path, split: str) -> SplitFiles:
    """The files of a split.

    Args:
      location: of the prepared dataset, path or URL.
      split: such as "train".

    Raises:
      UserError: no dataset there, or it has no such split.
    """
    try:
        info = json.loads(storage.read_bytes(storage.join(location, "dataset_info.json")))
        splits = {each["name"]: each for each in info["splits"]}
        file_format = info.get("fileFormat", "tfrecord")
        name = info["name"]
        lengths = tuple(map(int, splits[split].get("shardLengths", ()))) if split in splits else ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Dataset {location}",
            "a prepared dataset (dataset_info.json)",
            f"{type(error).__name__}: {error}",
            "Build one: laser-jnd build --help tells how.",
        ) from error
    if split not in splits:
        raise UserError(
            f"Dataset {location}", f"a split {split}", ", ".join(splits) or "none", "Build it anew."
        )
    count = len(lengths)
    names = [f"{name}-{split}.{file_format}-{i:05d}-of-{count:05d}" for i in range(count)]
    return SplitFiles(file_format, tuple(names), lengths)


def open_records(location: str | Path, split: str) -> Records:
    """Opens a split of a dataset; of TFRecord files it finds where each example begins.

    Of the formats TFRecord alone is read example by example from a bucket. Of array_record a whole
    file is fetched at its first example, and Parquet gives a group of examples at a time.

    Args:
      location: of the prepared dataset, path or URL.
      split: such as "train".

    Raises:
      UserError: no dataset or split there, or a file that is missing or damaged.
    """
    files = split_files(location, split)
    openers: list[Callable[[], storage.RandomAccessFile]] = [
        partial(_open, location, name) for name in files.names
    ]
    requests = _REQUESTS if storage.is_url(location) else 1
    if files.file_format == "tfrecord":
        return TfRecords(openers, files.lengths, requests=requests)
    if files.file_format == "array_record":
        return ArrayRecords(openers, files.lengths)
    if files.file_format == "parquet":
        return ParquetRecords(openers, files.lengths)
    raise UserError(
        f"Dataset {location}",
        "files of tfrecord, array_record or parquet",
        files.file_format,
        "Build it anew with --file-format.",
    )


def _open(location: str | Path, name: str) -> storage.RandomAccessFile:
    try:
        return storage.open_random(storage.join(location, name))
    except FileNotFoundError as error:
        raise UserError(
            f"Dataset {location}", f"its file {name}", "none", "Copy or build it anew."
        ) from error
