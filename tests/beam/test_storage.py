import errno
import os
import threading
from pathlib import Path

import pytest

from beam_pipelines import storage
from beam_pipelines.storage import StoredFile, join, list_files
from laser_dist.errors import UserError


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names_below(folder):
    return [Path(file.place).relative_to(folder).as_posix() for file in list_files(folder)]


def test_files_at_any_depth_are_listed_by_place_with_size_and_time(tmp_path):
    fill(tmp_path, "b.264", "a/c.264", "a/deep/er/d.264")
    os.utime(tmp_path / "b.264", (5, 1234.5))
    assert names_below(tmp_path) == ["a/c.264", "a/deep/er/d.264", "b.264"]
    last = list_files(str(tmp_path))[-1]
    assert last == StoredFile(str(tmp_path / "b.264"), size=len("b.264"), modified_s=1234.5)
    assert (last.name, str(last)) == ("b.264", str(tmp_path / "b.264"))


def test_hidden_files_and_all_below_hidden_folders_are_left_out(tmp_path):
    fill(tmp_path, ".a.264", ".half/b.264", "c/.half/d/e.264", "c/f.264")
    assert names_below(tmp_path) == ["c/f.264"]
    # But who names a hidden folder means it.
    assert names_below(tmp_path / ".half") == ["b.264"]


def test_names_with_brackets_stars_and_spaces_are_plain_names(tmp_path):
    names = ["[BMP]/a[1].bmp", "b*?.jpg", "c d/e f.264", "source_images/[BMP]/x.bmp"]
    fill(tmp_path, *names)
    assert names_below(tmp_path) == sorted(names)
    assert names_below(tmp_path / "[BMP]") == ["a[1].bmp"]
    for file in list_files(tmp_path):
        name = Path(file.place).relative_to(tmp_path).as_posix()
        assert storage.read_bytes(file.place) == name.encode()


def test_folders_behind_links_are_listed_once_and_loops_end(tmp_path):
    fill(tmp_path, "real/a.264", "real/deep/b.264")
    (tmp_path / "real" / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "zlink").symlink_to(tmp_path / "real")
    assert names_below(tmp_path) == ["real/a.264", "real/deep/b.264"]
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    fill(elsewhere, "c.264")
    (tmp_path / "far").symlink_to(elsewhere)
    assert names_below(tmp_path) == ["far/c.264", "real/a.264", "real/deep/b.264"]


def test_links_to_files_are_files_and_links_to_nothing_are_none(tmp_path):
    fill(tmp_path, "a.264")
    (tmp_path / "b.264").symlink_to("a.264")
    (tmp_path / "c.264").symlink_to("gone.264")
    assert names_below(tmp_path) == ["a.264", "b.264"]


def test_a_folder_that_is_none_is_an_error(tmp_path):
    fill(tmp_path, "file")
    for name, got in (("absent", "none"), ("file", "a file")):
        with pytest.raises(UserError, match=f"Folder .*{name}: expected a folder, got {got}"):
            list_files(tmp_path / name)


def test_a_folder_that_cannot_be_read_is_an_error_and_not_left_out(tmp_path, monkeypatch):
    fill(tmp_path, "a/a.264", "b/b.264")
    scandir = os.scandir

    def refusing(place):
        if os.fspath(place) == str(tmp_path / "b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"Folder .*/b: .*can be read, got Permission denied"):
        list_files(tmp_path)


def test_a_written_file_is_there_whole_and_replaces_the_one_before(tmp_path):
    place = tmp_path / "new" / "deep" / "file"
    for content in (b"old and long", b"new"):
        storage.write_bytes(place, content)
        assert storage.read_bytes(place) == content
        assert storage.exists(place)
    assert [path.name for path in place.parent.iterdir()] == ["file"]


def test_until_all_is_written_the_old_file_stands(tmp_path, monkeypatch):
    place = tmp_path / "file"
    storage.write_bytes(place, b"old")

    def half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        assert storage.read_bytes(place) == b"old"
        assert [file.place for file in list_files(tmp_path)] == [str(place)]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(place, b"new content")
    assert storage.read_bytes(place) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_place_written_from_many_threads_holds_one_of_the_contents(tmp_path):
    place, contents = tmp_path / "file", [bytes([i]) * 200_000 for i in range(8)]
    threads = [threading.Thread(target=storage.write_bytes, args=(place, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read_bytes(place) in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_publishing_moves_a_file(tmp_path):
    fill(tmp_path, "scratch/made")
    storage.publish(tmp_path / "scratch" / "made", tmp_path / "data" / "made")
    assert (tmp_path / "data" / "made").read_text() == "scratch/made"
    assert not (tmp_path / "scratch" / "made").exists()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["made"]


def test_removing_takes_files_and_folders_and_minds_neither_being_there(tmp_path):
    fill(tmp_path, "a/b/c", "d")
    for name in ("a", "d", "absent"):
        storage.remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="absent"):
        storage.read_bytes(tmp_path / "absent")


def test_places_are_joined_as_paths_and_as_urls():
    assert join("a/", "b", "c") == join(Path("a"), "b", "c") == "a/b/c"
    assert join("gs://bucket/", "b") == "gs://bucket/b"
    assert join("/", "b") == "/b"
    assert join("gs://bucket") == "gs://bucket"
    assert [storage.is_remote(place) for place in ("gs://a/b", "/a/b", Path("a"))] == [1, 0, 0]


def test_a_url_of_no_known_kind_is_an_error():
    with pytest.raises(UserError, match=r"Place ftp://host/a: .*Use gs://, s3:// or a path"):
        list_files("ftp://host/a")
