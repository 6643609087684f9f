"""What each command reports about bad input: one sentence, a hint, and nothing written."""

import errno
import json
import os
import re
import shlex
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from command_line import BUFFERED, LASER_JND, laser_jnd, refusal
from PIL import Image

from laser_dist.commands import main
from laser_dist.video.codec import encode_h264
from laser_dist.video.containers import MAX_FILE_BYTES
from laser_dist.video.frames import Clip

CONFIG = {"variant": "mj-lat", "training": {}, "dataset": {"simulated": True, "scale": "QP"}}
DATASET_INFO = {"name": "d", "configName": "c", "version": "1.0.0"}
METADATA = {"fingerprint": "f", "scale": "QP", "simulated": True, "splits": {}}
TRAIN = "train lat --preset tiny --output new --dataset"
LONG = "x" * 300
NO_MEDIA = "it is damaged, or not a video or image of a supported format."

# (command, part of the message, part of the hint)
CASES = [
    # Clips.
    ("predict none.mp4 --model run", "none.mp4 does not exist.", "Name a video or image file."),
    (
        "predict song.txt --model run",
        f"Cannot decode song.txt: {NO_MEDIA}",
        "Replace it with",
    ),
    *(
        (f"predict {name} --model run", f"Cannot decode {name}: {NO_MEDIA}", "Replace it with")
        for name in ("list.m3u8", "list.mp4", "concat.txt", "stream.sdp", "hello.txt", "hello.mp4")
    ),
    ("predict pipe --model run", "pipe is not a regular file.", "Name a video or image file."),
    ("predict photos --model run", "photos is a folder.", "Add --recursive."),
    ("predict large.mp4 --model run", "large.mp4 has 68,719,476,737 bytes; the limit is", ""),
    ("predict 'a\x1b[31m.mp4' --model run", r"No file matches a\x1b[31m.mp4.", ""),
    # Names that no file can have.
    *(
        (command.replace("LONG", LONG), ": File name too long.", "")
        for command in (
            "predict good.264 --model LONG",
            "evaluate --dataset data --model LONG",
            "evaluate --dataset LONG --model run",
            "train lat --preset tiny --output LONG --dataset data",
            "train lat --preset tiny --output new --dataset LONG",
            "train --resume LONG",
            "synthesize --output LONG",
            "synthesize --output new --photos LONG",
            "synthesize --output new --videos LONG",
        )
    ),
    (f"predict {LONG} --model run", f"Cannot open {LONG}: File name too long.", "Name a video"),
    (f"build videoset_jnd --manual-dir {LONG} --data-dir new", f"Folder {LONG} does not", ""),
    # Model files.
    ("predict good.264 --model nan.keras", "nan.keras predicts numbers that are not finite.", ""),
    (
        "predict good.264 --format json --model nan.keras",
        "nan.keras predicts numbers",
        "Train again",
    ),
    ("predict song.txt --format json --model run", "Cannot decode song.txt", "Replace it with"),
    ("predict run --recursive --model run", "Folder run has no video or image.", "another"),
    ("predict @none.txt --model run", "The list none.txt cannot be read.", "a path per line"),
    ("predict good.264 --resume --model run", "--resume needs --format ndjson and --output.", ""),
    ("predict dot.png --model run", "dot.png has 1x1 pixels; the minimum is 16x16.", "larger"),
    # Runs.
    ("predict good.264 --model none", "no run in none", "laser-jnd train"),
    ("predict good.264 --model unfinished", "unfinished has no finished model", "laser-jnd train"),
    (
        "evaluate --dataset data --model unfinished",
        "unfinished has no finished model",
        "laser-jnd train",
    ),
    ("predict good.264 --model run_bad_json", "run_bad_json/config.json", ""),
    ("predict good.264 --model run_bad_utf8", "run_bad_utf8/config.json", ""),
    ("predict good.264 --model run_bad_list", "run_bad_list/config.json", ""),
    ("predict good.264 --model run_incomplete", "run_incomplete/config.json", ""),
    ("evaluate --dataset data --model run_bad_json", "run_bad_json/config.json", ""),
    (
        "evaluate --dataset data --model nan.keras",
        "Several models, or a model file, have no folder for the results.",
        "Name one with --output.",
    ),
    (
        "train lat --preset tiny --dataset data --output run_bad_json",
        "run_bad_json/config.json",
        "",
    ),
    ("predict good.264 --model run_without_scale", "run_without_scale is missing", "Build"),
    ("predict good.264 --model run_crf", 'run_crf is "CRF"; it must be QP or QF.', "Build"),
    # Datasets.
    (f"{TRAIN} data_crf", 'data_crf is "CRF"; it must be QP or QF.', "Build"),
    (f"{TRAIN} none", "Dataset folder none does not exist.", "laser-jnd help build"),
    (f"{TRAIN} photos", "photos holds no prepared dataset.", "laser-jnd help build"),
    (
        f"{TRAIN} two",
        "two holds several datasets: videoset_jnd/360p/1.0.0, videoset_jnd/360p/1.1.0.",
        "Name one of them with --dataset.",
    ),
    # Settings and options of a training.
    (f"{TRAIN} data --set heads.epoch=3", "`heads.epoch`", 'Did you mean "heads.epochs"?'),
    (f"{TRAIN} data --set heads.epochs=many", "`heads.epochs` must be an integer", ""),
    ("train --resume none", "no run in none", ""),
    ("settings epochz", 'No setting has "epochz" in its path.', 'Did you mean "jnd.epochs"?'),
    # Synthetic datasets.
    ("synthesize --output new --photos photos", "photos", ""),
    ("synthesize --output new --photos none", "none", ""),
    ("synthesize --output taken", "taken", "--output"),
    ("synthesize --kind mcl-jci --output new --qps 30,40", "--qps", "Remove --qps"),
    ("synthesize --kind mcl-jci --output new --num-sources 100", "--num-sources", ""),
    # Builds.
    ("build videoset_jnd --manual-dir none --data-dir new", "none", ""),
    ("build videoset_jnd --manual-dir photos --data-dir new --config 36p", "36p", "360p"),
    ("build mcl_jci_jnd --manual-dir photos --data-dir new --all-frames", "videoset_jnd only", ""),
    # Weights.
    ("import-weights --variant mj-lat weights.h5 --output new.keras", "weights.h5", ""),
    ("import-weights --variant mj-lat weights.h5 --output new.h5", "new.h5", ".keras"),
    ("import-weights --variant mj-lat pipe --output new.keras", "pipe is not a regular file.", ""),
    ("import-weights --variant mj-lat photos --output new.keras", "photos is a folder.", ""),
]


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        content = json.dumps(content).encode()
    path.write_bytes(content)


def write_run(folder, config):
    """Write a run that looks finished: clips are checked before the model is loaded."""
    write(folder / "models" / "predictor.keras")
    write(folder / "config.json", config)


def write_nan_model(path):
    import keras

    from laser_dist.models.predictors import PredictorSpecLayer

    spec = {"variant": "mj-lat", "levels": (1, 2, 3), "scale": "QP", "simulated": True}
    x = frames = keras.Input((16, 16, 3))
    for layer in (
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, bias_initializer=keras.initializers.Constant(np.nan)),
        PredictorSpecLayer(spec),
    ):
        x = layer(x)
    keras.Model(frames, x).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with every kind of bad input."""
    folder = tmp_path_factory.mktemp("bad")
    frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    write(folder / "good.264", encode_h264(Clip.from_rgb(frames, Fraction(30)), qp=30))
    write(folder / "song.txt", b"la la la")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{folder / 'good.264'}\n"
    for name in ("list.m3u8", "list.mp4"):
        write(folder / name, f"{playlist}#EXT-X-ENDLIST\n".encode())
    write(folder / "concat.txt", b"ffconcat version 1.0\nfile good.264\n")
    write(folder / "stream.sdp", b"v=0\nc=IN IP4 127.0.0.1\nm=video 18998 RTP/AVP 33\n")
    for name in ("hello.txt", "hello.mp4"):
        write(folder / name, b"hello world" * 100)
    os.mkfifo(folder / "pipe")
    with (folder / "large.mp4").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse
    write_nan_model(folder / "nan.keras")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    write(folder / "photos" / "notes.txt", b"nothing to see")
    write(folder / "taken" / "thesis.tex", b"years of work")
    write_run(folder / "run", CONFIG)
    write_run(folder / "run_without_scale", {**CONFIG, "dataset": {"simulated": True}})
    write_run(folder / "run_crf", {**CONFIG, "dataset": {"simulated": True, "scale": "CRF"}})
    for name, content in (("json", b"{"), ("utf8", b"\xff"), ("list", b"[]")):
        write_run(folder / f"run_bad_{name}", content)
    write_run(folder / "run_incomplete", {"variant": "mj-lat"})
    write(folder / "unfinished" / "config.json", {})
    for name, metadata in (("data", METADATA), ("data_crf", {**METADATA, "scale": "CRF"})):
        write(folder / name / "dataset_info.json", DATASET_INFO)
        write(folder / name / "metadata.json", metadata)
    for version in ("1.0.0", "1.1.0"):
        write(folder / "two" / "videoset_jnd" / "360p" / version / "dataset_info.json")
    write(folder / "weights.h5", b"<html>404</html>")
    return folder


def contents(folder):
    return {path: path.is_file() and path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def run_here(folder, monkeypatch, capfd):
    """Return a function that runs a command in the folder and gives what it prints."""
    monkeypatch.chdir(folder)
    # These change the whole process, which is that of the tests.
    monkeypatch.setattr(main, "stop_descendants", lambda: None)
    monkeypatch.setattr(main.logs, "set_up", lambda **_: None)
    monkeypatch.setattr(main.logs, "prepare_environment", lambda **_: None)

    def run(command):
        try:
            status = main.run(shlex.split(command))
        except SystemExit as exited:
            status = exited.code
        return subprocess.CompletedProcess(command, status, *capfd.readouterr())

    return run


@pytest.mark.parametrize(("command", "message", "hint"), CASES)
def test_bad_input_is_reported_and_nothing_is_written(command, message, hint, folder, run_here):
    before = contents(folder)
    done = run_here(command)
    text = refusal(done)
    assert message in text
    assert hint in text
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("100", "good.264 has [0-9,]+ bytes; the limit is 100."),
        ("many", "LASER_JND_MAX_FILE_BYTES must be a positive integer, not many."),
    ],
)
def test_the_environment_sets_a_limit(value, message, folder):
    env = {**os.environ, "LASER_JND_MAX_FILE_BYTES": value}
    done = laser_jnd("predict", "good.264", "--model", "run", cwd=folder, env=env)
    assert re.match(message, refusal(done))


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


def mount(folder, options):
    """Mount a file system on a folder, or skip the test: only root may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a file system here: {error}")


@pytest.fixture
def read_only_disk(tmp_path):
    mount(tmp_path / "disk", "ro,size=64k")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.fixture
def full_disk(tmp_path):
    mount(tmp_path / "disk", "size=256k")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.slow
def test_a_read_only_disk(read_only_disk, tmp_path):
    done = laser_jnd("synthesize", "--output", read_only_disk / "out", cwd=tmp_path)
    text = refusal(done)
    assert os.strerror(errno.EROFS) in text
    assert str(read_only_disk) in text


@pytest.mark.beam
@pytest.mark.slow
def test_a_disk_that_becomes_full_holds_nothing_that_looks_complete(full_disk, tmp_path):
    arguments = ("--num-sources", "3", "--qps", "16,30", "--workers", "1")
    done = laser_jnd("synthesize", "--output", full_disk / "out", *arguments, cwd=tmp_path)
    assert os.strerror(errno.ENOSPC) in refusal(done)
    assert list(full_disk.iterdir()) == []
