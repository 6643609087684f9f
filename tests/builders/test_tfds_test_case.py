"""The test case that TFDS has for every builder, on small dummy data."""

from dataclasses import replace

import pytest
import tensorflow_datasets as tfds
from videoset_builds import TINY

from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder

pytestmark = [pytest.mark.beam, pytest.mark.slow]


class TestVideosetJnd(tfds.testing.DatasetBuilderTestCase):
    """The checks of TFDS."""

    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = (replace(TINY, description="Two clips of each photograph."),)
    SPLITS = {"train": 4, "validation": 4, "test": 4}  # two frames of each of two clips


@pytest.fixture(scope="module", autouse=True)
def dummy_data(synthetic):
    TestVideosetJnd.EXAMPLE_DIR = str(synthetic)
