"""The tiny synthetic dataset and its dataset, shared by the tests of the builder."""

import pytest


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Six clips of three photographs: two clips a group."""
    from photographs import photographs
    from videoset_builds import SETTINGS

    from beam_pipelines.runner import local_options
    from beam_pipelines.synthetic.pipeline import synthesize

    root = tmp_path_factory.mktemp("synthetic")
    synthesize(photographs(root), SETTINGS, root / "mini", local_options(1))
    return root / "mini"


@pytest.fixture(scope="module")
def dataset(synthetic, tmp_path_factory):
    from videoset_builds import build

    return build(synthetic, tmp_path_factory.mktemp("data"))
