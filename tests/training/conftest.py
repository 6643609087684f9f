import pytest
from cloud import local_cloud
from s3 import local_s3
from training_fakes import GappyPairs, TinyPairs


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory):
    builder = TinyPairs(data_dir=tmp_path_factory.mktemp("tiny_pairs"))
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture(scope="session")
def gappy_dir(tmp_path_factory):
    builder = GappyPairs(data_dir=tmp_path_factory.mktemp("gappy_pairs"))
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture(scope="module")
def s3():
    """A stand-in of S3."""
    with local_s3() as running:
        yield running


@pytest.fixture(scope="module")
def gs(tmp_path_factory):
    """A stand-in of Google's storage, that this process asks directly."""
    with local_cloud(tmp_path_factory.mktemp("gs")) as running, pytest.MonkeyPatch.context() as env:
        env.setenv("NO_PROXY", "127.0.0.1")
        env.setenv("no_proxy", "127.0.0.1")
        yield running
