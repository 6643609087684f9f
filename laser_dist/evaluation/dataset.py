"""A judged dataset as evaluation sees it, and the adapter that reads one written by TFDS.

TFDS and TensorFlow are imported only inside the adapter.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from laser_dist.errors import UserError
from laser_dist.evaluation.sources import SourceTable, samples_of
from laser_dist.jnd.scale import QP, Scale, scale_named
from laser_dist.training.storage.label_table import read_label_table
from laser_dist.video.frames import resize_rgb

_TABLE_FEATURES = (
    "source_id", "group_id", "jnd_levels", "spatial_information", "temporal_information",
)  # fmt: skip
_SAMPLES = "viewer_samples"
_IMAGES = ("raw", "jnd1", "jnd2", "jnd3")


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What the dataset says about itself.

    Attributes:
      name: of the dataset, for example `videoset_jnd`.
      version: of the dataset.
      config: the builder's configuration, for example `miniature`; empty where there is but one.
      fingerprint: of its content; two datasets with one fingerprint hold the same examples.
      simulated: the viewers are a model, not people.
      simulation: how they are simulated, one sentence; empty for people.
      scale: of the levels.
      level_definition: what the value of a level is, a noun phrase without a full stop.
      seed: the dataset was made with, if it was made.
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
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """Name and configuration, as `tfds.load` takes them."""
        return f"{self.name}/{self.config}" if self.config else self.name


@dataclass(frozen=True, eq=False)
class FramePair:
    """One frame as filmed and as coded at each level.

    Attributes:
      source_id: the clip it is from.
      frame_index: which frame of the clip.
      raw: uint8 [H, W, 3], RGB.
      coded: uint8 [3, H, W, 3], RGB, at JND1..3; black where a level is missing.
    """

    source_id: str
    frame_index: int
    raw: np.ndarray
    coded: np.ndarray


def fit_frames(frames: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Scale frames to the size a model takes; those that fit are given back as they are.

    Args:
      frames: uint8 [N, H, W, 3], RGB.
      width: wanted.
      height: wanted.

    Returns:
      uint8 [N, height, width, 3].
    """
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([resize_rgb(frame, width=width, height=height) for frame in frames])


class JudgedDataset(Protocol):
    """What evaluation asks of a dataset; tests answer it from memory."""

    @property
    def info(self) -> DatasetInfo:
        """What the dataset says about itself."""
        ...

    @property
    def quality_path(self) -> Path:
        """Folder of the quality table."""
        ...

    def sources(self, split: str) -> SourceTable:
        """What is known of each source of a split, sorted by source id."""
        ...

    def raw_batches(self, split: str) -> Iterator[tuple[list[str], np.ndarray]]:
        """Batches of (B source ids, uint8 [B, H, W, 3] raw frames), every frame once."""
        ...

    def frame_pairs(self, split: str, source_ids: Collection[str]) -> dict[str, FramePair]:
        """The middle stored frame of each of these sources."""
        ...


class TfdsDataset:
    """A dataset written by one of our TFDS builders."""

    def __init__(self, folder: Path, *, batch_size: int = 16) -> None:
        import tensorflow_datasets as tfds

        try:
            self._builder: Any = tfds.builder_from_directory(folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"dataset {folder}",
                "the folder of one version of a built dataset",
                str(error).splitlines()[0] if str(error) else type(error).__name__,
                "Build one: laser-jnd build --help tells how.",
            ) from error
        self._batch_size = batch_size
        self.info = _info(self._builder.info)
        self.quality_path = folder / "quality"
        self._folder = folder

    def sources(self, split: str) -> SourceTable:
        """What is known of each source of a split, sorted by source id."""
        rows: dict[str, Mapping[str, Any]] = {}
        has_samples = _SAMPLES in self._builder.info.features
        names = (*_TABLE_FEATURES, _SAMPLES) if has_samples else _TABLE_FEATURES
        for example in self._without_frames(split, names):
            rows.setdefault(example["source_id"], example)
        source_ids = tuple(sorted(rows))
        examples = [rows[source_id] for source_id in source_ids]
        activity = ("spatial_information", "temporal_information")
        return SourceTable(
            source_ids=source_ids,
            group_ids=tuple(example["group_id"] for example in examples),
            levels=_table([example["jnd_levels"] for example in examples], 3),
            activity=_table([[example[name] for name in activity] for example in examples], 2),
            viewer_samples=tuple(
                samples_of(example["jnd_levels"], example[_SAMPLES]) for example in examples
            )
            if has_samples
            else (),
        )

    def raw_batches(self, split: str) -> Iterator[tuple[list[str], np.ndarray]]:
        """Batches of (B source ids, uint8 [B, H, W, 3] raw frames), every frame once."""
        for batch in self._examples(split, ("source_id", "raw"), batch_size=self._batch_size):
            yield [source_id.decode() for source_id in batch["source_id"]], batch["raw"]

    def frame_pairs(self, split: str, source_ids: Collection[str]) -> dict[str, FramePair]:
        """The middle stored frame of each of these sources."""
        stored: dict[str, list[int]] = {source_id: [] for source_id in source_ids}
        for example in self._without_frames(split, ("source_id", "frame_index")):
            if (source_id := example["source_id"]) in stored:
                stored[source_id].append(int(example["frame_index"]))
        middle = {key: sorted(indices)[len(indices) // 2] for key, indices in stored.items()}
        names = ("source_id", "frame_index", *_IMAGES)
        pairs: dict[str, FramePair] = {}
        for example in self._examples(split, names, encoded=_IMAGES):
            source_id, frame_index = example["source_id"].decode(), int(example["frame_index"])
            if middle.get(source_id) == frame_index:
                raw, *coded = (_decode_png(example[name]) for name in _IMAGES)
                pairs[source_id] = FramePair(source_id, frame_index, raw, np.stack(coded))
        return pairs

    def _without_frames(self, split: str, names: Collection[str]) -> Iterator[dict[str, Any]]:
        """Examples with some features, none of them a frame, from the dataset's table if it can."""
        num_examples = self._builder.info.splits[split].num_examples
        table = read_label_table(self._folder, split, num_examples, [*names])
        if table is not None:
            yield from table.to_pylist()
            return
        for example in self._examples(split, names):
            yield {name: _plain(value) for name, value in example.items()}

    def _examples(
        self,
        split: str,
        names: Collection[str],
        *,
        batch_size: int | None = None,
        encoded: Collection[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """Examples with these features alone; those in `encoded` stay the bytes they are."""
        import tensorflow_datasets as tfds

        features: Any = self._builder.info.features
        dataset = self._builder.as_dataset(
            split=split,
            batch_size=batch_size,
            decoders=tfds.decode.PartialDecoding(
                {name: features[name] for name in names},
                decoders={name: tfds.decode.SkipDecoding() for name in encoded},
            ),
        )
        yield from tfds.as_numpy(dataset)


def _info(info: Any) -> DatasetInfo:
    metadata = dict(info.metadata or {})
    missing = [key for key in ("simulated", "scale", "fingerprint") if key not in metadata]
    if missing:
        raise UserError(
            f"dataset {info.full_name}",
            "metadata with simulated, scale and fingerprint",
            f"no {', '.join(missing)}",
            "Build it with this version of the project.",
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
        splits={name: tuple(ids) for name, ids in metadata.get("splits", {}).items()},
    )


def _plain(value: Any) -> Any:
    """A value of TensorFlow's as a table has it: text, numbers, lists."""
    if isinstance(value, bytes):
        return value.decode()
    return value.to_list() if hasattr(value, "to_list") else value


def _decode_png(data: bytes) -> np.ndarray:
    """Decode one stored frame; done here so that only the few frames shown are decoded at all."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _table(rows: list[Any], width: int) -> np.ndarray:
    return np.array(rows, np.float64).reshape(len(rows), width)
