"""Locations behind URLs, with a bucket on this machine."""

import dataclasses
import logging
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cloud import serving

from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.storage import retries

pytestmark = pytest.mark.slow


@pytest.fixture(params=["s3", "gs"])
def bucket(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def folder(bucket, request):
    """URL of a new folder, with options."""
    return bucket.url(Path(request.node.name).name.partition("[")[0])


def name_of(folder):
    return folder.partition("?")[0].rpartition("/")[2]


def test_a_written_file_is_read_back(bucket, folder, tmp_path):
    storage.write_bytes(storage.join(folder, "one"), b"12345")
    storage.write_bytes(storage.join(folder, "none"), b"")
    (tmp_path / "two.gz").write_bytes(b"678")
    storage.upload(tmp_path / "two.gz", storage.join(folder, "deep", "two.gz"))
    expected = {"one": b"12345", "none": b"", "deep/two.gz": b"678"}
    assert bucket.files(name_of(folder)) == expected
    for name, content in expected.items():
        assert storage.read_bytes(storage.join(folder, name)) == content
    assert storage.exists(storage.join(folder, "one"))
    assert not storage.exists(storage.join(folder, "two"))


def test_a_file_larger_than_a_part_is_stored_in_full(bucket, folder, tmp_path):
    content = bytes(range(256)) * 50_000  # S3's parts have 10 MB
    (tmp_path / "large").write_bytes(content)
    storage.upload(tmp_path / "large", storage.join(folder, "large"))
    assert bucket.files(name_of(folder)) == {"large": content}
    assert storage.download(storage.join(folder, "large"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_a_pattern_matches_files_of_the_bucket(folder):
    names = ("a.mp4", "d/b.mp4", "d/e/c.mp4", "d/e/c.txt")
    for name in names:
        storage.write_bytes(storage.join(folder, name), b"1")
    assert not storage.is_pattern(storage.join(folder, "a.mp4"))
    for pattern, matched in {
        "**/*.mp4": ["a.mp4", "d/b.mp4", "d/e/c.mp4"],
        "d/*.mp4": ["d/b.mp4"],
        "*/e/*": ["d/e/c.mp4", "d/e/c.txt"],
        "no/*": [],
    }.items():
        url = storage.join(folder, pattern)
        assert storage.is_pattern(url)
        assert storage.match_files(url) == [storage.join(folder, name) for name in matched]


def test_the_bucket_itself_is_no_pattern():
    with pytest.raises(UserError, match=r"The bucket of gs://b\*/a has a wildcard"):
        storage.match_files("gs://b*/a")


def test_bytes_are_read_at_any_position(folder):
    location = storage.join(folder, "file")
    storage.write_bytes(location, b"0123456789")
    file = storage.open_random(location)
    assert (file.name, file.size) == (location, 10)
    assert file.read_at(3, 4) == b"3456"
    assert file.read_at(8, 4) == b"89"
    assert file.read_at(12, 4) == b""
    with storage.open_binary(location) as stream:
        assert stream.seek(-3, 2) == 7
        assert stream.read(2) == b"78"
        assert stream.seek(-2, 1) == 7
        assert stream.read() == b"789"
        stream.seek(0)
        assert stream.read() == b"0123456789"


def test_hidden_files_are_not_listed(folder):
    for name in ("b/2", "a", "c [1]/d*.txt", ".work/3", "b/.4", ".5"):
        storage.write_bytes(storage.join(folder, name), b"12")
    storage.write_bytes(folder.replace("listed", "listed-not"), b"")
    found = storage.list_files(folder)
    names = ["a", "b/2", "c [1]/d*.txt"]
    assert [file.location for file in found] == [storage.join(folder, name) for name in names]
    assert [file.name for file in found] == ["a", "2", "d*.txt"]
    assert {file.size for file in found} == {2}
    assert all((file.mtime_ns or 0) > 1.6e18 for file in found)
    assert storage.read_bytes(found[-1].location) == b"12"


def test_a_listed_file_is_read_until_it_changes(folder):
    location = storage.join(folder, "a.264")
    storage.write_bytes(location, b"old" * 10)
    (listed,) = storage.list_files(folder)
    assert storage.read_listed(listed) == b"old" * 10
    for content in (b"longer than before, by far", b"short"):
        storage.write_bytes(location, content)
        with pytest.raises(UserError, match=r"a\.264.* changed while the dataset was built\."):
            storage.read_listed(listed)
    storage.write_bytes(location, b"new" * 10)
    earlier = dataclasses.replace(listed, mtime_ns=(listed.mtime_ns or 0) - 5 * 10**9)
    with pytest.raises(UserError, match="changed while the dataset was built"):
        storage.read_listed(earlier)
    storage.remove(location)
    with pytest.raises(UserError, match="was removed while the dataset was built"):
        storage.read_listed(listed)


def test_a_folder_lists_its_files_and_folders(folder):
    for name in ("b/deep/2", "a", "b.txt", ".hidden"):
        storage.write_bytes(storage.join(folder, name), b"")
    assert storage.list_folder(folder) == {".hidden": False, "a": False, "b": True, "b.txt": False}
    assert storage.list_folder(storage.join(folder, "none")) == {}


def test_a_removed_folder_takes_its_content_and_nothing_else_with_it(bucket, folder):
    for name in ("1.0.0/a", "1.0.0/.b/c", "1.0.0", "1.0.01", "1.0.0.txt"):
        storage.write_bytes(storage.join(folder, name), b"")
    storage.remove(storage.join(folder, "1.0.0"))
    storage.remove(storage.join(folder, "1.0.0"))
    assert sorted(bucket.files(name_of(folder))) == ["1.0.0.txt", "1.0.01"]


def test_only_a_folder_without_other_files_is_marked(bucket, folder):
    storage.mark_folder(folder)
    storage.write_bytes(storage.join(folder, "work"), b"")
    storage.mark_folder(folder)
    assert sorted(bucket.files(name_of(folder))) == [storage.MARK, "work"]
    storage.remove(storage.join(folder, storage.MARK))
    with pytest.raises(UserError, match="has files that laser-jnd did not write"):
        storage.mark_folder(folder)
    assert sorted(bucket.files(name_of(folder))) == ["work"]


def test_a_copy_is_complete_and_replaces_the_one_before(folder, tmp_path):
    location, copy = storage.join(folder, "file"), tmp_path / "deep" / "copy"
    assert not storage.download(location, copy)
    for content in (b"old", b"new"):
        storage.write_bytes(location, content)
        assert storage.download(location, copy)
        assert copy.read_bytes() == content
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_bucket_that_does_not_exist_is_reported_at_once(folder, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES_S", (pytest.fail,))
    missing = folder.replace("bucket", "nobody", 1)
    for use in (storage.list_files, storage.list_folder, storage.check_writable):
        with pytest.raises(UserError) as caught:
            use(missing)
        assert caught.value.message.startswith("The bucket of gs://anonymous@nobody/"[:14])
        assert "nobody" in caught.value.message
        assert caught.value.message.endswith("does not exist.")
    assert not storage.exists(missing)
    with pytest.raises(FileNotFoundError, match="nobody"):
        storage.read_bytes(missing)


def test_a_bucket_that_can_be_written_stays_as_it_was(bucket, folder):
    storage.check_writable(folder)
    assert bucket.files(name_of(folder)) == {}


def test_a_file_that_does_not_exist_is_named(folder):
    location = storage.join(folder, "none")
    for use in (storage.read_bytes, storage.open_random, storage.open_binary):
        with pytest.raises(FileNotFoundError) as caught:
            use(location)
        assert caught.value.filename == location


@pytest.mark.parametrize("use", [storage.list_files, storage.exists, storage.remove])
def test_a_url_of_another_kind_is_refused(use):
    with pytest.raises(UserError, match=r"ftp://mine/x .*unsupported"):
        use("ftp://mine/x")


def test_an_option_that_pyarrow_does_not_know_is_an_error():
    with pytest.raises(UserError, match="Cannot access s3://bucket/x[?]color=red: .*color"):
        storage.exists("s3://bucket/x?color=red")


ERRORS = {
    status: f"<Error><Code>{code}</Code><Message>{code}!</Message></Error>".encode()
    for status, code in ((401, "NoKeys"), (403, "AccessDenied"), (503, "SlowDown"))
}


class Answers(BaseHTTPRequestHandler):
    """An S3 server that answers all requests with one status, and with the content 12345."""

    status = 200
    requests: list[str] = []

    def do_GET(self):
        self.requests.append(self.command)
        content = b"12345" if self.status == 200 else ERRORS[self.status]
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(s3):  # which sets credentials
    class Own(Answers):
        requests: list[str] = []

    with serving(Own) as port:
        yield Own, f"s3://bucket/file?scheme=http&endpoint_override=127.0.0.1%3A{port}"


@contextmanager
def recovering(handler):
    """Let a server answer once a first failure has been logged."""

    class Recovering(logging.Handler):
        def emit(self, record):
            handler.status = 200

    watch = Recovering()
    retries.logger.addHandler(watch)
    try:
        yield
    finally:
        retries.logger.removeHandler(watch)


def test_a_server_that_is_busy_is_asked_again_until_it_answers(server, monkeypatch, caplog):
    handler, location = server
    handler.status = 503
    monkeypatch.setattr(retries, "PAUSES_S", (0.01, 0.01))
    with recovering(handler):
        assert storage.read_bytes(location) == b"12345"
    assert len(caplog.records) == 1


def test_a_server_that_stays_busy_is_a_users_error_and_never_content(server, monkeypatch):
    handler, location = server
    handler.status = 503
    monkeypatch.setattr(retries, "PAUSES_S", ())
    with pytest.raises(UserError) as caught:
        storage.read_bytes(location)
    assert caught.value.message.startswith(f"Cannot access {location}: ")
    assert caught.value.hint == "Check the network, then run the command again."


@pytest.mark.parametrize("status", [401, 403])
def test_missing_permission_is_reported_soon(server, status, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES_S", (0, 0, 0, *(pytest.fail for _ in range(7))))
    handler, location = server
    handler.status = status
    for use in (storage.read_bytes, storage.exists, storage.check_writable):
        handler.requests.clear()
        with pytest.raises(UserError) as caught:
            use(location)
        assert caught.value.message.startswith("Cannot access s3://bucket/file")
        assert caught.value.hint == "Check the bucket's name and your credentials."
        # Without content, as for HEAD, Amazon's client takes a 401 for a 403.
        assert len(handler.requests) in ({4} if status == 403 else {1, 4})


def test_permission_that_is_missing_for_a_moment_is_no_error(server, monkeypatch, caplog):
    handler, location = server
    handler.status = 403
    monkeypatch.setattr(retries, "PAUSES_S", (0.01,) * 10)
    with recovering(handler):
        assert storage.read_bytes(location) == b"12345"
    assert len(caplog.records) == 1
