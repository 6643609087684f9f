import pytest


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory):
    from training_fakes import TinyPairs

    builder = TinyPairs(data_dir=tmp_path_factory.mktemp("tiny_pairs"))
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture(scope="session")
def gappy_dir(tmp_path_factory):
    from training_fakes import GappyPairs

    builder = GappyPairs(data_dir=tmp_path_factory.mktemp("gappy_pairs"))
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture
def _without_graphs():
    """Run steps operation by operation: for a few steps, building their graphs takes far longer.

    The tests of the step and of the commands build them.
    """
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Cache decoded frames for this test only: the datasets of the tests have one fingerprint."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
