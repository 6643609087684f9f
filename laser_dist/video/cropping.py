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
from laser_dist.video.signatures import boxes_of

Margins = tuple[int, int, int, int]
"""Pixels that are not shown: at the left, top, right and bottom of a frame as it is encoded."""

_Area = tuple[int, int]
_NONE: Margins = (0, 0, 0, 0)
_ENTRY = 78  # bytes of a video sample entry, before the boxes in it
_SIZE = slice(24, 28)  # of it: width and height, 2 bytes each
# RFC 9559: Segment, Tracks, and a track's entry, its type, its video settings and their crop.
_SEGMENT, _TRACKS, _CLUSTER, _TRACK_ENTRY = 0x18538067, 0x1654AE6B, 0x1F43B675, 0xAE
_TRACK_TYPE, _VIDEO_SETTINGS = 0x83, 0xE0
_VIDEO_TYPE = 1
_CROPS = (0x54CC, 0x54BB, 0x54DD, 0x54AA)  # left, top, right, bottom
_MAX_STEPS = 10_000  # most headers that are read of a file


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
            return _clean_aperture(_Boxes(file), stream.id)
        return _pixel_crop(_Elements(file), container.streams.video.index(stream))
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


class _Boxes:
    """The boxes of an MP4 file, of which a limited number is read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._left = _MAX_STEPS

    def all(self, area: _Area, kind: bytes | None = None) -> Iterator[_Area]:
        """Yield the bodies of the boxes of a type, or of all, in a part of the file."""
        for found, start, end in boxes_of(self.file, *area):
            self._left = _spent(self._left)
            if kind in (found, None):
                yield start, end

    def first(self, area: _Area, *path: bytes) -> _Area | None:
        """Return the body of the first box at a path of types."""
        for kind in path:
            found = next(self.all(area, kind), None)
            if found is None:
                return None
            area = found
        return area


def _clean_aperture(boxes: _Boxes, track: int) -> Margins:
    """Return the margins around the clean aperture of a track of an MP4 file."""
    movie = boxes.first((0, boxes.file.seek(0, 2)), b"moov")
    for area in boxes.all(movie, b"trak") if movie else ():
        if _track_number(boxes, area) != track:
            continue
        table = boxes.first(area, b"mdia", b"minf", b"stbl", b"stsd")
        entries = boxes.all((table[0] + 8, table[1])) if table else iter(())
        for entry, end in entries:
            if aperture := boxes.first((entry + _ENTRY, end), b"clap"):
                return _margins_of_aperture(boxes.file, entry, aperture[0])
    return _NONE


def _track_number(boxes: _Boxes, area: _Area) -> int | None:
    head = boxes.first(area, b"tkhd")
    if head is None:
        return None
    boxes.file.seek(head[0])
    # Version 1 has times of 8 bytes, not 4, before the number.
    boxes.file.seek(head[0] + (20 if boxes.file.read(1)[0] else 12))
    return int.from_bytes(boxes.file.read(4))


def _spent(left: int) -> int:
    """Return how many headers may still be read after one more.

    Raises:
      ValueError: none may be.
    """
    if not left:
        raise ValueError(f"it has more than {_MAX_STEPS} parts")
    return left - 1


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


class _Elements:
    """The EBML elements of a Matroska file, of which a limited number is read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._left = _MAX_STEPS

    def all(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, start and end of the body of each element in a part of the file."""
        while start < end:
            self._left = _spent(self._left)
            self.file.seek(start)
            head = self.file.read(12)
            length = _length(head[0])
            kind, after = int.from_bytes(head[:length]), length + _length(head[length])
            size = int.from_bytes(head[length:after])
            marker = 1 << 7 * (after - length)
            body = start + after
            # All bits are set where the size is not known.
            stop = end if size == 2 * marker - 1 else min(end, body + size - marker)
            yield kind, body, stop
            start = stop

    def first(self, kind: int, start: int, end: int, before: int = 0) -> _Area | None:
        """Return the body of the first element of a type; None after one of the type `before`."""
        for found, body, stop in self.all(start, end):
            if found == kind:
                return body, stop
            if found == before:
                return None
        return None

    def number(self, start: int, end: int) -> int:
        """Return the value of an element; those of more than 8 bytes are not numbers."""
        self.file.seek(start)
        return int.from_bytes(self.file.read(end - start)) if end - start <= 8 else 0


def _pixel_crop(elements: _Elements, index: int) -> Margins:
    """Return the crop of a Matroska file's video track, counted from 0."""
    segment = elements.first(_SEGMENT, 0, elements.file.seek(0, 2))
    tracks = elements.first(_TRACKS, *segment, before=_CLUSTER) if segment else None
    for kind, *settings in elements.all(*tracks) if tracks else ():
        crop = _crop_of_entry(elements, *settings) if kind == _TRACK_ENTRY else None
        if crop is not None:
            if not index:
                return crop
            index -= 1
    return _NONE


def _crop_of_entry(elements: _Elements, start: int, end: int) -> Margins | None:
    """Return the crop of a track; None if it is no video."""
    is_video, crops = False, dict.fromkeys(_CROPS, 0)
    for kind, body, stop in elements.all(start, end):
        if kind == _TRACK_TYPE:
            is_video = elements.number(body, stop) == _VIDEO_TYPE
        elif kind == _VIDEO_SETTINGS:
            for setting, value, after in elements.all(body, stop):
                if setting in crops:
                    crops[setting] = elements.number(value, after)
    left, top, right, bottom = crops.values()
    return (left, top, right, bottom) if is_video else None


def _length(first: int) -> int:
    """Return how many bytes a number of EBML has, from its first byte."""
    if not first:
        raise ValueError("it has more than 8 bytes")
    return 9 - first.bit_length()
