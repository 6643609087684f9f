"""`laser-jnd encode` on the command line, with a model whose levels are the mean color."""

import json

import av
import numpy as np
import pytest
from command_line import laser_jnd_here, refusal
from onnx_graphs import write_light_inputs

from laser_dist.video.coded_qps import coded_qps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model and a clip of 1.2 s of dark and 1.6 s of brighter noise."""
    folder = tmp_path_factory.mktemp("encode")
    write_light_inputs(folder)
    write(folder / "cut.mp4")
    return folder


def write(path, *, qp="0", **settings):
    rng = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": qp})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for gray in [10] * 30 + [48] * 40:
            pixels = np.repeat(rng.integers(gray - 3, gray + 4, (32, 64, 1)), 3, axis=2)
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def encode(folder, *words, clip="cut.mp4", output="out.mp4"):
    words = ("--output", output, "--model", "m.onnx", *words)
    return laser_jnd_here("encode", clip, *words, cwd=folder)


def test_each_scene_is_encoded_at_its_level_less_the_margin(folder):
    done = encode(folder, "--margin", "2", "--format", "json", "--overwrite")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    first, second = document["scenes"]
    assert (first["end_frame"], second["first_frame"]) == (30, 30)
    # The mean color is the level; noise and the conversion of color move it a little.
    assert first["qp"] == pytest.approx(8, abs=1)
    assert second["qp"] == pytest.approx(46, abs=1)
    qps = np.array(coded_qps(folder / "out.mp4"))
    assert set(np.rint(qps[:30])) == {first["qp"]}
    assert set(np.rint(qps[30:])) == {second["qp"]}
    sizes = [(folder / name).stat().st_size for name in ("cut.mp4", "out.mp4")]
    assert [document["source_bytes"], document["output_bytes"]] == sizes
    assert document["saving"] == pytest.approx(1 - sizes[1] / sizes[0])
    assert document["simulated"] is True
    assert document["quality"]["psnr_db"] < 60
    assert first["quality"]["psnr_db"] > second["quality"]["psnr_db"]


def test_people_read_a_row_per_scene_and_one_line_per_fact(folder):
    done = encode(folder, "--margin", "2", "--constant", output="constant.mkv")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if " – " in line]
    assert [row[0] for row in rows] == ["0:00.00", "0:01.20"]
    assert len({row[-2] for row in rows}) == 1
    assert "Wrote constant.mkv" in done.stdout
    assert "All 70 frames: PSNR" in done.stdout
    assert "SIMULATED" in done.stdout
    assert "ffmpeg -i cut.mp4" in done.stdout


@pytest.mark.parametrize(
    ("words", "clip", "output", "message"),
    [
        ((), "cut.mp4", "cut.mp4", "The output is the clip itself"),
        ((), "cut.mp4", "there.mp4", "there.mp4 exists"),
        ((), "cut.mp4", "out.avi", "out.avi has no suffix of a container"),
        ((), "missing.mp4", "new.mp4", "missing.mp4 does not exist"),
        ((), "still.png", "new.mp4", "still.png is a still image"),
        ((), "hdr.mp4", "new.mp4", "HDR (PQ)"),
        ((), "small.mp4", "new.mp4", "small.mp4 has 48x32 pixels"),
        (("--codec", "x265"), "cut.mp4", "new.mp4", "x265 needs sides of 64"),
        ((), "coarse.mp4", "new.mp4", "coarse.mp4 is itself encoded at QP 45"),
        (("--codec", "x265", "--preset", "quick"), "cut.mp4", "new.mp4", "no preset quick"),
        (("--encoder-options", "no-such=1"), "cut.mp4", "new.mp4", "refuses an option"),
    ],
)
def test_what_cannot_be_encoded_is_one_sentence_and_leaves_no_file(
    folder, words, clip, output, message
):
    from PIL import Image

    (folder / "there.mp4").write_bytes(b"kept")
    Image.new("RGB", (64, 32)).save(folder / "still.png")
    write(folder / "hdr.mp4", color_trc=16, color_primaries=9, colorspace=9)
    write(folder / "coarse.mp4", qp="45")
    write(folder / "small.mp4", width=48)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert message in refusal(encode(folder, *words, clip=clip, output=output))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_least_xpsnr_takes_finer_quantizers_and_says_so(folder):
    words = ("--margin", "0", "--format", "json")
    first = json.loads(encode(folder, *words, "--overwrite").stdout)
    least = first["quality"]["xpsnr_db"] + 3
    done = encode(folder, *words, "--min-xpsnr", f"{least}", output="finer.mp4")
    assert done.returncode == 0, done.stderr
    finer = json.loads(done.stdout)
    assert finer["quality"]["xpsnr_db"] >= least
    assert 1 < finer["num_encodes"] <= 6
    assert first["num_encodes"] == 1
    steps = {
        before["quantizer"] - after["quantizer"]
        for before, after in zip(first["scenes"], finer["scenes"], strict=True)
        if after["quantizer"] > 1
    }
    assert len(steps) == 1
    assert steps.pop() >= 1
    qps = np.array(coded_qps(folder / "finer.mp4"))
    assert set(np.rint(qps[30:])) == {finer["scenes"][1]["quantizer"]}
    line = refusal(encode(folder, *words, "--min-xpsnr", "99", output="new.mp4"))
    assert "after" in line
    assert not (folder / "new.mp4").exists()
    both = encode(folder, "--min-xpsnr", "40", "--no-verify", output="new.mp4")
    assert "--min-xpsnr needs the comparison" in refusal(both)


def test_vmaf_is_measured_if_an_ffmpeg_can_and_may_be_asked_for(folder, ffmpeg):
    words = ("--margin", "0", "--format", "json")
    done = encode(folder, *words, output="vmaf.mp4")
    first = json.loads(done.stdout)
    least = first["quality"]["vmaf"] + 2
    done = encode(folder, *words, "--min-vmaf", f"{least}", output="finer-vmaf.mp4")
    assert done.returncode == 0, done.stderr
    finer = json.loads(done.stdout)
    assert finer["quality"]["vmaf"] >= least
    assert finer["num_encodes"] > 1
    assert "at most 100" in encode(folder, "--min-vmaf", "101", output="new.mp4").stderr
    still_less = encode(folder, *words, "--min-vmaf", "100", "--constant", output="new.mp4")
    assert "a VMAF of" in refusal(still_less)
    done = encode(folder, output="shown.mp4")
    assert "VMAF" in done.stdout


def test_an_ffmpeg_that_fails_is_a_warning_unless_vmaf_is_needed(folder, tmp_path, monkeypatch):
    from laser_dist.video.vmaf import vmaf_program

    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ' .. libvmaf  VV->V  text'\necho no model >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    vmaf_program.cache_clear()
    done = encode(folder, "--format", "json", output="warned.mp4")
    assert done.returncode == 0, done.stderr
    assert "ffmpeg could not measure VMAF: no model." in done.stderr
    assert json.loads(done.stdout)["quality"]["vmaf"] is None
    line = refusal(encode(folder, "--min-vmaf", "90", output="new.mp4"))
    assert "ffmpeg could not measure VMAF: no model." in line
    assert not (folder / "new.mp4").exists()
    vmaf_program.cache_clear()


def test_a_least_vmaf_is_refused_without_a_program_that_measures_it(folder, monkeypatch):
    from laser_dist.video.vmaf import vmaf_program

    monkeypatch.setenv("PATH", "")
    vmaf_program.cache_clear()
    line = refusal(encode(folder, "--min-vmaf", "90", output="new.mp4"))
    assert "--min-vmaf needs an ffmpeg with libvmaf" in line
    vmaf_program.cache_clear()


def test_a_coarse_clip_is_encoded_on_request(folder):
    write(folder / "coarse.mp4", qp="45")
    done = encode(folder, "--even-if-coarser", "--no-verify", clip="coarse.mp4", output="again.mp4")
    assert done.returncode == 0, done.stderr
    assert "PSNR" not in done.stdout
    assert (folder / "again.mp4").exists()


def test_a_folder_is_encoded_but_for_what_fails_or_is_there(folder):
    import shutil

    clips = folder / "clips"
    (clips / "below").mkdir(parents=True)
    shutil.copy(folder / "cut.mp4", clips / "a.mp4")
    shutil.copy(folder / "cut.mp4", clips / "below" / "b.m2ts")
    (clips / "song.mp4").write_bytes(b"no video at all")
    write(clips / "coarse.mp4", qp="45")
    words = ("--recursive", "--margin", "2", "--no-verify")
    done = encode(folder, *words, clip="./clips/../clips", output="encoded")
    assert done.returncode == 2
    assert "song.mp4" in done.stderr
    assert "coarse.mp4 is itself encoded at QP 45" in done.stderr
    assert "1 of 4 clips could not be encoded." in done.stderr
    written = {str(path.relative_to(folder / "encoded")) for path in files(folder / "encoded")}
    assert written == {"a.mp4", "below/b.mkv"}
    assert "2 clips: " in done.stdout
    before = {path: path.stat().st_mtime_ns for path in files(folder / "encoded")}
    (clips / "song.mp4").unlink()
    again = encode(folder, *words, clip="clips", output="encoded")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in files(folder / "encoded")} == before
    same = encode(folder, "--overwrite", clip="clips/a.mp4", output="clips")
    assert "clips/a.mp4 is the clip itself" in refusal(same)
    for output, message in (("clips/new", "in the folder of clips"), ("new.mp4", "--recursive")):
        words = words[1:] if output == "new.mp4" else words
        assert message in refusal(encode(folder, *words, clip="clips", output=output))


def test_several_clips_at_a_time_give_the_same_files_and_a_line_each(folder):
    clips = folder / "many"
    clips.mkdir()
    for index in range(3):
        write(clips / f"{index}.mp4")
    write(clips / "coarse.mp4", qp="45")
    (clips / "song.mp4").write_bytes(b"no video at all")
    words = ("--recursive", "--margin", "2", "--format", "ndjson")
    lines = {}
    for workers in ("1", "3"):
        done = encode(folder, *words, "--workers", workers, clip="many", output=f"by-{workers}")
        assert done.returncode == 2
        documents = [json.loads(line) for line in done.stdout.splitlines()]
        lines[workers] = {each["clip"]: each for each in documents}
    written = {path.name: path.read_bytes() for path in files(folder / "by-1")}
    assert len(written) == 3
    assert {path.name: path.read_bytes() for path in files(folder / "by-3")} == written
    for name, one in lines["1"].items():
        several = lines["3"][name]
        assert several.keys() == one.keys()
        assert several.get("scenes") == one.get("scenes")
    assert lines["1"]["many/coarse.mp4"]["is_coarse"]
    assert not lines["3"]["many/song.mp4"]["is_coarse"]
    assert "song.mp4" in lines["3"]["many/song.mp4"]["error"]


def test_an_error_of_one_clip_ends_those_at_work_and_leaves_nothing_of_them(folder):
    from laser_dist.encoding import folder as encoding
    from laser_dist.encoding.encode import Request
    from laser_dist.encoding.encoders import EncoderSettings
    from laser_dist.prediction.load import load

    write(folder / "long.mp4")
    outputs = [str(folder / "at-work" / f"{n}.mp4") for n in range(3)]
    jobs = [encoding.Job(str(folder / "long.mp4"), output) for output in outputs]
    shown = []

    def show(text, num_done):
        shown.append(text)
        if "encoding" in text:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        list(
            encoding.encode_all(
                load(folder / "m.onnx"),
                jobs,
                Request(settings=EncoderSettings(), verify=False),
                workers=2,
                show=show,
            )
        )
    assert shown
    assert files(folder / "at-work") == []


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]
