"""The test case that TFDS has for every builder, on small dummy data."""

from dataclasses import replace

import pytest
import tensorflow_datasets as tfds
from photographs import photographs
from videoset_builds import TINY

from beam_pipelines.runner import local_options
from beam_pipelines.synthetic.mcl_jci import MclJciSettings
from beam_pipelines.synthetic.pipeline import synthesize
from tfds_builders.mcl_jci_jnd import mcl_jci_jnd_dataset_builder as mcl_jci
from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder

pytestmark = [pytest.mark.beam, pytest.mark.slow]


class TestVideosetJnd(tfds.testing.DatasetBuilderTestCase):
    """The checks of TFDS."""

    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = (replace(TINY, description="Two clips of each photograph."),)
    SPLITS = {"train": 4, "validation": 4, "test": 4}  # two frames of each of two clips


class TestMclJciJnd(tfds.testing.DatasetBuilderTestCase):
    """The checks of TFDS."""

    DATASET_CLASS = mcl_jci.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = (
        mcl_jci.MclJciJndConfig(
            name="tiny", description="Two images of each photograph.", model_width=32,
            model_height=32,
        ),
    )  # fmt: skip
    SPLITS = {"train": 2, "validation": 2, "test": 2}  # one photograph each


@pytest.fixture(scope="module", autouse=True)
def dummy_data(synthetic, tmp_path_factory):
    TestVideosetJnd.EXAMPLE_DIR = str(synthetic)
    root = tmp_path_factory.mktemp("images")
    settings = MclJciSettings(num_sources=6, width=64, height=48, qfs=(5, 10, 20, 30, 50, 70, 100))
    synthesize(photographs(root), settings, root / "mini", local_options(1))
    TestMclJciJnd.EXAMPLE_DIR = str(root / "mini")
