import errno
import json
import os
import re
import subprocess
from fractions import Fraction

import command_line
import numpy as np
import pytest
from command_line import BUFFERED, LASER_JND, laser_jnd_here
from PIL import Image

from laser_dist.video.codec import encode_h264
from laser_dist.video.frames import Clip


@pytest.fixture
def run_dir(tmp_path):
    """Looks finished; what is wrong with a clip is said before the model is loaded."""
    folder = tmp_path / "run"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "predictor.keras").touch()
    config = {"variant": "mj-lat", "training": {}, "dataset": {"simulated": True, "scale": "QP"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(*arguments, cwd):
    return command_line.refusal(laser_jnd_here(*arguments, cwd=cwd))


def write_dataset_card(folder):
    """What a prepared dataset says of itself, without its examples."""
    folder.mkdir()
    info = {"name": "d", "configName": "c", "version": "1.0.0"}
    about = {"fingerprint": "f", "scale": "QP", "simulated": True, "splits": {}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "metadata.json").write_text(json.dumps(about))


def clip_file(path, size=64):
    frames = np.random.default_rng(0).integers(0, 255, (4, size, size, 3), dtype=np.uint8)
    path.write_bytes(encode_h264(Clip.from_rgb(frames, Fraction(30)), qp=30))
    return path


def test_no_such_clip(run_dir, tmp_path):
    line = refusal("predict", "none.mp4", "--model", run_dir, cwd=tmp_path)
    assert line == (
        "read none.mp4: expected a video or image file, got no such file. Check the path."
    )


def test_not_a_video(run_dir, tmp_path):
    (tmp_path / "song.txt").write_text("la la la")
    line = refusal("predict", "song.txt", "--model", run_dir, cwd=tmp_path)
    assert line.startswith("decode song.txt: expected a video ")


def test_the_second_of_two_clips_is_bad_and_nothing_is_printed_of_the_first(run_dir, tmp_path):
    clip_file(tmp_path / "whole.264")
    (tmp_path / "song.txt").write_text("la la la")
    line = refusal("predict", "whole.264", "song.txt", "--json", "--model", run_dir, cwd=tmp_path)
    assert line.startswith("decode song.txt: ")


def test_an_image_of_one_pixel(run_dir, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    line = refusal("predict", "dot.png", "--model", run_dir, cwd=tmp_path)
    assert re.search(r"dot\.png.*: expected at least 16x16 pixels, got 1x1\. ", line)


def test_no_run(tmp_path):
    line = refusal("predict", "a.mp4", "--model", "none", cwd=tmp_path)
    assert line == (
        "Run none: expected a finished training, got no such folder. "
        "Train one with: laser-jnd train mj-lat --preset tiny --dataset FOLDER"
    )


@pytest.mark.parametrize("command", [("predict", "a.mp4"), ("evaluate", "--dataset", "data")])
def test_a_run_without_a_finished_model(command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    line = refusal(*command, "--model", "run", cwd=tmp_path)
    assert "got no models/predictor.keras. Train one with: " in line
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json"]


@pytest.mark.parametrize("command", [("predict", "a.mp4"), ("evaluate", "--dataset", "data")])
@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"{", "JSONDecodeError: Expecting property name"),
        (b"\xff", "UnicodeDecodeError: "),
        (b"[]", "ValueError: no object with dataset, training, variant. "),
        (b'{"variant": "mj-lat"}', "ValueError: no object with dataset, training, variant. "),
    ],
)
def test_a_run_whose_settings_cannot_be_read(command, content, got, run_dir, tmp_path):
    path = run_dir / "config.json"
    path.write_bytes(content)
    line = refusal(*command, "--model", run_dir, cwd=tmp_path)
    assert line.startswith(
        f"Settings of a run {path}: expected the JSON that training wrote, got {got}"
    )
    assert path.read_bytes() == content


def test_a_run_whose_settings_cannot_be_read_is_not_gone_on_with(tmp_path):
    write_dataset_card(tmp_path / "data")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    options = ("--preset", "tiny", "--dataset", "data", "--output", "run")
    line = refusal("train", "mj-lat", *options, cwd=tmp_path)
    assert line.startswith("Settings of a run run/config.json: expected the JSON that training ")
    assert (tmp_path / "run" / "config.json").read_text() == "{"


@pytest.mark.parametrize(("scale", "got"), [({}, "none"), ({"scale": "CRF"}, "CRF")])
def test_a_run_of_an_unknown_scale(scale, got, run_dir, tmp_path):
    config = {"variant": "mj-lat", "training": {}, "dataset": {"simulated": True, **scale}}
    (run_dir / "config.json").write_text(json.dumps(config))
    line = refusal("predict", "a.mp4", "--model", run_dir, cwd=tmp_path)
    assert line.startswith(f"Scale of run {run_dir}: expected one of QP, QF, got {got}. Build ")


def test_a_dataset_of_an_unknown_scale_is_not_trained_on(tmp_path):
    files = {
        "data/dataset_info.json": {"name": "d", "configName": "c", "version": "1.0.0"},
        "data/metadata.json": {
            "fingerprint": "f", "scale": "CRF", "simulated": True, "splits": {},
        },
    }  # fmt: skip
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    line = refusal(
        "train", "mj-lat", "--preset", "tiny", "--dataset", "data", "--output", "run", cwd=tmp_path
    )
    assert line.startswith("Scale of dataset data: expected one of QP, QF, got CRF. ")
    assert not (tmp_path / "run").exists()


def test_no_dataset(tmp_path):
    line = refusal("train", "mj-lat", "--preset", "tiny", "--dataset", "none", cwd=tmp_path)
    assert line.startswith("Dataset none: expected a prepared dataset, got no such folder. Build ")
    assert list(tmp_path.iterdir()) == []


def test_two_datasets(tmp_path):
    for version in ("1.0.0", "1.1.0"):
        folder = tmp_path / "data" / "videoset_jnd" / "360p" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
    line = refusal("train", "mj-lat", "--preset", "tiny", "--dataset", "data", cwd=tmp_path)
    assert "got videoset_jnd/360p/1.0.0, videoset_jnd/360p/1.1.0. Name one of them." in line


def test_an_unknown_setting_suggests_the_nearest(tmp_path):
    settings = ("--set", "heads.epoch=3")
    line = refusal(
        "train", "mj-lat", "--preset", "tiny", "--dataset", "none", *settings, cwd=tmp_path
    )
    assert line.startswith("There is no setting `heads.epoch`.")
    assert 'Did you mean "heads.epochs"?' in line


def test_a_folder_without_photographs(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "notes.txt").write_text("nothing to see")
    line = refusal("synthesize", "--output", "out", "--photos", "photos", cwd=tmp_path)
    assert line.startswith("Folder of photographs photos: expected at least one photograph of ")
    assert "1 other file" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ("--qps", "30,40"),
            "--qps does not apply to --kind mcl-jci, which encodes images at every quality factor. "
            "Remove --qps.",
        ),
        (
            ("--num-sources", "100"),
            "--num-sources 100 is too large: --kind mcl-jci has names for 99 sources.",
        ),
    ],
)
def test_options_that_do_not_apply_to_the_kind(options, text, tmp_path):
    assert refusal("synthesize", "--kind", "mcl-jci", *options, cwd=tmp_path) == text
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_something_else(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    line = refusal("synthesize", "--output", "out", cwd=tmp_path)
    assert line == (
        "out holds files that do not belong to a synthetic dataset. "
        "Name a new folder with --output."
    )
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_nothing_to_build_from(tmp_path):
    arguments = ("--manual-dir", "none", "--data-dir", "data")
    line = refusal("build", "videoset_jnd", *arguments, cwd=tmp_path)
    assert line.startswith("Folder none: expected a folder, got none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_a_full_disk_on_standard_output(arguments):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*LASER_JND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED
        )
    assert result.returncode == 2
    assert result.stderr == (
        "error: Cannot write: No space left on device.\n"
        "hint: Free some space, or use another location.\n"
    )


def mounted(folder, options):
    """Mounts a file system of its own on a folder, or skips: only root may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a file system here: {error}")


@pytest.fixture
def read_only_disk(tmp_path):
    mounted(tmp_path / "disk", "ro,size=64k")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.fixture
def full_disk(tmp_path):
    mounted(tmp_path / "disk", "size=256k")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_read_only_disk(read_only_disk, tmp_path):
    line = refusal("synthesize", "--output", read_only_disk / "out", cwd=tmp_path)
    assert os.strerror(errno.EROFS) in line
    assert str(read_only_disk) in line


@pytest.mark.beam
@pytest.mark.slow
def test_a_disk_that_becomes_full_leaves_nothing_that_looks_whole(full_disk, tmp_path):
    arguments = ("--num-sources", "3", "--qps", "16,30", "--workers", "1")
    line = refusal("synthesize", "--output", full_disk / "out", *arguments, cwd=tmp_path)
    assert os.strerror(errno.ENOSPC) in line
    assert list(full_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mj-lat", "--preset", "tiny"], "Command train: expected --dataset, got none"),
        (["--preset", "tiny", "--dataset", "data"], "Command train: expected VARIANT, got none"),
        (
            ["mj-lat", "--level", "2", "--preset", "tiny", "--dataset", "data"],
            "Option --level: expected a single-level variant, got mj-lat",
        ),
        (["--resume", "none"], "Run none: expected one that was started, got none"),
        (
            ["lat", "--resume", "run", "--seed", "3"],
            "Option --resume: expected no settings beside it, got variant, seed",
        ),
    ],
)
def test_what_train_cannot_do_together(arguments, message, tmp_path):
    line = refusal("train", *arguments, cwd=tmp_path)
    assert line.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_stage_and_nothing_to_take_over(tmp_path):
    write_dataset_card(tmp_path / "data")
    where = ("--preset", "tiny", "--dataset", "data", "--output", "run")
    line = refusal("train", "lat", *where, "--stages-only", "image,jnd4", cwd=tmp_path)
    assert line == (
        "Option --stages-only: expected some of image, jnd1, jnd2, jnd3, lat-jnd1, lat-jnd2, "
        "lat-jnd3, got jnd4. Correct the name."
    )
    line = refusal("train", "lat", *where, "--from", "nothing", cwd=tmp_path)
    assert line.startswith("Models of nothing: expected one of image.keras, jnd1.keras, ")
