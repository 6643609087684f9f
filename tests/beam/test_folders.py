import pytest

from beam_pipelines.folders import complete_folder, unfinished_folder
from laser_dist.errors import UserError


def test_the_folder_appears_with_the_end_of_the_work(tmp_path):
    folder = tmp_path / "deep" / "made"
    with complete_folder(folder, marker="MARK") as work:
        (work / "MARK").write_text("1")
        assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["made"]
    assert (folder / "MARK").read_text() == "1"


def interrupted_work(folder):
    with complete_folder(folder, marker="M") as work:
        (work / "M").touch()
        raise KeyboardInterrupt


def test_failed_work_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted_work(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_kind_is_replaced_and_kept_when_the_work_fails(tmp_path):
    folder = tmp_path / "made"
    for content in ("old", "new"):
        with complete_folder(folder, marker="M") as work:
            (work / "M").write_text(content)
    assert (folder / "M").read_text() == "new"
    with pytest.raises(RuntimeError), complete_folder(folder, marker="M"):
        raise RuntimeError
    assert (folder / "M").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_run_left_is_swept_away(tmp_path):
    left = unfinished_folder(tmp_path / "made")
    left.mkdir()
    (left / "half").touch()
    with complete_folder(tmp_path / "made", marker="M") as work:
        assert list(work.iterdir()) == []


def test_nobody_elses_files_are_removed(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with (
        pytest.raises(UserError, match="a new or empty folder, or one with M in it, got other"),
        complete_folder(tmp_path, marker="M"),
    ):
        pytest.fail("the work must not begin")
    assert (tmp_path / "holiday.mp4").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "made"):
        with (
            pytest.raises(
                UserError, match="a place that can be written, got (Not a dir|File exists)"
            ),
            complete_folder(folder, marker="M"),
        ):
            pytest.fail("the work must not begin")
