"""Temporary folders, also of processes that were killed and of other users."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from laser_dist.errors import UserError
from laser_dist.storage.temporary import LOCK, output_path, temporary_folder

HOLDING = """
import sys, time
from pathlib import Path
from laser_dist.storage.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_the_users_only_and_gone_after_the_block(tmp_path):
    before = os.umask(0)
    try:
        with temporary_folder(tmp_path) as folder:
            assert folder.parent == tmp_path
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "file").touch()
    finally:
        os.umask(before)
    with pytest.raises(KeyError), temporary_folder(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_complete_or_absent_and_what_a_killed_process_left_of_it_is_removed(tmp_path):
    path = tmp_path / "new" / "film.mp4"
    code = """
import sys, time
from pathlib import Path
from laser_dist.storage.temporary import output_path
with output_path(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    assert not path.exists()
    (left,) = path.parent.iterdir()
    assert (left / LOCK).exists()
    with output_path(path) as unfinished:
        assert not left.exists()
        unfinished.write_text("whole")
    assert path.read_text() == "whole"

    @output_path(path)
    def fill_disk():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        fill_disk()
    assert caught.value.filename == str(path)
    assert [each.name for each in path.parent.iterdir()] == ["film.mp4"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("make", [temporary_folder, lambda folder: output_path(folder / "new")])
def test_a_folder_that_cannot_be_used_is_reported(tmp_path, make):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot create a temporary folder in .*: Not a directory"):
        make(tmp_path / "file").__enter__()


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_running_one_stays(tmp_path):
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running,
    ):
        try:
            (left, kept) = (each.stdout.readline().strip() for each in (killed, running))
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            assert os.path.exists(f"{left}/deep/file")
            with temporary_folder(tmp_path):
                assert not os.path.exists(left)
                assert os.path.exists(f"{kept}/deep/file")
        finally:
            running.kill()


def test_folders_of_others_and_unmarked_ones_are_left_alone(tmp_path):
    victim = tmp_path / "victim"
    for folder in (victim, tmp_path / "laser-jnd-open", tmp_path / "laser-jnd-unmarked"):
        folder.mkdir(mode=0o700)
        (folder / "file").touch()
        if folder.name != "laser-jnd-unmarked":
            (folder / LOCK).touch()
    (tmp_path / "laser-jnd-open").chmod(0o770)
    (tmp_path / "laser-jnd-link").symlink_to(victim)
    if os.geteuid() == 0:
        (tmp_path / "laser-jnd-foreign").mkdir(mode=0o700)
        (tmp_path / "laser-jnd-foreign" / LOCK).touch()
        os.chown(tmp_path / "laser-jnd-foreign", 65534, 65534)
    before = sorted(tmp_path.rglob("*"))
    with temporary_folder(tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == before
