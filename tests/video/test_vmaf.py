"""VMAF of frames in memory is what `ffmpeg` gives for the same frames in files."""

import json
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest

from laser_dist.errors import UserError
from laser_dist.video.vmaf import measuring_vmaf, vmaf_program

WIDTH, HEIGHT, FPS = 98, 66, Fraction(24000, 1001)  # rows with padding


def write(path, pix_fmt, *, qp):
    """Encode ten noisy frames of a drifting pattern, and return the path."""
    rng = np.random.default_rng(3)
    x = np.arange(WIDTH)[None, :, None] + np.arange(HEIGHT)[:, None, None]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"qp": str(qp)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for index in range(10):
            pattern = 128 + 90 * np.sin((x + 3 * index) / 7) + rng.normal(0, 9, (HEIGHT, WIDTH, 3))
            frame = av.VideoFrame.from_ndarray(pattern.clip(0, 255).astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_scores_are_those_of_ffmpeg_on_files(pix_fmt, ffmpeg, tmp_path):
    reference = write(tmp_path / "reference.mkv", pix_fmt, qp=8)
    encoded = write(tmp_path / "encoded.mkv", pix_fmt, qp=46)
    log = "libvmaf=log_fmt=json:log_path=vmaf.json"
    words = [ffmpeg, "-i", encoded, "-i", reference, "-lavfi", log, "-f", "null", "-"]
    subprocess.run(words, cwd=tmp_path, capture_output=True, check=True)
    frames = json.loads((tmp_path / "vmaf.json").read_text())["frames"]
    expected = [frame["metrics"]["vmaf"] for frame in frames]
    settings = {"width": WIDTH, "height": HEIGHT, "pix_fmt": pix_fmt, "fps": FPS}
    program = vmaf_program()
    assert program == str(ffmpeg)
    with (
        av.open(reference) as first,
        av.open(encoded) as second,
        measuring_vmaf(program, **settings) as meter,
    ):
        for pair in zip(first.decode(video=0), second.decode(video=0), strict=True):
            meter.add(*pair)
        scores = meter.scores()
    assert len(scores) == 10
    assert scores == pytest.approx(expected, abs=1e-3)
    assert min(scores) < 95


def test_rows_from_bottom_to_top_are_read_in_order(ffmpeg, tmp_path):
    """FFmpeg's filter `vflip` changes the order of rows in memory only."""
    from laser_dist.video.frames import filtered

    with av.open(write(tmp_path / "clip.mkv", "yuv420p", qp=30)) as container:
        frame = next(container.decode(video=0))
    flipped = filtered(frame, ("vflip", ""))
    assert flipped.planes[0].line_size < 0
    rows = np.ascontiguousarray(frame.to_ndarray(format="gray")[::-1])
    expected = av.VideoFrame.from_ndarray(rows, "gray").reformat(format="yuv420p")
    settings = {"width": WIDTH, "height": HEIGHT, "pix_fmt": "yuv420p", "fps": FPS}
    with measuring_vmaf(str(ffmpeg), **settings) as meter:
        meter.add(flipped, flipped)
        meter.add(expected, flipped)
        same, equal = meter.scores()
    assert equal == pytest.approx(same, abs=0.01)


def test_a_program_that_fails_is_one_sentence(tmp_path):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho first >&2\necho out of models >&2\nexit 1\n")
    program.chmod(0o755)
    frame = av.VideoFrame(64, 64, "yuv420p")
    settings = {"width": 64, "height": 64, "pix_fmt": "yuv420p", "fps": Fraction(25)}

    def scores():
        with measuring_vmaf(str(program), **settings) as meter:
            for _ in range(100):
                meter.add(frame, frame)
            return meter.scores()

    with pytest.raises(UserError, match=r"ffmpeg could not measure VMAF: out of models\."):
        scores()


def test_a_program_without_the_filter_does_not_count(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ' .. xpsnr  VV->V  text'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    vmaf_program.cache_clear()
    assert vmaf_program() is None
    vmaf_program.cache_clear()
