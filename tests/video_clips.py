"""Small clips made in code, and files of them, for the tests of `laser_dist.video`."""

import io
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from laser_dist.video.codec import decode
from laser_dist.video.containers import VideoError
from laser_dist.video.frames import Clip

NTSC = Fraction(30000, 1001)


def random_clip(num_frames=2, height=16, width=16, *, seed=0, fps=NTSC):
    """Return a clip of independent code values 0..255: the hardest content for a codec."""
    rng = np.random.default_rng(seed)
    shapes = [(num_frames, height, width), *[(num_frames, height // 2, width // 2)] * 2]
    return clip_of(*(rng.integers(0, 256, shape, np.uint8) for shape in shapes), fps=fps)


def clip_of(y, u=None, v=None, *, fps=NTSC):
    """Return the clip of planes [T, H, W] and [T, H/2, W/2]; gray without u and v."""
    gray = np.full((len(y), y.shape[1] // 2, y.shape[2] // 2), 128, np.uint8)
    planes = list(zip(y, gray if u is None else u, gray if v is None else v, strict=True))
    return Clip.from_planes(planes, [index / fps for index in range(len(y))], fps)


def with_planes(clip, **planes):
    """Return a clip with another y, u or v."""
    return clip_of(**{"y": clip.y, "u": clip.u, "v": clip.v, **planes}, fps=clip.fps)


def moving_clip(num_frames=8, height=48, width=64, *, seed=0, fps=NTSC):
    """Return moving, smooth, colored waves with a little fixed texture: content like a camera's."""
    rng = np.random.default_rng(seed)
    texture = rng.normal(0, 4, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    frames = []
    for index in range(num_frames):
        waves = [
            127 + 70 * np.sin((columns + 2 * index) / (7 + channel) + rows / (11 - channel))
            for channel in range(3)
        ]
        frames.append(np.clip(np.stack(waves, axis=-1) + texture, 0, 255).astype(np.uint8))
    return Clip.from_rgb(np.stack(frames), fps)


def muxed(
    clip,
    container,
    *,
    codec="libx264",
    pixel_format="yuv420p",
    rotation=None,
    folder: Path | None = None,
    **options,
):
    """Return a file of the clip, encoded (H.264 QP 12 by default) in an FFmpeg container.

    `options` are passed to the encoder. With a `folder` the file is written there first, with its
    index at the front, which FFmpeg does for real files only.
    """
    target = io.BytesIO() if folder is None else str(folder / f"muxed.{container}")
    flags = {} if folder is None else {"movflags": "faststart"}
    with av.open(target, "w", format=container, options=flags) as output:
        stream = output.add_stream(codec, rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, pixel_format
        stream.codec_context.options = {"qp": "12", **options} if codec == "libx264" else options
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index in range(clip.num_frames):
            frame = clip.frame(index).reformat(format=pixel_format)
            frame.pts, frame.time_base = index, 1 / clip.fps
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue() if folder is None else Path(target).read_bytes()


def picture_bits(stream):
    """Return the bits of the slices in an H.264 stream, as an MP4 file stores them.

    FFmpeg's muxer puts a length of four bytes in front of each NAL unit.
    """
    file = io.BytesIO()
    with av.open(io.BytesIO(stream)) as raw, av.open(file, "w", format="mp4") as copy:
        track = copy.add_stream_from_template(raw.streams.video[0])
        for number, packet in enumerate(packet for packet in raw.demux(video=0) if packet.size):
            packet.stream, packet.pts, packet.dts = track, number, number
            copy.mux(packet)
    num_bytes = 0
    with av.open(io.BytesIO(file.getvalue())) as copy:
        for packet in copy.demux(video=0):
            data = bytes(packet)
            while data:
                length = int.from_bytes(data[:4])
                # ITU-T H.264, table 7-1: types 1 to 5 are slices.
                num_bytes += length * (1 <= data[4] % 32 <= 5)
                data = data[4 + length :]
    return 8 * num_bytes


def x264_settings(stream):
    """Return the settings in x264's SEI, by x264's own names ("me_range": "128")."""
    options = re.search(rb"options: ([ -~]+)", stream)[1].decode("ascii")
    return dict(pair.split("=", 1) for pair in options.split() if "=" in pair)


def num_decoded_frames(content, report):
    """Return the number of frames, or None for a `VideoError`; runs in an isolated process."""
    report("decode")
    try:
        return decode(content).num_frames
    except VideoError:
        return None
