"""The TFDS builder `videoset_jnd`."""

import dataclasses
from typing import Any

import tensorflow_datasets as tfds

from beam_pipelines.inputs.videoset_files import LevelDefinition, SplitBy, VideosetFiles
from laser_dist.jnd.scale import QP
from tfds_builders.jnd_config import JndConfig
from tfds_builders.jnd_dataset import JndBuilder


@dataclasses.dataclass(kw_only=True)
class VideosetJndConfig(JndConfig):
    """One resolution of the clips, and what a level is.

    Attributes:
      resolution: resolution of the encoded clips, such as "1280x720".
      level_definition: "jnd" for column jnd of the label tables, "mean" for the samples' mean.
      split_by: "film" to keep the clips of one film in one split, "source" to let splits share
        films, as the literature does.
    """

    resolution: str = "640x360"
    level_definition: LevelDefinition = "jnd"
    split_by: SplitBy = "film"


class Builder(JndBuilder):
    """Frame pairs raw/JND1..3 and the quality table of VideoSet or a synthetic dataset."""

    SCALE = QP
    HOMEPAGE = "https://ieee-dataport.org/documents/videoset"
    LICENSE = "Set by the publishers of VideoSet on IEEE DataPort; read their terms before use."
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {
        "2.0.0": "Corrected quality table, levels rounded to the side of lower visibility, and "
        "splits by film.",
        "1.0.0": "Frame pairs, viewers' samples and the quality table.",
    }
    BUILDER_CONFIGS = [
        VideosetJndConfig(
            name="synthetic",
            description="Synthetic 256x144 clips of four frames, labeled by simulated viewers.",
            resolution="256x144",
            model_width=256,
            model_height=144,
            frames_per_second=15.0,  # two of four frames
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
    Register and download VideoSet (Wang et al. 2017) from
    https://ieee-dataport.org/documents/videoset, or run `laser-jnd synthesize`. Put the encoded
    clips (videoSRC001_640x360_30_qp_22.264, ..., in folders or in their archives) and the label
    tables (640x360_1st.csv, ...) anywhere below the manual folder.
    """

    @property
    def layout(self) -> VideosetFiles:
        """How VideoSet names its files, and what its labels mean."""
        config = self._videoset_config
        return VideosetFiles(config.resolution, config.level_definition, config.split_by)

    def _config_metadata(self) -> dict[str, Any]:
        return {"resolution": self._videoset_config.resolution}

    @property
    def _videoset_config(self) -> VideosetJndConfig:
        config = self.builder_config
        assert isinstance(config, VideosetJndConfig)
        return config
