"""`laser-jnd build` on a small synthetic dataset, as a user runs it."""

import json
import random
import re
import shutil
import tarfile
import tempfile
import zipfile

import pyarrow.parquet as pq
import pytest
from command_line import laser_jnd_here, refusal
from video_clips import picture_bits

from beam_pipelines.runner import local_options
from beam_pipelines.synthetic.footage import shipped_photographs
from beam_pipelines.synthetic.pipeline import synthesize
from beam_pipelines.synthetic.videoset import VideosetSettings
from laser_dist.commands import build as command
from laser_dist.jnd.videoset_labels import read_videoset_labels
from laser_dist.simulation import MARKER_NAME

pytestmark = [
    pytest.mark.beam,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
]
SETTINGS = VideosetSettings(num_sources=6, num_frames=2, qps=(22, 34))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "mini"
    synthesize(shipped_photographs()[:3], SETTINGS, folder, local_options(1))
    return folder


@pytest.fixture(scope="module")
def built(synthetic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    done = build(synthetic, folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def build(manual_dir, data_dir, *options, dataset="videoset_jnd"):
    where = ("--manual-dir", manual_dir, "--data-dir", data_dir, "--workers", 1)
    return laser_jnd_here("build", dataset, *where, *options)


def pairs(text):
    """Return the name and value in each line of a summary."""
    return dict(re.findall(r"^  (\S+)  +(.*)$", text, re.MULTILINE))


def test_a_dry_run_prints_the_plan_and_builds_nothing(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "mini")
    (lost,) = (tmp_path / "mini").glob("videoSRC003_*/*_qp_00.264")
    (missing,) = (tmp_path / "mini").glob("videoSRC001_*/*_qp_22.264")
    lost.unlink()
    missing.unlink()
    done = build(tmp_path / "mini", tmp_path / "data", "--dry-run")
    assert done.returncode == 0, done.stderr
    shown = pairs(done.stdout)
    assert not (tmp_path / "data").exists()
    labels = read_videoset_labels(synthetic, "256x144").sources
    wanted = {
        (source.source_id, qp)
        for source in labels
        if source.source_id != "videoSRC003"
        for qp in (22, 34, *(int(level.jnd) for level in source.levels))
        if (source.source_id, qp) != ("videoSRC001", 22)
    }
    there = {(id_, qp) for id_, qp in wanted if qp in SETTINGS.qps}
    assert shown["sources"] == "5 sources, 1 more are lost"
    assert shown["clips"].startswith(f"{len(there) + 5} encoded files")
    assert shown["measure"] == f"{len(wanted)} clips"
    assert shown["encode"].startswith(f"{len(wanted - there)} clips")
    assert shown["rejects"] == "2"
    assert "source videoSRC003 (find): no reference" in done.stdout
    assert f"clip {missing.name} (find): missing" in done.stdout
    assert re.fullmatch(r"[\d.e-]+ vCPU-hours at that rate", shown["work"])


def test_the_summary_describes_the_dataset(built):
    shown = pairs(built[1])
    splits = [shown[split] for split in ("train", "validation", "test")]
    # Three groups of two sources, one for each split; 15 frames per second of 2 frames are one.
    assert splits == ["2 frames of 256x144, from 2 sources, in 1 file"] * 3
    assert shown["levels"] == "QP: column jnd of the label tables, about the 25th percentile"
    assert (shown["rejects"], shown["repairs"], shown["viewers"]) == ("none", "none", "SIMULATED")


def test_the_same_dataset_is_reused_and_another_replaced_on_request(built, synthetic, tmp_path):
    folder, _ = built
    again = build(synthetic, folder)
    assert "Reused " in again.stderr
    assert "changed" not in again.stderr
    shutil.copytree(synthetic, tmp_path / "mini")
    path = next((tmp_path / "mini").glob("videoSRC001_*/*_qp_22.264"))
    path.touch()
    changed = build(tmp_path / "mini", folder)
    assert "Reused " in changed.stderr
    assert f"1 file changed after the dataset was built, the first is {path}." in changed.stderr
    path.write_bytes(path.read_bytes() + bytes(8))
    line = refusal(build(tmp_path / "mini", folder))
    assert "was built from other clips, labels or settings" in line
    assert "--overwrite" in line
    replaced = build(tmp_path / "mini", folder, "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert "Reused" not in replaced.stderr


def test_other_settings_give_another_dataset_name(synthetic, tmp_path):
    options = ("--all-frames", "--frame-size", "64x48", "--level-definition", "mean")
    options += ("--split-by", "source")
    done = build(synthetic, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    shown = pairs(done.stdout)
    assert "synthetic-all-frames-64x48-mean-by-source" in shown["folder"]
    assert shown["levels"] == "QP: mean of the viewers' samples"
    assert list(tmp_path.rglob("*-train.tfrecord*"))


def test_a_named_part_is_planned_and_built_without_the_rest(synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "mini")
    (lost,) = (tmp_path / "mini").glob("videoSRC003_*/*_qp_00.264")
    lost.unlink()
    refused = refusal(build(tmp_path / "mini", tmp_path / "data"))
    assert "1 of 6 sources have rejected inputs" in refused
    part = ("--sources", "videoSRC00[124]", "--sources", "videoSRC00[5-6]")
    planned = build(tmp_path / "mini", tmp_path / "data", *part, "--dry-run")
    assert pairs(planned.stdout)["sources"] == "5 sources, 0 more are lost"
    done = build(tmp_path / "mini", tmp_path / "data", *part)
    assert done.returncode == 0, done.stderr
    assert pairs(done.stdout)["part"] == "videoSRC00[124], videoSRC00[5-6]"
    assert "Reused" in build(tmp_path / "mini", tmp_path / "data", *part).stderr
    other = build(tmp_path / "mini", tmp_path / "data", "--sources", "videoSRC00[12456]")
    assert "Reused" in other.stderr  # the same sources by another name


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--nonsense", "3"), "Neither laser-jnd build nor Apache Beam accepts: --nonsense"),
        (("--config", "1020p"), "videoset_jnd has no configuration 1020p, only synthetic, 360p"),
        (("--frame-size", "8x8"), "--frame-size must be at least 16x16."),
        (("--sources", "videoSRC9*"), "No source matches videoSRC9*."),
        (("--finish", "2026-01-01_job"), "--finish needs --runner DataflowRunner."),
        (("--runner", "DataflowRunner"), "--workers cannot be used with --runner DataflowRunner;"),
    ],
)
def test_invalid_options_are_rejected_before_anything_is_written(
    options, text, synthetic, tmp_path
):
    assert refusal(build(synthetic, tmp_path / "data", *options)).startswith(text)
    assert not (tmp_path / "data").exists()


def test_options_of_clips_are_rejected_for_images(synthetic, tmp_path):
    done = build(synthetic, tmp_path / "data", "--all-frames", dataset="mcl_jci_jnd")
    assert "--all-frames can be used with videoset_jnd only" in refusal(done)


def zipped(folder, path, *, instead=None, also=()):
    """Pack a folder.

    Args:
      folder: the folder.
      path: of the ZIP file.
      instead: name to content of files that are replaced.
      also: (name, content) of further members.
    """
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            name = file.relative_to(folder).as_posix()
            archive.writestr(name, (instead or {}).get(name, file.read_bytes()))
        for name, content in also:
            archive.writestr(name, content)


@pytest.mark.attack("Archives")
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_one_name_the_first_is_built(synthetic, tmp_path):
    (clip,) = synthetic.glob("videoSRC001_*/*_qp_22.264")
    (other,) = synthetic.glob("videoSRC002_*/*_qp_34.264")
    name = clip.relative_to(synthetic).as_posix()
    zipped(synthetic, tmp_path / "in" / "a.zip", also=[(name, other.read_bytes())])
    done = build(tmp_path / "in", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    (table,) = (tmp_path / "data").rglob("quality/videoSRC001.parquet")
    (row,) = [row for row in pq.read_table(table).to_pylist() if row["qp"] == 22]
    assert row["num_bits"] == picture_bits(clip.read_bytes())
    assert row["psnr_y_db"] > 35  # against another source it would be below 20
    assert pairs(done.stdout)["rejects"].startswith("1")


@pytest.mark.attack("Changing files")
@pytest.mark.parametrize("form", ["264", "zip", "tar.gz"])
def test_a_file_replaced_during_a_build_fails_the_build(synthetic, tmp_path, monkeypatch, form):
    folder = tmp_path / "in"
    if form == "264":
        shutil.copytree(synthetic, folder)
        (changed,) = folder.glob("videoSRC001_*/*_qp_22.264")
        (other,) = folder.glob("videoSRC002_*/*_qp_34.264")
        later = other.read_bytes()
    else:
        changed = folder / f"a.{form}"
        zipped(synthetic, folder / "a.zip")
        zipped(synthetic, tmp_path / "other" / "a.zip", also=[("more", b"")])
        later = (tmp_path / "other" / "a.zip").read_bytes()
        if form == "tar.gz":
            (folder / "a.zip").unlink()
            with tarfile.open(changed, "w:gz") as archive:
                archive.add(synthetic, "mini")
            later = changed.read_bytes()[:-8] + bytes(8)
    resolve = command.resolve

    def then_replace(*arguments, **options):
        resolved = resolve(*arguments, **options)
        changed.write_bytes(later)
        return resolved

    monkeypatch.setattr(command, "resolve", then_replace)
    line = refusal(build(folder, tmp_path / "data"))
    assert line == (
        f"{changed} changed while the dataset was built. Run the command again when no other "
        "program writes to it."
    )
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


@pytest.mark.attack("Labels")
def test_a_label_table_above_its_limit_is_named(synthetic, tmp_path):
    large = random.Random(0).randbytes(16_000_001)
    zipped(synthetic, tmp_path / "in" / "a.zip", instead={"256x144_1st.csv": large})
    line = refusal(build(tmp_path / "in", tmp_path / "data", "--dry-run"))
    assert line.startswith(
        f"Label file {tmp_path}/in/a.zip:256x144_1st.csv has 16,000,001 bytes; the limit is "
        "16,000,000. "
    )


@pytest.mark.attack("Labels")
def test_a_marker_that_is_not_read_stops_the_build(synthetic, tmp_path):
    marker = json.loads((synthetic / MARKER_NAME).read_bytes()) | {"more": " " * 20_000_000}
    zipped(synthetic, tmp_path / "in" / "a.zip", instead={MARKER_NAME: json.dumps(marker)})
    line = refusal(build(tmp_path / "in", tmp_path / "data", "--config", "synthetic"))
    assert line == (
        f"{tmp_path}/in/a.zip:{MARKER_NAME} cannot be read: it unpacks to more than 100 times its "
        "size."
    )


@pytest.mark.attack("Archives")
def test_a_truncated_zip_is_named(synthetic, tmp_path):
    path = tmp_path / "in" / "a.zip"
    zipped(synthetic, path)
    path.write_bytes(path.read_bytes()[:-100])
    line = refusal(build(tmp_path / "in", tmp_path / "data", "--config", "synthetic"))
    assert f"{path} was not used: damaged, truncated or too large (File is not a zip file)" in line


def test_a_build_leaves_no_temporary_folder(synthetic, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    done = build(synthetic, tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []
