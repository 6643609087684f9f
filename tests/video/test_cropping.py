"""The margins that a container says not to show are cut off, as the `ffmpeg` program does."""

import io
import struct
import subprocess

import av
import numpy as np
import pytest

from laser_dist.video.codec import decode
from laser_dist.video.cropping import margins_of
from laser_dist.video.facts import clip_facts
from laser_dist.video.frames import to_420
from laser_dist.video.sampling import sample_frames

WIDTH, HEIGHT = 96, 64
# Width, height, and how far the center is from the middle of the frame, to the right and down.
APERTURES = {
    "centered": ((80, 1), (48, 1), (0, 1), (0, 1)),
    "off center": ((70, 1), (52, 1), (-3, 1), (2, 1)),
    "in halves": ((155, 2), (50, 1), (1, 2), (-3, 1)),
    "complete": ((96, 1), (64, 1), (0, 1), (0, 1)),
}


def video(form="mp4", rotated=False):
    """Return a video of four frames in which every pixel says where it is; its index comes last."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream("libx264", rate=5, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if rotated:
            stream.set_display_rotation(90)
        rows, columns = np.indices((HEIGHT, WIDTH))
        for number in range(4):
            rgb = np.stack([2 * columns, 3 * rows, np.full_like(rows, 20 * number)], -1)
            frame = av.VideoFrame.from_ndarray(rgb.astype(np.uint8), "rgb24")
            container.mux(stream.encode(to_420(frame)))
        container.mux(stream.encode())
    return file.getvalue()


def with_aperture(content, aperture):
    """Return an MP4 file with a `clap` box at the end of its sample entry."""
    box = struct.pack(">I4s", 40, b"clap") + b"".join(
        struct.pack(">iI", *fraction) for fraction in aperture
    )
    data = bytearray(content)
    start, end = 0, len(data)
    boxes = []
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", None):
        at = start
        while kind is not None and data[at + 4 : at + 8] != kind:
            at += int.from_bytes(data[at : at + 4])
        boxes.append(at)
        end = at + int.from_bytes(data[at : at + 4])
        start = at + (16 if kind == b"stsd" else 8)
    for at in boxes:
        data[at : at + 4] = (int.from_bytes(data[at : at + 4]) + len(box)).to_bytes(4)
    return bytes(data[:end] + box + data[end:])


@pytest.fixture
def frames_of_ffmpeg(ffmpeg):
    """Return a function that decodes a file with the `ffmpeg` program, to [T, H, W, 3]."""

    def frames(path):
        words = [ffmpeg, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "yuv444p", "-"]
        probed = subprocess.run(
            [ffmpeg, "-i", path, "-f", "framecrc", "-"], capture_output=True, text=True, check=True
        )
        (size,) = (
            line.split()[-1]
            for line in probed.stdout.splitlines()
            if line.startswith("#dimensions 0")
        )
        width, height = map(int, size.split("x"))
        raw = subprocess.run(words, capture_output=True, check=True).stdout
        return np.frombuffer(raw, np.uint8).reshape(-1, 3, height, width)

    return frames


@pytest.mark.parametrize("form", ["mov", "mp4"])
@pytest.mark.parametrize("aperture", APERTURES)
def test_a_clip_has_the_pixels_that_ffmpeg_shows(tmp_path, frames_of_ffmpeg, form, aperture):
    path = tmp_path / f"clip.{form}"
    path.write_bytes(with_aperture(video(form), APERTURES[aperture]))
    expected = frames_of_ffmpeg(path)
    assert (expected.shape[2:] == (HEIGHT, WIDTH)) == (aperture == "complete")
    clip = decode(path)
    height, width = (size // 2 * 2 for size in expected.shape[2:])
    assert (clip.height, clip.width) == (height, width)
    np.testing.assert_array_equal(clip.y, expected[:, 0, :height, :width])


def in_matroska(tmp_path, ffmpeg):
    """Return a file to which `ffmpeg` has written the margins as PixelCrop."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(with_aperture(video(), APERTURES["off center"]))
    copy = path.with_suffix(".mkv")
    subprocess.run([ffmpeg, "-v", "error", "-i", path, "-c", "copy", copy], check=True)
    return copy


@pytest.mark.parametrize("form", ["mp4", "mkv"])
def test_a_sampled_frame_is_the_part_that_is_shown(tmp_path, ffmpeg, form):
    path = in_matroska(tmp_path, ffmpeg).with_suffix(f".{form}")
    facts = clip_facts(path)
    assert (facts.width, facts.height) == (70, 52)
    frames = sample_frames(path, num_frames=4, width=70, height=52)
    assert len(frames) == 4
    for number, frame in enumerate(frames):
        middle = frame.rgb[26, 35].astype(int)
        # Column 10 + 35 and row 8 + 26 of the encoded frame.
        np.testing.assert_allclose(middle, [90, 102, 20 * number], atol=4)


def test_a_turned_clip_is_cropped_before_it_is_turned(tmp_path, frames_of_ffmpeg):
    path = tmp_path / "clip.mp4"
    path.write_bytes(with_aperture(video(rotated=True), APERTURES["off center"]))
    expected = frames_of_ffmpeg(path)
    clip = decode(path)
    assert expected.shape[2:] == (clip.height, clip.width) == (70, 52)
    np.testing.assert_array_less(np.abs(clip.y - expected[:, 0].astype(int)), 2)


class CountingFile(io.BytesIO):
    num_reads = 0

    def read(self, *size):
        self.num_reads += 1
        return super().read(*size)


@pytest.mark.parametrize("form", ["mp4", "mkv"])
def test_of_a_file_of_very_many_parts_few_are_read(tmp_path, ffmpeg, form):
    """Each part is a header of an empty one; FFmpeg passes over them."""
    if form == "mkv":
        content = in_matroska(tmp_path, ffmpeg).read_bytes()
        segment = content.index(b"\x18\x53\x80\x67")
        content = content[:segment] + b"\xec\x80" * 100_000 + content[segment:]
    else:
        content = with_aperture(video(), APERTURES["off center"])
        start = int.from_bytes(content[:4])  # after the box with the type of the file
        content = content[:start] + struct.pack(">I4s", 8, b"free") * 100_000 + content[start:]
    file = CountingFile(content)
    with av.open(file) as container:
        before = file.num_reads
        margins_of(container, container.streams.video[0])
    assert file.num_reads - before < 25_000


@pytest.mark.parametrize(
    "aperture",
    [
        ((80, 0), (48, 1), (0, 1), (0, 1)),
        ((0, 1), (48, 1), (0, 1), (0, 1)),
        ((80, 1), (48, 1), (90, 1), (0, 1)),
        ((200, 1), (48, 1), (0, 1), (0, 1)),
    ],
)
def test_an_impossible_aperture_is_ignored(tmp_path, aperture):
    facts = clip_facts(with_aperture(video(), aperture))
    assert (facts.width, facts.height) == (WIDTH, HEIGHT)
