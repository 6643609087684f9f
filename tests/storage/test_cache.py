"""The cache directory, as other users of the machine may have prepared it."""

import os

import pytest

from laser_dist.errors import UserError
from laser_dist.storage.cache import cache_folder, is_copy, record_copy

pytestmark = pytest.mark.attack("Cache directory")


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture
def victim(tmp_path):
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "a.txt").write_text("mine")
    return folder


def test_new_folders_are_the_users_only_whatever_the_umask(base):
    before = os.umask(0)
    try:
        folder = cache_folder("a", "b")
    finally:
        os.umask(before)
    assert folder == base / "laser-jnd" / "a" / "b"
    for path in (folder, folder.parent, folder.parent.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    assert cache_folder("a", "b") == folder
    # Backup programs look for this line: https://bford.info/cachedir/
    tag = (base / "laser-jnd" / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_without_the_variable_it_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "laser-jnd"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with pytest.raises(UserError, match="not an absolute path"):
        cache_folder()


@pytest.mark.parametrize("name", ["laser-jnd", "laser-jnd/a", "laser-jnd/a/b"])
def test_a_link_on_the_way_is_refused(base, victim, name):
    if name != "laser-jnd":
        cache_folder()
    (base / name).parent.mkdir(parents=True, exist_ok=True)
    (base / name).symlink_to(victim)
    with pytest.raises(UserError) as caught:
        cache_folder("a", "b")
    assert caught.value.message == f"Folder {base / name} cannot be used: it is a link."
    assert [path.name for path in victim.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["laser-jnd", "laser-jnd/a"])
def test_a_folder_of_another_user_is_refused(base, name):
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder of another user")
    cache_folder("a")
    os.chown(base / name, 65534, 65534)
    with pytest.raises(UserError, match=f"{name} cannot be used: it belongs to another user"):
        cache_folder("a")


@pytest.mark.parametrize(
    ("name", "mode"), [("", 0o777), ("laser-jnd", 0o770), ("laser-jnd", 0o755)]
)
def test_a_cache_that_others_can_enter_or_replace_is_refused(base, name, mode):
    cache_folder()
    (base / name).chmod(mode)
    with pytest.raises(UserError, match="laser-jnd is open to other users"):
        cache_folder()


def test_a_cache_in_a_shared_folder_like_tmp_is_accepted(base):
    base.mkdir()
    base.chmod(0o1777)
    assert cache_folder().is_dir()


def test_a_folder_of_another_program_is_refused(base):
    (base / "laser-jnd").mkdir(mode=0o700, parents=True)
    (base / "laser-jnd" / "notes").touch()
    with pytest.raises(UserError, match="has files of another program"):
        cache_folder()


def test_a_file_in_the_way_is_named(base):
    base.write_text("")
    with pytest.raises(UserError, match=f"Cannot create folder {base}: File exists"):
        cache_folder()


def test_a_copy_counts_only_unchanged_and_of_the_same_version(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"1234")
    assert not is_copy(path, "v1")
    record_copy(path, "v1")
    assert is_copy(path, "v1")
    assert not is_copy(path, "v2")
    times = path.stat()
    path.write_bytes(b"4321")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not is_copy(path, "v1")
    path.unlink()
    assert not is_copy(path, "v1")
