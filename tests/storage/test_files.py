import errno
import glob
import os
import threading
from pathlib import Path

import pytest

from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.storage import StoredFile, join, list_files


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names_below(folder):
    return [Path(file.location).relative_to(folder).as_posix() for file in list_files(folder)]


def test_files_at_any_depth_are_listed_with_size_and_time(tmp_path):
    fill(tmp_path, "b.264", "a/c.264", "a/deep/er/d.264")
    os.utime(tmp_path / "b.264", (5, 1234.5))
    assert names_below(tmp_path) == ["a/c.264", "a/deep/er/d.264", "b.264"]
    last = list_files(str(tmp_path))[-1]
    assert last == StoredFile(
        str(tmp_path / "b.264"), size=len("b.264"), mtime_ns=1_234_500_000_000
    )
    assert (last.name, str(last)) == ("b.264", str(tmp_path / "b.264"))


TREE = ("a.mp4", "b.mkv", "d/a.mp4", "d/e/a1.mp4", "d/e/b.mp4", "x/[1].mp4", "x/.h.mp4", ".h/a.mp4")
PATTERNS = (
    *("*.mp4", "**/*.mp4", "d/**/*.mp4", "d/*", "**/e/*", "*/*.mp4", "**", "d/**", "**/a?.mp4"),
    *("**/[ab].m*", "**/[!a].mp4", "[d]/**/e/*", "x/[[]1].mp4", "**/**/b.mp4", "?.mp4", "no*"),
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_the_files_that_python_finds(pattern, tmp_path, monkeypatch):
    fill(tmp_path, *TREE)
    monkeypatch.chdir(tmp_path)
    for form in (pattern, f"{tmp_path}/{pattern}", f"./{pattern}"):
        found = {path for path in glob.glob(form, recursive=True) if Path(path).is_file()}
        assert storage.is_pattern(form)
        assert set(storage.match_files(form)) == found
        assert storage.match_files(form) == sorted(storage.match_files(form))


def test_hidden_files_and_the_content_of_hidden_folders_are_left_out(tmp_path):
    fill(tmp_path, ".a.264", ".half/b.264", "c/.half/d/e.264", "c/f.264")
    assert names_below(tmp_path) == ["c/f.264"]
    # Unless the hidden folder itself is listed.
    assert names_below(tmp_path / ".half") == ["b.264"]


def test_brackets_stars_and_spaces_in_names_have_no_meaning(tmp_path):
    names = ["[BMP]/a[1].bmp", "b*?.jpg", "c d/e f.264", "source_images/[BMP]/x.bmp"]
    fill(tmp_path, *names)
    assert names_below(tmp_path) == sorted(names)
    assert names_below(tmp_path / "[BMP]") == ["a[1].bmp"]
    for file in list_files(tmp_path):
        name = Path(file.location).relative_to(tmp_path).as_posix()
        assert storage.read_bytes(file.location) == name.encode()


def test_folders_behind_links_are_listed_once_and_loops_end(tmp_path):
    fill(tmp_path, "real/a.264", "real/deep/b.264")
    (tmp_path / "real" / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "zlink").symlink_to(tmp_path / "real")
    assert names_below(tmp_path) == ["real/a.264", "real/deep/b.264"]
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    fill(elsewhere, "c.264")
    (tmp_path / "far").symlink_to(elsewhere)
    assert names_below(tmp_path) == ["far/c.264", "real/a.264", "real/deep/b.264"]


def test_links_to_files_are_listed_and_broken_links_are_not(tmp_path):
    fill(tmp_path, "a.264")
    (tmp_path / "b.264").symlink_to("a.264")
    (tmp_path / "c.264").symlink_to("gone.264")
    assert names_below(tmp_path) == ["a.264", "b.264"]


def test_listing_what_is_no_folder_is_an_error(tmp_path):
    fill(tmp_path, "file")
    for name, text in (("absent", "does not exist"), ("file", "is a file, not a folder")):
        with pytest.raises(UserError, match=rf"Folder .*/{name} {text}\."):
            list_files(tmp_path / name)


def test_a_folder_that_cannot_be_read_is_an_error_and_not_skipped(tmp_path, monkeypatch):
    fill(tmp_path, "a/a.264", "b/b.264")
    scandir = os.scandir

    def refusing(location):
        if os.fspath(location) == str(tmp_path / "b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(location))
        return scandir(location)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"/b cannot be read: Permission denied\."):
        list_files(tmp_path)


@pytest.mark.attack("Folders")
def test_folders_too_deep_to_walk_are_an_error(tmp_path):
    deepest = tmp_path / "top"
    deepest.mkdir()
    for _ in range(1500):
        deepest = deepest / "d"
        deepest.mkdir()
    try:
        with pytest.raises(UserError, match=r"top has more than 100 folders inside one another\."):
            list_files(tmp_path / "top")
    finally:  # `shutil.rmtree`, as pytest uses it, fails here
        for path in (deepest, *deepest.parents):
            if path == tmp_path:
                break
            path.rmdir()


def test_too_many_files_are_an_error(tmp_path, monkeypatch):
    fill(tmp_path, "a", "b/c", "b/d")
    monkeypatch.setattr("laser_dist.storage.listing.MAX_FILES", 3)
    assert len(list_files(tmp_path)) == 3
    fill(tmp_path, "e")
    with pytest.raises(UserError, match=r"has more than 3 files\."):
        list_files(tmp_path)


def test_a_name_too_long_for_a_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"Folder .*n does not exist\."):
        list_files(tmp_path / ("n" * 300))


def rewrite(path):
    path.write_bytes(b"NEW" * 10)  # as long as before


def touch(path):
    os.utime(path, ns=(1, 1))


def replace(path):
    other = path.with_name(".other")
    other.write_bytes(b"new" * 10)
    other.rename(path)


def grow(path):
    path.write_bytes(path.read_bytes() + b"more")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.attack("Changing files")
@pytest.mark.parametrize("change", [rewrite, touch, replace, grow, cut])
def test_a_listed_file_that_changed_is_not_read(tmp_path, change):
    path = tmp_path / "a.264"
    path.write_bytes(b"old" * 10)
    os.utime(path, ns=(10**18, 10**18))
    (listed,) = list_files(tmp_path)
    assert storage.read_listed(listed) == b"old" * 10
    change(path)
    with pytest.raises(UserError, match=r"a\.264 changed while the dataset was built\."):
        storage.read_listed(listed)
    (listed,) = list_files(tmp_path)
    assert storage.read_listed(listed) == path.read_bytes()


@pytest.mark.attack("Changing files")
def test_a_listed_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.264"
    path.write_bytes(b"old" * 10)
    os.utime(path, ns=(10**18, 10**18))
    (listed,) = list_files(tmp_path)

    def then_change(location):
        file = Path(location).open("rb")
        rewrite(path)
        return file

    monkeypatch.setattr("laser_dist.storage.listing.open_binary", then_change)
    with pytest.raises(UserError, match=r"a\.264 changed while"):
        storage.read_listed(listed)


def test_a_listed_file_that_was_removed_is_an_error(tmp_path):
    fill(tmp_path, "a.264")
    (listed,) = list_files(tmp_path)
    (tmp_path / "a.264").unlink()
    with pytest.raises(UserError, match=r"a\.264 was removed while the dataset was built\."):
        storage.read_listed(listed)


def test_a_written_file_is_complete_and_replaces_the_one_before(tmp_path):
    location = tmp_path / "new" / "deep" / "file"
    for content in (b"old and long", b"new"):
        storage.write_bytes(location, content)
        assert storage.read_bytes(location) == content
        assert storage.exists(location)
    assert [path.name for path in location.parent.iterdir()] == ["file"]


def test_until_all_is_written_the_old_file_stays(tmp_path, monkeypatch):
    location = tmp_path / "file"
    storage.write_bytes(location, b"old")

    def half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        assert storage.read_bytes(location) == b"old"
        assert [file.location for file in list_files(tmp_path)] == [str(location)]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(location, b"new content")
    assert storage.read_bytes(location) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_written_by_many_threads_holds_one_of_the_contents(tmp_path):
    location, contents = tmp_path / "file", [bytes([i]) * 200_000 for i in range(8)]
    threads = [threading.Thread(target=storage.write_bytes, args=(location, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read_bytes(location) in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_and_folders_are_removed_and_missing_ones_are_no_error(tmp_path):
    fill(tmp_path, "a/b/c", "d")
    for name in ("a", "d", "absent"):
        storage.remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.attack("Folders")
def test_of_a_link_only_the_link_is_removed(tmp_path):
    fill(tmp_path, "victim/a", "folder/b")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "folder" / "inner").symlink_to(tmp_path / "victim")
    for name in ("link", "folder"):
        storage.remove(tmp_path / name)
    assert names_below(tmp_path) == ["victim/a"]


@pytest.mark.attack("Folders")
def test_only_a_folder_without_other_files_is_marked(tmp_path):
    storage.mark_folder(tmp_path / "new")
    storage.mark_folder(tmp_path / "new")
    fill(tmp_path, "other/precious")
    with pytest.raises(UserError, match="other is in the way: it has files that laser-jnd did not"):
        storage.mark_folder(tmp_path / "other")
    assert names_below(tmp_path) == ["other/precious"]


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="absent"):
        storage.read_bytes(tmp_path / "absent")


def test_paths_and_urls_are_joined_with_slashes():
    assert join("a/", "b", "c") == join(Path("a"), "b", "c") == "a/b/c"
    assert join("gs://bucket/", "b") == "gs://bucket/b"
    assert join("/", "b") == "/b"
    assert join("gs://bucket") == "gs://bucket"
    assert join("s3://bucket/?scheme=http", "a", "b") == "s3://bucket/a/b?scheme=http"
    assert join("what?", "b") == "what?/b"
    for folder in ("s3://bucket/a?scheme=http", "/what?", "gs://bucket/a/b"):
        assert storage.split(join(folder, "name")) == (folder, "name")
    assert [storage.is_url(location) for location in ("gs://a/b", "/a/b", Path("a"))] == [1, 0, 0]


def test_an_atomic_path_keeps_the_suffix_and_names_the_file_in_errors(tmp_path):
    path = tmp_path / "new" / "model.keras"
    with storage.atomic_path(path) as unfinished:
        assert (unfinished.suffix, unfinished.parent) == (".keras", path.parent)
        assert unfinished.name.startswith(".")
        unfinished.write_text("content")
    assert path.read_text() == "content"
    with pytest.raises(OSError, match="No space") as caught, storage.atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert [each.name for each in path.parent.iterdir()] == ["model.keras"]
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "model.keras"
    with pytest.raises(NotADirectoryError), storage.atomic_path(below):
        pytest.fail("nothing can be written there")


def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        storage.write_text(tmp_path / "file", "é")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "file").read_bytes() == "é".encode()


def test_a_folder_lists_its_files_and_folders(tmp_path):
    fill(tmp_path, "b/deep/2", "a", ".hidden")
    assert storage.list_folder(tmp_path) == {".hidden": False, "a": False, "b": True}
    assert storage.list_folder(tmp_path / "none") == {}


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    storage.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    fill(tmp_path, "file")
    with pytest.raises(UserError, match=r"Cannot write to .*/file: (Not a directory|File exists)"):
        storage.check_writable(tmp_path / "file")
