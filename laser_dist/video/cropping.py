"""How much of each frame a file shows: the clean aperture of MP4 and QuickTime, Matroska's crop.

The `ffmpeg` program cuts such margins off; FFmpeg's decoders, which PyAV uses, do not.

Source: ISO/IEC 14496-12, section 12.1.4 (`clap`), and RFC 9559, section 5.1.4.1.28 (PixelCrop).
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, cast

from av.container import InputContainer
from av.video import VideoFrame
from av.video.stream import VideoStream

from laser_dist.video.frames import filtered
from laser_dist.video.signatures import boxes_of, boxes_within

Margins = tuple[int, int, int, int]
"""Pixels that are not shown: at the left, top, right and bottom of a frame as it is encoded."""

_NONE: Margins = (0, 0, 0, 0)
_ENTRY = 78  # bytes of a video sample entry, before the boxes in it
_SIZE = slice(24, 28)  # of it: width and height, 2 bytes each
# RFC 9559: Segment, Tracks, and a track's entry, its type, its video settings and their crop.
_SEGMENT, _TRACKS, _CLUSTER, _TRACK_ENTRY = 0x18538067, 0x1654AE6B, 0x1F43B675, 0xAE
_TRACK_TYPE, _VIDEO_SETTINGS = 0x83, 0xE0
_VIDEO_TYPE = 1
_CROPS = (0x54CC, 0x54BB, 0x54DD, 0x54AA)  # left, top, right, bottom
_MAX_ELEMENTS = 1000


def margins_of(container: InputContainer, stream: VideoStream) -> Margins:
    """Return the margins of a stream that its container says not to show; zeros for none.

    Args:
      container: opened from a file object, whose position stays.
      stream: one of its streams.
    """
    file = cast(BinaryIO, container.file.file) if container.file else None
    form = container.format.name
    if file is None or not form.startswith(("mov,", "matroska,")):
        return _NONE
    position = file.tell()
    try:
        if form.startswith("mov,"):
            return _clean_aperture(file, stream.id)
        return _pixel_crop(file, container.streams.video.index(stream))
    except (ArithmeticError, IndexError, ValueError):  # a damaged box
        return _NONE
    finally:
        file.seek(position)


def cropped(frame: VideoFrame, margins: Margins) -> VideoFrame:
    """Return a frame without its margins; the frame itself if they are 0 or leave nothing."""
    left, top, right, bottom = margins
    width, height = frame.width - left - right, frame.height - top - bottom
    if margins == _NONE or min(width, height) < 1:
        return frame
    shown = filtered(frame, ("crop", f"{width}:{height}:{left}:{top}"))
    shown.pts, shown.time_base = frame.pts, frame.time_base
    return shown


def _clean_aperture(file: BinaryIO, track: int) -> Margins:
    """Return the margins around the clean aperture of a track of an MP4 file."""
    whole = [(0, file.seek(0, 2))]
    for area in boxes_within(file, whole, (b"moov", b"trak")):
        if _track_number(file, area) != track:
            continue
        for table, stop in boxes_within(file, [area], (b"mdia", b"minf", b"stbl", b"stsd")):
            for _, entry, end in boxes_of(file, table + 8, stop):
                for aperture, _ in boxes_within(file, [(entry + _ENTRY, end)], (b"clap",)):
                    return _margins_of_aperture(file, entry, aperture)
    return _NONE


def _track_number(file: BinaryIO, area: tuple[int, int]) -> int:
    ((head, _),) = boxes_within(file, [area], (b"tkhd",))
    file.seek(head)
    # Version 1 has times of 8 bytes, not 4, before the number.
    file.seek(head + (20 if file.read(1)[0] else 12))
    return int.from_bytes(file.read(4))


def _margins_of_aperture(file: BinaryIO, entry: int, aperture: int) -> Margins:
    file.seek(entry)
    size = file.read(_ENTRY)[_SIZE]
    file.seek(aperture)
    data = file.read(32)
    # Width, height, and how far the center is from the middle: a numerator and denominator each.
    numbers = [int.from_bytes(data[at : at + 4], signed=at % 8 == 0) for at in range(0, 32, 4)]
    fractions = [Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    found: list[int] = []
    for axis in (0, 1):
        whole = int.from_bytes(size[2 * axis : 2 * axis + 2])
        center = Fraction(whole - 1, 2) + fractions[axis + 2]
        first = int(center - (fractions[axis] - 1) / 2)
        last = int(center + (fractions[axis] - 1) / 2)
        if not 0 <= first <= last < whole:
            return _NONE
        found += [first, whole - 1 - last]
    return found[0], found[2], found[1], found[3]


def _pixel_crop(file: BinaryIO, index: int) -> Margins:
    """Return the crop of a Matroska file's video track, counted from 0."""
    end = file.seek(0, 2)
    videos: list[Margins] = []
    for segment, *area in _elements(file, 0, end):
        if segment != _SEGMENT:
            continue
        for tracks, *inner in _elements(file, *area):
            if tracks == _CLUSTER:
                break
            if tracks != _TRACKS:
                continue
            for entry, *settings in _elements(file, *inner):
                if entry == _TRACK_ENTRY:
                    videos += _crop_of_entry(file, *settings)
    return videos[index]


def _crop_of_entry(file: BinaryIO, start: int, end: int) -> list[Margins]:
    """Return the crop of a track; nothing if it is no video."""
    is_video, crops = False, dict.fromkeys(_CROPS, 0)
    for kind, body, stop in _elements(file, start, end):
        if kind == _TRACK_TYPE:
            is_video = _number(file, body, stop) == _VIDEO_TYPE
        elif kind == _VIDEO_SETTINGS:
            for setting, value, after in _elements(file, body, stop):
                if setting in crops:
                    crops[setting] = _number(file, value, after)
    left, top, right, bottom = crops.values()
    return [(left, top, right, bottom)] if is_video else []


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of the body of each EBML element in a part of a file."""
    for _ in range(_MAX_ELEMENTS):
        if start >= end:
            return
        file.seek(start)
        head = file.read(12)
        length = _length(head[0])
        kind, after = int.from_bytes(head[:length]), length + _length(head[length])
        size = int.from_bytes(head[length:after])
        marker = 1 << 7 * (after - length)
        body = start + after
        # All bits are set where the size is not known.
        stop = end if size == 2 * marker - 1 else min(end, body + size - marker)
        yield kind, body, stop
        start = stop


def _length(first: int) -> int:
    """Return how many bytes a number of EBML has, from its first byte."""
    if not first:
        raise ValueError("it has more than 8 bytes")
    return 9 - first.bit_length()


def _number(file: BinaryIO, start: int, end: int) -> int:
    file.seek(start)
    return int.from_bytes(file.read(end - start)[:8])
