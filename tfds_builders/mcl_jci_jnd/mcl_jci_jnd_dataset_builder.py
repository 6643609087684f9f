"""The TFDS builder `mcl_jci_jnd`."""

import dataclasses

import tensorflow_datasets as tfds

from beam_pipelines.inputs.mcl_jci_files import MclJciFiles
from laser_dist.jnd.mcl_jci_labels import Convention
from laser_dist.jnd.scale import QF
from tfds_builders.jnd_config import JndConfig
from tfds_builders.jnd_dataset import JndBuilder


@dataclasses.dataclass(kw_only=True)
class MclJciJndConfig(JndConfig):
    """Which labels the levels are taken from.

    Attributes:
      convention: "viewers" or "stairs"; see `laser_dist.jnd.mcl_jci_labels`.
    """

    convention: Convention = "viewers"
    frames_per_second: float | None = None  # a still image is one frame


class Builder(JndBuilder):
    """Frame pairs raw/JND1..3 and the quality table of MCL-JCI or a synthetic dataset."""

    SCALE = QF
    HOMEPAGE = "https://mcl.usc.edu/mcl-jci-dataset/"
    LICENSE = "Set by the publishers of MCL-JCI; read their terms before use."
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {
        "2.0.0": "Corrected quality table, levels rounded to the side of lower visibility, and the "
        "names of viewers.",
        "1.0.0": "Frame pairs, viewers' samples and the quality table.",
    }
    BUILDER_CONFIGS = [
        MclJciJndConfig(
            name="viewers",
            description="Levels at which 75% of the viewers are satisfied; the default.",
        ),
        MclJciJndConfig(
            name="stairs",
            description="Levels of the stair-step model, from its files.",
            convention="stairs",
        ),
        MclJciJndConfig(
            name="synthetic",
            description="Synthetic 256x144 images, labeled by simulated viewers.",
            model_width=256,
            model_height=144,
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Download MCL-JCI (Jin et al. 2016) from https://mcl.usc.edu/mcl-jci-dataset/, or run
    `laser-jnd synthesize --kind mcl-jci`. Put the archive, or its images and text files, anywhere
    below the manual folder.
    """

    @property
    def layout(self) -> MclJciFiles:
        """How MCL-JCI names its files, and what its labels mean."""
        config = self.builder_config
        assert isinstance(config, MclJciJndConfig)
        return MclJciFiles(config.convention)
