"""A store that fails one request in ten, reads and writes, in each of the ways that stores fail."""

import pytest
from s3 import Flaky, local_s3

from laser_dist import storage
from laser_dist.storage import retries
from laser_dist.storage.local_copies import local_dataset, local_run
from laser_dist.storage.run_files import RunFiles

pytestmark = pytest.mark.attack("Failing storage")


@pytest.fixture(scope="module")
def flaky():
    with local_s3(fail_every=10) as running:
        yield running


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(retries, "PAUSES_S", (0.01,) * len(retries.PAUSES_S))


@pytest.mark.slow  # Amazon's client waits for 3 s if a store is busy or a connection is reset
def test_everything_that_is_written_is_read_back(flaky, tmp_path):
    contents = {f"{index // 2}/{index}": bytes([index]) * 5000 for index in range(10)}
    store = RunFiles(flaky.url("run"))
    for name, content in contents.items():
        path = store.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        store.push(path)
        path.unlink()
    assert flaky.files("run") == contents
    location = flaky.url("run")
    assert [file.size for file in storage.list_files(location)] == [5000] * len(contents)
    for name, content in contents.items():
        assert store.fetch(store.local / name, reuse=True)
        assert (store.local / name).read_bytes() == content
    for name, content in list(contents.items())[::2]:
        assert storage.open_random(storage.join(location, name)).read_at(7, 9) == content[7:16]
    assert store.names(store.local) == [str(index) for index in range(5)]
    for index in range(4):
        store.remove(store.local / str(index))
    assert set(flaky.files("run")) == {name for name in contents if name.startswith("4/")}
    assert set(flaky.faults) == set(Flaky.KINDS)


@pytest.mark.slow
def test_copies_of_a_run_and_a_dataset_are_complete(flaky, tmp_path):
    shard = "videoset_jnd-test.tfrecord-0000{}-of-00004"
    names = ("config.json", "models/predictor.keras", "models/jnd1.keras", "logs/metrics/a.csv")
    names += ("metadata.json", "labels/test.parquet", *(shard.format(index) for index in range(4)))
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    flaky.upload(tmp_path, "both")
    before = len(flaky.faults)
    for copy in (local_run(flaky.url("both")), local_dataset(flaky.url("both"), ("test",))):
        for name in names:
            if copy.joinpath(name).exists():
                assert copy.joinpath(name).read_bytes() == name.encode() * 1000
    assert all(copy.joinpath(name).exists() for name in names)
    assert len(flaky.faults) > before
