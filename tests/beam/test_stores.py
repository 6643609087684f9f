"""Places behind URLs, with a bucket on this machine."""

import pytest
from cloud import local_cloud

from beam_pipelines import storage
from laser_dist.errors import UserError

pytestmark = pytest.mark.beam


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with (
        local_cloud(tmp_path_factory.mktemp("cloud")) as cloud,
        pytest.MonkeyPatch.context() as set,
    ):
        for name, value in cloud.environment.items():
            set.setenv(name, value)
        storage.use_options([])
        yield cloud


def test_what_is_written_is_read_again(cloud, tmp_path):
    storage.write_bytes("gs://bucket/rw/one", b"12345")
    (tmp_path / "two.gz").write_bytes(b"678")
    storage.publish(tmp_path / "two.gz", "gs://bucket/rw/deep/two.gz")
    assert not (tmp_path / "two.gz").exists()
    # As it is: Beam would pack what ends in .gz, and unpack it.
    assert cloud.files("rw") == {"one": b"12345", "deep/two.gz": b"678"}
    assert storage.read_bytes("gs://bucket/rw/deep/two.gz") == b"678"
    with storage.open_binary("gs://bucket/rw/one") as file:
        file.seek(2)
        assert file.read(2) == b"34"
    assert storage.exists("gs://bucket/rw/one")
    assert not storage.exists("gs://bucket/rw/none")


def test_hidden_files_are_not_listed(cloud):
    for name in ("b/2", "a", ".work/3", "b/.4", ".5"):
        storage.write_bytes(f"gs://bucket/hidden/{name}", b"12")
    storage.write_bytes("gs://bucket/hidden-not", b"")
    found = storage.list_files("gs://bucket/hidden/")
    assert [(file.place, file.size) for file in found] == [
        ("gs://bucket/hidden/a", 2),
        ("gs://bucket/hidden/b/2", 2),
    ]
    assert all(file.modified_s > 0 for file in found)


def test_a_folder_is_removed_with_all_in_it_and_nothing_beside(cloud):
    for name in ("1.0.0/a", "1.0.0/.b/c", "1.0.0", "1.0.01", "1.0.0.txt"):
        storage.write_bytes(f"gs://bucket/remove/{name}", b"")
    storage.remove("gs://bucket/remove/1.0.0")
    storage.remove("gs://bucket/remove/1.0.0")
    assert sorted(cloud.files("remove")) == ["1.0.0.txt", "1.0.01"]


def test_no_such_bucket(cloud):
    with pytest.raises(
        UserError, match="Place gs://none/x: .* got 404 .*Check its name and your c"
    ):
        storage.list_files("gs://none/x")
    with pytest.raises(UserError, match="Output folder gs://none/x: expected a place that can be"):
        storage.check_writable("gs://none/x")
    storage.check_writable("gs://bucket/new")
    assert cloud.files("new") == {}


def test_what_is_not_there_is_an_error_as_of_files(cloud):
    with pytest.raises(OSError, match="gs://bucket/none: 404 "):
        storage.read_bytes("gs://bucket/none")
    with pytest.raises(OSError, match="gs://none/x: the store answered 404"):
        storage.write_bytes("gs://none/x", b"")


@pytest.mark.parametrize("use", [storage.list_files, storage.exists, storage.remove])
def test_a_kind_of_url_that_beam_cannot_read(use, monkeypatch):
    with pytest.raises(UserError, match="got ftp://. Use gs://, s3:// or a path."):
        use("ftp://mine/x")
    monkeypatch.setattr(storage, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"got s3://\. Install laser-jnd\[aws\]\."):
        use("s3://mine/x")
    monkeypatch.setattr("apache_beam.io.gcp.gcsfilesystem.GCSFileSystem.scheme", lambda: "none")
    with pytest.raises(UserError, match=r"got gs://\. Install laser-jnd\[gcp\]\."):
        use("gs://mine/x")
