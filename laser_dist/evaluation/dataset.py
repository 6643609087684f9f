"""Labeled datasets as the evaluation reads them, and the adapter for datasets written by TFDS.

Only the adapter imports TFDS and TensorFlow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from laser_dist.errors import UserError
from laser_dist.examples.label_table import read_label_table
from laser_dist.jnd.scale import QP, Scale, scale_named
from laser_dist.video.frames import resize_rgb
from laser_dist.video.images import open_image

_ACTIVITY = ("spatial_information", "temporal_information")
_SAMPLES = "viewer_samples"
_IMAGES = ("raw", "jnd1", "jnd2", "jnd3")


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Metadata of a labeled dataset.

    Attributes:
      name: for example `videoset_jnd`.
      version: for example `1.0.0`.
      config: TFDS configuration, for example `1080p`; empty if the dataset has only one.
      fingerprint: hash of the content; datasets with the same fingerprint hold the same examples.
      simulated: whether the viewers are simulated.
      simulation: how the viewers are simulated, one sentence; empty for human viewers.
      scale: scale of the levels.
      level_definition: definition of a level's value, a noun phrase without a full stop.
      seed: random seed of a synthetic dataset.
      split_by: what the splits keep together, such as `film`; empty if unknown.
      splits: split name to the ids of its sources.
    """

    name: str
    version: str
    fingerprint: str
    simulated: bool
    config: str = ""
    simulation: str = ""
    scale: Scale = QP
    level_definition: str = ""
    seed: int | None = None
    split_by: str = ""
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """Return name and configuration in the form that `tfds.load` accepts."""
        return f"{self.name}/{self.config}" if self.config else self.name


@dataclass(frozen=True, eq=False)
class SourceTable:
    """Labels and features of N sources, without their frames.

    Attributes:
      source_ids: [N], unique.
      group_ids: [N]; clips cut from the same recording or photograph share a group.
      levels: [N, L] float64, JND1..3 on the dataset's scale; NaN where a level is missing.
      activity: [N, 2] float64, spatial and temporal information (ITU-T P.910) of the clip.
      viewer_samples: for each of N sources and L levels, int64 [S], the quantizer at which each of
        S viewers noticed a difference; an empty array where the level is missing. Empty if the
        dataset has no samples.
    """

    source_ids: tuple[str, ...]
    group_ids: tuple[str, ...]
    levels: np.ndarray
    activity: np.ndarray
    viewer_samples: tuple[tuple[np.ndarray, ...], ...] = ()

    @staticmethod
    def joined(tables: Sequence[SourceTable]) -> SourceTable:
        """Return a table of the sources of all tables."""
        return SourceTable(
            source_ids=tuple(chain.from_iterable(table.source_ids for table in tables)),
            group_ids=tuple(chain.from_iterable(table.group_ids for table in tables)),
            levels=np.concatenate([table.levels for table in tables]),
            activity=np.concatenate([table.activity for table in tables]),
            viewer_samples=tuple(chain.from_iterable(table.viewer_samples for table in tables)),
        )

    def select(self, rows: np.ndarray, levels: np.ndarray) -> SourceTable:
        """Return the table of some sources ([N] bool) and some of their levels ([L] bool)."""
        return SourceTable(
            source_ids=tuple(compress(self.source_ids, rows)),
            group_ids=tuple(compress(self.group_ids, rows)),
            levels=self.levels[np.ix_(rows, levels)],
            activity=self.activity[rows],
            viewer_samples=tuple(
                tuple(compress(samples, levels)) for samples in compress(self.viewer_samples, rows)
            ),
        )


def present_samples(
    levels: Sequence[float] | np.ndarray, samples: Sequence[Sequence[int] | np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Return one source's viewer samples, without those of missing levels.

    Args:
      levels: [L], NaN where a level is missing.
      samples: the samples of each of L levels.
    """
    return tuple(
        np.asarray([] if np.isnan(level) else level_samples, np.int64)
        for level, level_samples in zip(levels, samples, strict=True)
    )


@dataclass(frozen=True, eq=False)
class LevelFrames:
    """One frame of a clip: raw, and encoded at each level.

    Attributes:
      source_id: the clip.
      frame_index: position of the frame in the clip.
      raw: uint8 [H, W, 3], RGB.
      encoded: uint8 [3, H, W, 3], RGB, at JND1..3; black where a level is missing.
    """

    source_id: str
    frame_index: int
    raw: np.ndarray
    encoded: np.ndarray


def fit_frames(frames: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Scale frames to a model's input size; return frames of that size unchanged.

    Args:
      frames: uint8 [N, H, W, 3], RGB.
      width: of the result, pixels.
      height: of the result, pixels.

    Returns:
      uint8 [N, height, width, 3].
    """
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([resize_rgb(frame, width=width, height=height) for frame in frames])


class LabeledDataset(Protocol):
    """The part of a dataset's interface that the evaluation uses."""

    @property
    def info(self) -> DatasetInfo:
        """Return the metadata."""
        ...

    @property
    def quality_path(self) -> Path:
        """Return the folder of the quality table."""
        ...

    def sources(self, split: str) -> SourceTable:
        """Return the sources of a split, sorted by source id."""
        ...

    def raw_batches(self, split: str) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield batches of (B source ids, uint8 [B, H, W, 3] raw frames), each frame once."""
        ...

    def first_frames(self, split: str) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the id and a stored frame of each source, uint8 [H, W, 3], raw."""
        ...

    def middle_frames(self, split: str, source_ids: Collection[str]) -> dict[str, LevelFrames]:
        """Return the middle stored frame of each of these sources, by source id."""
        ...


class TfdsDataset:
    """A labeled dataset that one of the project's TFDS builders wrote."""

    def __init__(
        self,
        folder: Path,
        *,
        splits: Mapping[str, Sequence[str]] | None = None,
        batch_size: int = 16,
    ) -> None:
        """Open the dataset.

        Args:
          folder: folder of one version of the dataset.
          splits: split to ids of its sources, in place of the dataset's own.
          batch_size: frames per batch.

        Raises:
          UserError: there is no dataset in the folder, or its metadata are incomplete.
        """
        import tensorflow_datasets as tfds

        try:
            self._builder: Any = tfds.builder_from_directory(folder)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"Cannot read a dataset from {folder}: {reason.rstrip('.')}.",
                hint="Name the folder of one version of a dataset, or build one with "
                "`laser-jnd build`.",
            ) from error
        self._batch_size = batch_size
        self.info = _info(self._builder.info)
        self._stored = self.info.splits
        if splits is not None:
            self.info = replace(
                self.info, splits={split: tuple(ids) for split, ids in splits.items()}
            )
        self.quality_path = folder / "quality"
        self._folder = folder

    def sources(self, split: str) -> SourceTable:
        """Return the sources of a split, sorted by source id."""
        has_samples = _SAMPLES in self._builder.info.features
        names = ["source_id", "group_id", "jnd_levels", *_ACTIVITY]
        names += [_SAMPLES] if has_samples else []
        by_source: dict[str, Mapping[str, Any]] = {}
        for row in self._label_rows(split, names):
            by_source.setdefault(row["source_id"], row)
        source_ids = tuple(sorted(by_source))
        rows = [by_source[source_id] for source_id in source_ids]
        samples = [present_samples(row["jnd_levels"], row[_SAMPLES]) for row in rows if has_samples]
        return SourceTable(
            source_ids=source_ids,
            group_ids=tuple(row["group_id"] for row in rows),
            levels=_matrix([row["jnd_levels"] for row in rows], 3),
            activity=_matrix([[row[name] for name in _ACTIVITY] for row in rows], 2),
            viewer_samples=tuple(samples),
        )

    def raw_batches(self, split: str) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield batches of (B source ids, uint8 [B, H, W, 3] raw frames), each frame once."""
        wanted = set(self.info.splits[split])
        for batch in self._examples(split, ("source_id", "raw"), batch_size=self._batch_size):
            source_ids = [source_id.decode() for source_id in batch["source_id"]]
            rows = [row for row, source_id in enumerate(source_ids) if source_id in wanted]
            if rows:
                yield [source_ids[row] for row in rows], batch["raw"][rows]

    def first_frames(self, split: str) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the id and a stored frame of each source, uint8 [H, W, 3], raw."""
        left = set(self.info.splits[split])
        for example in self._examples(split, ("source_id", "raw"), encoded=("raw",)):
            if (source_id := example["source_id"].decode()) in left:
                left.remove(source_id)
                yield source_id, _decode_png(example["raw"])

    def middle_frames(self, split: str, source_ids: Collection[str]) -> dict[str, LevelFrames]:
        """Return the middle stored frame of each of these sources, by source id."""
        stored: dict[str, list[int]] = {source_id: [] for source_id in source_ids}
        for row in self._label_rows(split, ("source_id", "frame_index")):
            if (source_id := row["source_id"]) in stored:
                stored[source_id].append(int(row["frame_index"]))
        middle = {key: sorted(indices)[len(indices) // 2] for key, indices in stored.items()}
        names = ("source_id", "frame_index", *_IMAGES)
        found: dict[str, LevelFrames] = {}
        # The images stay encoded: only the few frames of the report are decoded.
        for example in self._examples(split, names, encoded=_IMAGES):
            source_id, frame_index = example["source_id"].decode(), int(example["frame_index"])
            if middle.get(source_id) == frame_index:
                raw, *encoded = (_decode_png(example[name]) for name in _IMAGES)
                found[source_id] = LevelFrames(source_id, frame_index, raw, np.stack(encoded))
        return found

    def _label_rows(self, split: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return features other than frames of a split's examples, from the label tables."""
        wanted = set(self.info.splits[split])
        columns = list(dict.fromkeys(("source_id", *names)))
        found: list[dict[str, Any]] = []
        for stored in self._stored_splits(split):
            num_examples = self._builder.info.splits[stored].num_examples
            table = read_label_table(self._folder, stored, num_examples, columns)
            found += [row for row in table.to_pylist() if row["source_id"] in wanted]
        return found

    def _stored_splits(self, split: str) -> list[str]:
        """Return the stored splits that hold sources of a split."""
        wanted = set(self.info.splits[split])
        return [name for name, ids in self._stored.items() if wanted.intersection(ids)]

    def _examples(
        self,
        split: str,
        names: Sequence[str],
        *,
        batch_size: int | None = None,
        encoded: Sequence[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """Yield these features of each example of the stored splits that a split needs.

        Features in `encoded` are the stored bytes.
        """
        import tensorflow_datasets as tfds

        features: Any = self._builder.info.features
        skip = tfds.decode.SkipDecoding()
        has_tf_data = self._builder.info.file_format in tfds.core.FileFormat.with_tf_data()
        for stored in self._stored_splits(split):
            if has_tf_data:
                decoders = tfds.decode.PartialDecoding(
                    {name: features[name] for name in names}, decoders=dict.fromkeys(encoded, skip)
                )
                dataset = self._builder.as_dataset(stored, batch_size=batch_size, decoders=decoders)
                yield from tfds.as_numpy(dataset)
            else:  # an ArrayRecord file; its reader knows no partial decoding
                skipped = [name for name in _IMAGES if name not in names or name in encoded]
                decoders = dict.fromkeys(skipped, skip)
                source = self._builder.as_data_source(stored, decoders=decoders)
                yield from _batched(source, names, batch_size)


def _batched(
    examples: Sequence[Mapping[str, Any]], names: Sequence[str], batch_size: int | None
) -> Iterator[dict[str, Any]]:
    """Yield these features of the examples, or of batches of them, stacked."""
    if batch_size is None:
        yield from ({name: row[name] for name in names} for row in examples)
        return
    for start in range(0, len(examples), batch_size):
        rows = [examples[row] for row in range(start, min(start + batch_size, len(examples)))]
        yield {name: np.stack([row[name] for row in rows]) for name in names}


def _info(info: Any) -> DatasetInfo:
    metadata = dict(info.metadata or {})
    missing = [key for key in ("simulated", "scale", "fingerprint") if key not in metadata]
    if missing:
        raise UserError(
            f"The metadata of dataset {info.full_name} lacks {', '.join(missing)}.",
            hint="Rebuild the dataset with this version of laser-jnd.",
        )
    return DatasetInfo(
        name=info.name,
        version=str(info.version),
        config=info.config_name or "",
        fingerprint=metadata["fingerprint"],
        simulated=bool(metadata["simulated"]),
        simulation=metadata.get("simulation") or "",
        scale=scale_named(metadata["scale"], of=f"dataset {info.full_name}"),
        level_definition=metadata.get("level_definition") or "",
        seed=metadata.get("seed"),
        split_by=metadata.get("split_by") or "",
        splits={name: tuple(ids) for name, ids in metadata.get("splits", {}).items()},
    )


def _decode_png(data: bytes) -> np.ndarray:
    with open_image(data, "an image of the dataset") as image:
        return np.asarray(image.convert("RGB"))


def _matrix(rows: list[Any], num_columns: int) -> np.ndarray:
    return np.array(rows, np.float64).reshape(len(rows), num_columns)
