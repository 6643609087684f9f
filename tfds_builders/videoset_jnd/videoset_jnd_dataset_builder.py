"""The TFDS builder `videoset_jnd`."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds

from beam_pipelines.elements import JudgedSource, MeasuredSource
from beam_pipelines.frame_pairs import MeasureSources, PairSettings
from beam_pipelines.rejects_table import (
    REJECTS,
    REJECTS_FILE,
    WriteRejects,
    clear_failures,
    refuse_too_many,
)
from beam_pipelines.runner import worker_environment
from beam_pipelines.videoset_files import Inventory, take_inventory
from laser_dist.errors import UserError
from laser_dist.jnd.splits import SPLITS, assign_splits
from tfds_builders.jnd_dataset import examples_of, pair_features

QUALITY_FOLDER = "quality"


@dataclasses.dataclass
class VideosetJndConfig(tfds.core.BuilderConfig):
    """One resolution of the clips and how frames are taken from them.

    Attributes:
      resolution: of the coded clips, such as "1280x720".
      model_width: of the frames in the examples, in pixels.
      model_height: of the frames in the examples, in pixels.
      frames_per_second: frames taken of each source.
    """

    resolution: str = "640x360"
    model_width: int = 640
    model_height: int = 352
    frames_per_second: float = 1.0

    @property
    def pairs(self) -> PairSettings:
        """What the pipeline needs to know."""
        return PairSettings(
            model_width=self.model_width,
            model_height=self.model_height,
            frames_per_second=self.frames_per_second,
        )


class Builder(tfds.core.GeneratorBasedBuilder):
    """Frame pairs raw/JND1..3 and the quality table of VideoSet or of its miniature."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Frame pairs, viewers' samples and the quality table."}
    BUILDER_CONFIGS = [
        VideosetJndConfig(
            name="miniature",
            description="The miniature: 256x144 clips of four frames, judged by simulated viewers.",
            resolution="256x144",
            model_width=256,
            model_height=144,
            frames_per_second=15.0,  # two frames of each four
        ),
        *(
            VideosetJndConfig(
                name=f"{resolution.split('x')[1]}p",
                description=f"VideoSet's {resolution} clips.",
                resolution=resolution,
            )
            for resolution in ("640x360", "960x540", "1280x720", "1920x1080")
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Register and download VideoSet (Wang et al. 2017) from IEEE DataPort, or run
    `laser-jnd miniature`. Put the coded clips (videoSRC001_640x360_30_qp_22.264, ...) and the label
    tables (640x360_1st.csv, ...) anywhere below the manual folder.
    """

    # TFDS wraps its own method for logging, which a type checker takes for another kind of thing.
    def download_and_prepare(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, **kwargs: Any
    ) -> None:
        """As TFDS's own, which does nothing where the dataset is there already.

        Raises:
          UserError: clips or labels that cannot be used, more than 5 % of the sources rejected (a
            table of them then lies beside the dataset's folder), or a folder that cannot be
            written.
        """
        with worker_environment(), clear_failures(self._refusal, Path(self.data_dir)):
            super().download_and_prepare(**kwargs)

    @property
    def _config(self) -> VideosetJndConfig:
        config = self.builder_config
        assert isinstance(config, VideosetJndConfig)
        return config

    @property
    def _refusal(self) -> Path:
        # While TFDS builds, `data_dir` is a temporary folder in the same place.
        return Path(self.data_dir).parent / f"rejected-{self.version}.parquet"

    def _info(self) -> tfds.core.DatasetInfo:
        config = self._config
        return self.dataset_info_from_configs(
            features=pair_features(
                height=config.model_height, width=config.model_width, scale="QP"
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager, pipeline: beam.Pipeline
    ) -> Mapping[str, Any]:
        manual_folder = Path(dl_manager.manual_dir)
        inventory = take_inventory(manual_folder, self._config.resolution)
        total = inventory.num_sources
        refuse_too_many(inventory.rejects, total, self._refusal)
        splits = assign_splits({s.source_id: s.group_id for s in inventory.sources})
        _check_every_split(splits, manual_folder)
        metadata = self.info.metadata
        assert metadata is not None  # `_info` gives one
        metadata.update(self._metadata(inventory, splits))
        folder = Path(self.data_dir)
        outputs = (
            pipeline
            | "Sources" >> beam.Create(inventory.sources)
            | "SpreadSources" >> beam.Reshuffle()
            | "MeasureSources"
            >> beam.ParDo(MeasureSources(self._config.pairs, folder / QUALITY_FOLDER)).with_outputs(
                REJECTS, main="measured"
            )
        )
        _ = (
            outputs[REJECTS]
            | "GatherRejects" >> beam.combiners.ToList()
            | "WriteRejects"
            >> beam.ParDo(
                WriteRejects(folder / REJECTS_FILE, self._refusal, inventory.rejects, total)
            )
        )
        return {
            split: outputs["measured"]
            | f"Keep_{split}" >> beam.Filter(_is_in, split, splits)
            | f"Examples_{split}" >> beam.FlatMap(examples_of)
            for split in SPLITS
        }

    def _generate_examples(self) -> Iterable[Any]:
        raise NotImplementedError("Examples come from the pipeline of `_split_generators`.")

    def _metadata(self, inventory: Inventory, splits: Mapping[str, str]) -> dict[str, Any]:
        config = self._config
        return {
            "simulated": bool(inventory.simulated),
            "simulation": inventory.simulated,
            "seed": inventory.seed,
            "scale": "QP",
            "higher_is_worse": True,
            "level_definition": "the label tables' column jnd, about the 25th percentile",
            "resolution": config.resolution,
            "model_width": config.model_width,
            "model_height": config.model_height,
            "frames_per_second": config.frames_per_second,
            "fingerprint": inventory.fingerprint,
            "repairs": list(inventory.repairs),
            "num_rejected_by_name": len(inventory.rejects),
            "splits": {
                split: sorted(source for source, name in splits.items() if name == split)
                for split in SPLITS
            },
        }


def _check_every_split(splits: Mapping[str, str], folder: Path) -> None:
    missing = sorted(set(SPLITS) - set(splits.values()))
    if missing:
        raise UserError(
            f"Sources below {folder}",
            f"three groups or more, one for each of {', '.join(SPLITS)}",
            f"{len(splits)} sources, none left for {', '.join(missing)}",
            "Add sources of other footage.",
        )


def _is_in(measured: MeasuredSource, split: str, splits: Mapping[str, str]) -> bool:
    source: JudgedSource = measured.source
    return splits[source.source_id] == split
