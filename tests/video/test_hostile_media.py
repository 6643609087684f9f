"""Files that would make FFmpeg or Pillow read something else, and files above a limit."""

import contextlib
import io
import os
import socket
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_clips import moving_clip, muxed

from laser_dist.errors import UserError
from laser_dist.video import codec, containers, images, packets
from laser_dist.video.codec import decode, decode_yuv420p, encode_h264, frame_size
from laser_dist.video.containers import VideoError
from laser_dist.video.images import open_image
from laser_dist.video.sampling import sample_frames

pytestmark = pytest.mark.attack("Media files")

SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP 96\n"
OWN_NAMES = ("a.m3u8", "a.ffconcat", "a.sdp", "a.txt")
OTHER_NAMES = ("clip.mp4", "frame%02d.png", "clip")
READERS = (decode, frame_size, partial(sample_frames, num_frames=1, width=16, height=16))


def playlist(address):
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{address}\n#EXT-X-ENDLIST\n".encode()


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """Return a clip that FFmpeg would read if a file that names it could make it do so."""
    monkeypatch.chdir(tmp_path)
    for name in ("secret.264", "frame01.png"):
        (tmp_path / name).write_bytes(encode_h264(moving_clip(2), qp=30))
    return tmp_path / "secret.264"


@pytest.fixture
def listener():
    """Return a TCP socket that has a connection waiting if anything has connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def refuse_everywhere(content, folder):
    """Check that no reader takes the content, under any name or as bytes."""
    with pytest.raises(VideoError):
        decode(content)
    for name in (*OWN_NAMES, *OTHER_NAMES):
        path = folder / name
        path.write_bytes(content)
        for read in READERS:
            with pytest.raises(VideoError) as refused:
                read(path)
            assert refused.value.message == (
                f"Cannot decode {path}: it is damaged, or not a video or image of a supported"
                " format."
            )
        path.unlink()


def test_a_playlist_makes_no_connection(listener, tmp_path):
    port = listener.getsockname()[1]
    refuse_everywhere(playlist(f"http://127.0.0.1:{port}/seg.ts"), tmp_path)
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_playlist_opens_no_other_file(scheme, secret, tmp_path):
    refuse_everywhere(playlist(f"{scheme}{secret}"), tmp_path)


def test_a_concatenation_opens_no_other_file(secret, tmp_path):
    refuse_everywhere(b"ffconcat version 1.0\nfile secret.264\n", tmp_path)


def test_a_file_name_is_no_pattern_of_other_files(secret, tmp_path):
    pattern = tmp_path / "frame%02d.png"
    pattern.write_bytes(b"")
    with pytest.raises(VideoError, match="is empty"):
        decode(pattern)
    rgb = np.full((32, 48, 3), 200, np.uint8)
    Image.fromarray(rgb).save(pattern)
    assert (decode(pattern).width, decode(pattern).height) == (48, 32)


def test_a_stream_description_opens_no_socket(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done, seen = threading.Event(), []

    def watch():
        while not done.is_set():
            seen.extend(
                line
                for table in ("udp", "udp6")
                for line in Path("/proc/net", table).read_text().splitlines()
                if f":{port:04X} " in line.partition(" 00000000")[0]
            )
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        refuse_everywhere(f"{SDP.format(port)}a=rtpmap:96 H264/90000\n".encode(), tmp_path)
    finally:
        done.set()
        watcher.join()
    assert seen == []


def test_text_is_no_video(tmp_path):
    refuse_everywhere(b"hello world" * 100, tmp_path)


def test_a_codec_that_is_not_listed_is_refused():
    with pytest.raises(VideoError, match="the codec asv1 is not supported"):
        decode(muxed(moving_clip(2), "avi", codec="asv1"))


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero"), Path("/dev/tty"), tmp_path / "socket"):
        for read in (*READERS, partial(_open, name="")):
            with pytest.raises(VideoError, match="is not a regular file|Cannot open"):
                read(path)


def _open(path, name):
    with open_image(path, name):
        pass


def test_a_disk_that_fails_is_no_damage():
    # Reading the first page of a process, which does not exist, is an input/output error.
    for read in (*READERS, partial(_open, name="it")):
        with pytest.raises(OSError, match="Input/output error"):
            read(Path("/proc/self/mem"))


def test_a_name_that_is_too_long_is_an_error_of_the_user(tmp_path):
    with pytest.raises(UserError, match="Cannot open .*: File name too long"):
        frame_size(tmp_path / ("x" * 300))


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "clip.mp4"
    with path.open("wb") as file:
        file.truncate(containers.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(VideoError, match="has 68,719,476,737 bytes; the limit is 68,719,476,736"):
        frame_size(path)


def test_a_frame_above_the_limit_is_not_decoded():
    # A run of equal bits: 70 million pixels in a few kB.
    file = io.BytesIO()
    Image.new("1", (10_000, 7_000)).save(file, "PNG")
    for read in (decode, partial(_open, name="it")):
        with pytest.raises(VideoError):
            read(file.getvalue())


@pytest.mark.parametrize("kind", ["annexb", "mp4"])
def test_a_clip_with_too_many_frames_is_refused(kind, tmp_path, monkeypatch):
    path = tmp_path / "clip"
    clip = moving_clip(8)
    path.write_bytes(encode_h264(clip, qp=30) if kind == "annexb" else muxed(clip, "mp4"))
    monkeypatch.setattr(codec, "MAX_CLIP_FRAMES", 7)
    with pytest.raises(VideoError, match="is too long: the limits are 7 frames"):
        decode(path)
    monkeypatch.setattr(packets, "MAX_FRAMES", 7)
    with pytest.raises(VideoError, match="has more than 7 frames"):
        sample_frames(path, num_frames=1, width=16, height=16)


def test_a_clip_that_takes_too_much_memory_is_refused(monkeypatch):
    content = encode_h264(moving_clip(8), qp=30)
    # 64 x 48 pixels take 4608 bytes in 4:2:0.
    monkeypatch.setattr(codec, "MAX_CLIP_BYTES", 8 * 4608)
    assert decode(content).num_frames == 8
    monkeypatch.setattr(codec, "MAX_CLIP_BYTES", 8 * 4608 - 1)
    with pytest.raises(VideoError, match="36,863 bytes decoded"):
        decode(content)
    with pytest.raises(VideoError, match="36,863 bytes decoded"):
        decode_yuv420p(bytes(8 * 4608), width=64, height=48, fps=moving_clip(1).fps, name="it")


def test_an_image_format_that_starts_programs_is_refused(tmp_path):
    # Pillow gives EPS to Ghostscript.
    path = tmp_path / "photo.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    )
    with contextlib.suppress(OSError), Image.open(path) as image:
        assert image.format == "EPS"  # what Pillow itself takes it for
    with pytest.raises(VideoError, match="cannot identify image file"):
        _open(path, "it")


def test_an_image_above_the_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    Image.new("RGB", (20, 20)).save(path)
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 20)
    with pytest.raises(VideoError, match="the limit is 20"):
        _open(path, "it")
