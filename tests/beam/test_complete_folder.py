import pytest

from beam_pipelines.synthetic.pipeline import complete_folder
from laser_dist.errors import UserError
from laser_dist.simulation import MARKER_NAME
from laser_dist.storage import MARK

pytestmark = pytest.mark.slow


def test_the_folder_appears_when_the_work_has_ended(tmp_path):
    folder = tmp_path / "deep" / "made"
    with complete_folder(folder) as work:
        (work / MARKER_NAME).write_text("1")
        assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["made"]
    assert (folder / MARKER_NAME).read_text() == "1"


def interrupted_work(folder):
    with complete_folder(folder) as work:
        (work / MARKER_NAME).touch()
        raise KeyboardInterrupt


def test_failed_work_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted_work(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_a_synthetic_dataset_is_replaced_unless_the_work_fails(tmp_path):
    folder = tmp_path / "made"
    for content in ("old", "new"):
        with complete_folder(folder) as work:
            (work / MARKER_NAME).write_text(content)
    assert (folder / MARKER_NAME).read_text() == "new"
    with pytest.raises(RuntimeError), complete_folder(folder):
        raise RuntimeError
    assert (folder / MARKER_NAME).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_remains_of_a_killed_run_are_removed(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)  # as if there were no time left
        with pytest.raises(KeyboardInterrupt):
            interrupted_work(tmp_path / "made")
    left = tmp_path / ".made.unfinished"
    assert (left / MARKER_NAME).exists()
    with complete_folder(tmp_path / "made") as work:
        assert work == left
        assert [path.name for path in work.iterdir()] == [MARK]


@pytest.mark.parametrize("name", [".made.unfinished", ".made.replaced"])
def test_folders_in_the_way_that_others_made_are_left_alone(tmp_path, name):
    folder, victim = tmp_path / "made", tmp_path / "victim"
    with complete_folder(folder) as work:
        (work / MARKER_NAME).write_text("old")
    for made in (tmp_path / name, victim):
        made.mkdir()
        (made / "precious").touch()
    for link in (False, True):
        if link:
            (tmp_path / name / "precious").unlink()
            (tmp_path / name).rmdir()
            (tmp_path / name).symlink_to(victim)
        with (
            pytest.raises(UserError, match=f"{name} is in the way"),
            complete_folder(folder) as work,
        ):
            (work / MARKER_NAME).write_text("new")
        assert (tmp_path / name / "precious").exists()
        assert (folder / MARKER_NAME).read_text() == "old"
    assert (victim / "precious").exists()


def test_other_files_are_never_removed(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with (
        pytest.raises(UserError, match="do not belong to a synthetic dataset"),
        complete_folder(tmp_path),
    ):
        pytest.fail("the work must not start")
    assert (tmp_path / "holiday.mp4").exists()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "made"):
        with (
            pytest.raises(UserError, match="cannot be written: (Not a dir|File exists)"),
            complete_folder(folder),
        ):
            pytest.fail("the work must not start")


def test_of_a_link_to_a_dataset_only_the_link_is_replaced(tmp_path):
    with complete_folder(tmp_path / "disk" / "old") as work:
        (work / MARKER_NAME).write_text("old")
    (tmp_path / "made").symlink_to(tmp_path / "disk" / "old")
    for _ in range(2):
        with complete_folder(tmp_path / "made") as work:
            (work / MARKER_NAME).write_text("new")
    assert (tmp_path / "made" / MARKER_NAME).read_text() == "new"
    assert (tmp_path / "disk" / "old" / MARKER_NAME).read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "made"]
