"""`laser-jnd plan` on the command line, with a model whose levels are the mean color."""

import json

import av
import numpy as np
import pytest
from command_line import laser_jnd_here, refusal
from onnx_graphs import write_light_inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model and a clip of 1.2 s of dark and 1.6 s of bright gray."""
    folder = tmp_path_factory.mktemp("plan")
    write_light_inputs(folder)
    write(folder / "cut.mp4", 32)
    write(folder / "noisy.mp4", 96, noise=6)
    return folder


def write(path, height, noise=0):
    rng = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 2 * height, height, "yuv420p"
        for gray in [10] * 30 + [48] * 40:
            pixels = gray + rng.integers(-noise, noise + 1, (height, 2 * height, 1))
            rgb = np.repeat(pixels, 3, axis=2).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        container.mux(stream.encode())


def plan(folder, form, *words, clip="cut.mp4"):
    return laser_jnd_here("plan", clip, "--model", "m.onnx", "--for", form, *words, cwd=folder)


def zones_of(done):
    """Return (start, end, QP) of each zone of Av1an."""
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(int(start), int(end), int(words[1])) for start, end, _, *words in lines]


def test_scenes_get_their_own_qps(folder):
    done = plan(folder, "av1an", "--margin", "0")
    (first, second) = zones_of(done)
    assert (first[:2], second[:2]) == ((0, 30), (30, 70))
    assert first[2] == pytest.approx(10, abs=1)
    assert second[2] == pytest.approx(48, abs=1)
    assert "SIMULATED" in done.stderr


def test_a_margin_is_subtracted_and_a_constant_qp_is_the_strictest(folder):
    without, with_margin, constant = (
        [qp for *_, qp in zones_of(plan(folder, "av1an", *words))]
        for words in (("--margin", "0"), ("--margin", "4"), ("--margin", "4", "--constant"))
    )
    assert with_margin == [qp - 4 for qp in without]
    assert constant == [with_margin[0]] * 2


def test_files_are_written_once(folder):
    words = ("--qpfile", "new/cut.qp", "--output", "new/options.txt")
    done = plan(folder, "x264", *words)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    options = (folder / "new" / "options.txt").read_text()
    assert options.endswith(" --qpfile new/cut.qp\n")
    keys = [line.split()[:2] for line in (folder / "new" / "cut.qp").read_text().splitlines()]
    assert keys == [["0", "K"], ["30", "K"]]
    assert "new/options.txt exists already. Add --overwrite" in refusal(
        plan(folder, "x265", *words)
    )
    assert (folder / "new" / "options.txt").read_text() == options
    assert plan(folder, "x265", *words, "--overwrite").returncode == 0
    assert (folder / "new" / "options.txt").read_text() != options


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "name", "preset"), [("x265", "x265", "ultrafast"), ("svtav1", "svt-av1", "12")]
)
def test_another_encoder_has_the_crfs_with_which_encode_matches_it(folder, codec, name, preset):
    words = ("--codec", codec, "--preset", preset)
    done = plan(folder, "av1an", *words, "--margin", "2", clip="noisy.mp4")
    assert done.returncode == 0, done.stderr
    zones = [line.split() for line in done.stdout.splitlines()]
    assert [zone[:5] for zone in zones] == [
        ["0", "30", name, "--preset", preset], ["30", "70", name, "--preset", preset],
    ]  # fmt: skip
    output = ("--output", f"{codec}.mkv", "--margin", "2", "--no-verify", "--format", "json")
    encoded = laser_jnd_here(
        "encode", "noisy.mp4", "--model", "m.onnx", *words, *output, cwd=folder
    )
    scenes = json.loads(encoded.stdout)["scenes"]
    assert [float(zone[-1]) for zone in zones] == [scene["quantizer"] for scene in scenes]
    bracket = plan(folder, "ab-av1", *words, clip="noisy.mp4").stdout.split()
    low, high = (float(bracket[bracket.index(each) + 1]) for each in ("--min-crf", "--max-crf"))
    assert low <= scenes[0]["quantizer"] <= high


@pytest.mark.parametrize(
    ("form", "words", "message"),
    [
        ("x264", (), "--for x264 needs --qpfile"),
        ("libx264", ("--qpfile", "a.qp"), "--for libx264 has no use for --qpfile"),
        ("x265", ("--qpfile", "a b.qp"), "has a space"),
        ("x265", ("--qpfile", "a.qp", "--output", "a.qp"), "are the same file"),
        ("ab-av1", ("--margin", "1"), "has no use for --margin"),
        ("libx265", ("--codec", "x265"), "--for libx265 has no use for --codec and --preset"),
        ("x264", ("--preset", "slow"), "--for x264 has no use for --codec and --preset"),
        ("av1an", ("--codec", "svtav1", "--preset", "slow"), "svtav1 has no preset slow"),
        ("av1an", ("--codec", "svtav1"), "64x32"),
        ("av1an", ("--sur", "0.9"), "only supports --sur 0.75"),
    ],
)
def test_what_does_not_fit_is_refused(folder, form, words, message):
    before = sorted(folder.iterdir())
    assert message in refusal(plan(folder, form, *words))
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("margin", ["nan", "-1", "inf", "two"])
def test_a_margin_is_a_number_of_at_least_0(folder, margin):
    done = plan(folder, "av1an", f"--margin={margin}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'{margin}' is not a number of at least 0" in done.stderr


def test_a_file_that_is_no_video_leaves_nothing_behind(folder):
    (folder / "text.mp4").write_text("no video")
    done = plan(folder, "x264", "--qpfile", "none.qp", clip="text.mp4")
    assert "text.mp4" in refusal(done)
    assert not (folder / "none.qp").exists()
