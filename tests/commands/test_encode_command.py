"""`laser-jnd encode` on the command line, with a model whose levels are the mean color."""

import contextlib
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from command_line import laser_jnd_here, refusal
from onnx_graphs import write_light_inputs

from laser_dist.commands.encode import jobs_of
from laser_dist.encoding import encode as encoder
from laser_dist.errors import UserError
from laser_dist.video.coded_qps import coded_qps
from laser_dist.video.facts import clip_facts
from laser_dist.wording import size_text

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model and a clip of 1.2 s of dark and 1.6 s of brighter noise."""
    folder = tmp_path_factory.mktemp("encode")
    write_light_inputs(folder)
    write(folder / "cut.mp4")
    return folder


def write(path, *, qp="0", grays=(10,) * 30 + (48,) * 40, **settings):
    rng = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": qp})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for gray in grays:
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
    assert "All 70 frames, at their times: PSNR" in done.stdout
    assert "SIMULATED" in done.stdout
    assert "ffmpeg -i cut.mp4" in done.stdout


@pytest.mark.parametrize(
    ("clip", "pix_fmt", "codec"),
    [
        ("cut.mp4", "yuv420p", "x264"),
        ("deep.mp4", "yuv420p10le", "x264"),
        ("full.mp4", "yuv444p", "x264"),
        ("tall.mp4", "yuv420p10le", "x265"),
    ],
)
def test_the_shown_command_gives_ffmpeg_the_same_quantizers(folder, ffmpeg, clip, pix_fmt, codec):
    height = 64 if codec == "x265" else 32
    write(folder / clip, pix_fmt=pix_fmt, height=height)
    words = ("--constant", "--codec", codec, "--format", "json", "--overwrite")
    done = encode(folder, *words, clip=clip, output="ours.mp4")
    assert done.returncode == 0, done.stderr
    command = json.loads(done.stdout)["ffmpeg"].replace("ours.mp4", "theirs.mp4")
    subprocess.run([*shlex.split(command), "-y"], cwd=folder, check=True, capture_output=True)
    streams = []
    for name in ("ours.mp4", "theirs.mp4"):
        with av.open(folder / name) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.codec_tag == ("hvc1" if codec == "x265" else "avc1")
            packets = [packet for packet in container.demux(stream) if packet.size]
            times = [float(packet.pts * packet.time_base) for packet in packets]
            size = sum(packet.size for packet in packets)
            streams.append((stream.codec_context.pix_fmt, len(packets), sorted(times), size))
    ours, theirs = streams
    assert ours[:2] == theirs[:2]
    assert ours[2] == pytest.approx(theirs[2], abs=1e-3)
    # Another version of the encoder; with QPs of 8 bits for 10, the size would be twice as large.
    assert ours[3] == pytest.approx(theirs[3], rel=0.08)
    if pix_fmt == "yuv420p":
        assert list(coded_qps(folder / "ours.mp4")) == list(coded_qps(folder / "theirs.mp4"))


def test_a_clip_of_one_frame_lasts_as_long_as_a_frame(folder):
    write(folder / "one.mp4", grays=(20,))
    done = encode(folder, "--format", "json", clip="one.mp4", output="one-out.mp4")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (scene,) = document["scenes"]
    assert (document["num_frames"], scene["end_s"]) == (1, pytest.approx(1 / 25))
    bits = 8 * (folder / "one-out.mp4").stat().st_size
    assert document["video_bitrate_kbps"] < bits * 25 / 1000


def test_a_broken_tail_is_encoded_as_far_as_it_decodes(folder):
    write(folder / "broken.mkv")
    content = (folder / "broken.mkv").read_bytes()
    (folder / "broken.mkv").write_bytes(content[: len(content) * 3 // 4])
    done = encode(folder, "--format", "json", clip="broken.mkv", output="broken-out.mp4")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert 30 < document["num_frames"] < 70
    assert document["warnings"][0].startswith("truncated")
    with av.open(folder / "broken-out.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == document["num_frames"]


def test_options_that_change_the_meaning_of_a_level_are_noted_or_refused(folder):
    words = ("--format", "json", "--overwrite", "--encoder-options")
    done = encode(folder, *words, "aq-mode=1", output="options.mp4")
    (note,) = [each for each in json.loads(done.stdout)["warnings"] if "aq-mode" in each]
    assert "VideoSet's settings" in note
    for option in ("qp=3", "crf=20", "bitrate=100"):
        line = refusal(encode(folder, *words, option, output="options.mp4"))
        assert f"--encoder-options sets {option.partition('=')[0]}" in line


def test_what_cannot_be_written_leaves_nothing(folder):
    """A folder that takes no files, and a disk that takes few bytes."""
    if sys.platform == "linux":
        line = refusal(encode(folder, output="/proc/new.mp4"))
        assert "in /proc: " in line
    before = {path.name for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        line = refusal(encode(folder, output="large.mp4"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in line
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "clip", "output", "message"),
    [
        ((), "cut.mp4", "cut.mp4", "The output is the clip itself"),
        ((), "cut.mp4", "there.mp4", "there.mp4 exists"),
        ((), "cut.mp4", "out.avi", "out.avi has no suffix of a container"),
        ((), "cut.mp4", "out.webm", "A .webm file cannot hold what x264 encodes"),
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
    (clips / "poster.jpg").write_bytes(b"not a clip")
    write(clips / "coarse.mp4", qp="45")
    words = ("--recursive", "--margin", "2", "--no-verify")
    done = encode(folder, *words, clip="./clips/../clips", output="encoded")
    assert done.returncode == 2
    assert "song.mp4" in done.stderr
    assert "coarse.mp4 is itself encoded at QP 45" in done.stderr
    assert "1 of 4 clips could not be encoded." in done.stderr
    written = {str(path.relative_to(folder / "encoded")) for path in files(folder / "encoded")}
    assert written == {"a.mp4", "below/b.m2ts.mkv"}
    assert "2 clips: " in done.stdout
    before = {path: path.stat().st_mtime_ns for path in files(folder / "encoded")}
    (clips / "song.mp4").unlink()
    again = encode(folder, *words, clip="clips", output="encoded")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in files(folder / "encoded")} == before
    shutil.copy(folder / "cut.mp4", clips / "late.mp4")
    late = encode(folder, *words, clip="clips", output="encoded")
    assert late.returncode == 0, late.stderr
    sizes = [path.stat().st_size for path in files(folder / "encoded")]
    clip = (folder / "cut.mp4").stat().st_size
    percent = f"{100 * (1 - sum(sizes) / (3 * clip)):.1f}%"
    assert f"Including clips encoded before: 3 clips: {size_text(3 * clip)} became" in late.stdout
    assert f"{percent} less." in late.stdout
    same = encode(folder, "--overwrite", clip="clips/a.mp4", output="clips")
    assert "clips/a.mp4 is the clip itself" in refusal(same)
    for output, message in (("clips/new", "in the folder of clips"), ("new.mp4", "--recursive")):
        words = words[1:] if output == "new.mp4" else words
        assert message in refusal(encode(folder, *words, clip="clips", output=output))


def test_names_of_a_folder_tell_clips_apart_and_fit_the_encoder(tmp_path):
    for name in ("a.avi", "a.ts", "a.mkv", "b.webm", "c.MOV"):
        (tmp_path / name).touch()
    for fits_webm, webm in ((False, "b.webm.mkv"), (True, "b.webm")):
        _, jobs = jobs_of([str(tmp_path)], "out", recursive=True, fits_webm=fits_webm)
        names = {Path(job.source).name: Path(job.output).name for job in jobs}
        assert names == {
            "a.avi": "a.avi.mkv",
            "a.ts": "a.ts.mkv",
            "a.mkv": "a.mkv",
            "b.webm": webm,
            "c.MOV": "c.MOV",
        }


def test_clips_share_memory_and_a_large_one_is_encoded_alone(folder, monkeypatch):
    from laser_dist.encoding import folder as encoding
    from laser_dist.prediction.load import load

    at_work, most = [], []

    def encode_nothing(model, source, output, request, *, progress, call):
        at_work.append(source)
        most.append(len(at_work))
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(20)
        at_work.remove(source)
        raise UserError("not encoded")

    monkeypatch.setattr(encoding, "encode", encode_nothing)
    need = encoding.memory_of(clip_facts(folder / "cut.mp4"))
    jobs = [encoding.Job(str(folder / "cut.mp4"), f"{number}.mp4") for number in range(6)]
    for memory, expected in ((need // 2, 1), (2.5 * need, 2), (100 * need, 3)):
        most.clear()
        together = threading.Barrier(expected)
        finished = encoding.encode_all(
            load(folder / "m.onnx"), jobs, None,
            workers=3, memory=memory, show=lambda text, done: None,
        )  # fmt: skip
        assert len(list(finished)) == len(jobs)
        assert max(most) == expected


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


def end_at_b(source, path, *others):
    path.write_bytes(b"the start of a file")
    if source.name == "b.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    if source.name == "c.mp4":
        np.ones(1 << 40)
    return encode_to_a_file(source, path, *others)


encode_to_a_file = encoder._encoded


def test_a_clip_that_crashes_an_encoder_does_not_stop_the_others(folder, monkeypatch):
    monkeypatch.setattr(encoder, "_encoded", end_at_b)  # only child processes call it
    clips = folder / "crash"
    clips.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        write(clips / name)
    done = encode(folder, "--recursive", "--workers", "1", clip="crash", output="crashed")
    assert done.returncode == 2
    crashed = "Cannot encode crash/b.mp4: the codec process was killed by SIGSEGV."
    assert crashed in done.stderr
    assert re.search(r"crash/c\.mp4 needs more than [\d.]+ GB of memory\. Encode", done.stderr)
    assert "2 of 4 clips could not be encoded." in done.stderr
    assert sorted(path.name for path in files(folder / "crashed")) == ["a.mp4", "d.mp4"]
    assert sorted(path.name for path in (folder / "crashed").iterdir()) == ["a.mp4", "d.mp4"]


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
