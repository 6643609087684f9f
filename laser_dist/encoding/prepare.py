"""Frames of a file as encoders take them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain

import av
from av.filter import Graph
from av.video.stream import VideoStream

from laser_dist.video.containers import damaged, frame_rate
from laser_dist.video.frames import (
    SCALER_FLAGS,
    UPRIGHT,
    display_matrix,
    is_sideways,
    upright_size,
)


def prepared_frames(
    frames: Iterator[av.VideoFrame],
    stream: VideoStream,
    name: str,
    size: tuple[int, int] | None = None,
    *,
    head: av.VideoFrame | None = None,
) -> Iterator[av.VideoFrame]:
    """Yield frames as they are encoded: upright, progressive, of even size, 4:2:0.

    Args:
      frames: decoded frames, in order.
      stream: their stream, whose clock is used; a frame without a time follows from the rate.
      name: name of the file in error messages.
      size: (width, height) in pixels to scale to, both even; None to keep the size.
      head: first frame of the file, whose form all frames have; None for the first of `frames`.

    Raises:
      VideoError: the frames change size or format.
    """
    first = next(frames, None)
    if first is None:
        return
    head = head or first
    form, base = (head.width, head.height, head.format.name), stream.time_base
    graph = _graph(head, stream, size)
    last = None
    step = max(1, round(1 / (frame_rate(stream) * base))) if base else 1

    def timed(frame: av.VideoFrame) -> av.VideoFrame:
        nonlocal last
        pts = frame.pts if frame.pts is not None else 0 if last is None else last + step
        frame.pts = last = pts if last is None else max(pts, last + 1)
        frame.time_base = base or 1 / frame_rate(stream)
        return frame

    for frame in chain([first], frames):
        if (frame.width, frame.height, frame.format.name) != form:
            raise damaged(name, "its frames change size")
        if graph is None:
            yield timed(frame)
            continue
        graph.push(timed(frame))
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, av.VideoFrame)
        yield frame


def is_deep(frame: av.VideoFrame) -> bool:
    """Return whether a frame has more than 8 bits."""
    return max(component.bits for component in frame.format.components) > 8


def shaping_filters(
    first: av.VideoFrame, size: tuple[int, int] | None = None
) -> list[tuple[str, str]]:
    """Return FFmpeg's filters that upright frames need, their names and options.

    Args:
      first: first frame, as decoded.
      size: as for `prepared_frames`.
    """
    filters: list[tuple[str, str]] = []
    if first.interlaced_frame:
        filters.append(("bwdif", "mode=send_frame"))
    if first.width % 2 or first.height % 2:
        filters.append(("crop", "trunc(iw/2)*2:trunc(ih/2)*2:0:0"))
    wanted = "yuv420p10le" if is_deep(first) else "yuv420p"
    if first.format.name != wanted:
        if first.format.is_rgb:
            filters.append(("scale", "out_color_matrix=bt709:out_range=tv"))
        filters.append(("format", wanted))
    if size is not None and size != upright_size(first):
        filters.append(("scale", f"{size[0]}:{size[1]}:flags={SCALER_FLAGS}"))
    return filters


def _turning_filters(first: av.VideoFrame) -> list[tuple[str, str]]:
    """Return the filters that make frames upright."""
    filters: list[tuple[str, str]] = []
    matrix = display_matrix(first)
    if matrix != UPRIGHT:
        a, b, c, d = matrix
        if is_sideways(matrix):
            filters.append(("transpose", "dir=cclock_flip"))  # swaps rows and columns only
            a, d = c, b
        filters += [("vflip", "")] * (d < 0) + [("hflip", "")] * (a < 0)
        # The frame is upright now, and must not be turned again.
        filters.append(("sidedata", "mode=delete:type=DISPLAYMATRIX"))
    return filters


def _graph(first: av.VideoFrame, stream: VideoStream, size: tuple[int, int] | None) -> Graph | None:
    """Return the filters that frames need; None if they need none."""
    shaping, turning = shaping_filters(first, size), _turning_filters(first)
    # Fields are rows as decoded: a turn would mix them.
    is_first = int(bool(shaping) and shaping[0][0] == "bwdif")
    filters = [*shaping[:is_first], *turning, *shaping[is_first:]]
    if not filters:
        return None
    graph = Graph()
    graph.threads = 1
    base = stream.time_base or 1 / frame_rate(stream)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    last = graph.add(
        "buffer",
        f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}"
        f":time_base={base.numerator}/{base.denominator}"
        f":pixel_aspect={aspect.numerator}/{aspect.denominator}"
        f":colorspace={int(first.colorspace)}:range={int(first.color_range)}",
    )
    for name, options in (*filters, ("buffersink", "")):
        entry, last = last, graph.add(name, options or None)
        entry.link_to(last)
    graph.configure()
    return graph
