"""What FFmpeg does not say about a file, but its first bytes and its boxes do."""

from collections.abc import Iterator
from typing import BinaryIO

_NO_DECODER = "laser-jnd has no decoder for {}"
_SOUND = "it has sound, but no picture"
_SIGNATURES = (
    (0, b"\xff\x0a", _NO_DECODER.format("JPEG XL")),
    (4, b"JXL \r\n\x87\n", _NO_DECODER.format("JPEG XL")),
    (0, b"8BPS", _NO_DECODER.format("Photoshop files")),
    (0, b"%PDF", _NO_DECODER.format("PDF")),
    (0, b"ID3", _SOUND),
    (0, b"fLaC", _SOUND),
    (8, b"WAVE", _SOUND),
)
ENCRYPTED = ("encv", "drmi")
"""What takes the place of a codec's name: by ISO/IEC 23001-7, and by Apple's FairPlay."""

_HEADER = 8  # bytes of a box: its size and its type
_MAX_BOXES = 1000
# ISO/IEC 14496-12: from the file down to the descriptions of the samples of a track.
_TO_SAMPLE_ENTRIES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")


def problem_of(file: BinaryIO) -> str | None:
    """Return why a file has no picture to decode, such as "it is encrypted"; None if unknown.

    Args:
      file: the file; its position changes.
    """
    file.seek(0)
    start = file.read(16)
    for position, signature, problem in _SIGNATURES:
        if start[position:].startswith(signature):
            return problem
    boxes = {kind for kind, _, _ in boxes_of(file, 0, file.seek(0, 2))}
    if b"mdat" in boxes and not boxes & {b"moov", b"meta"}:
        return "it is truncated: the index at its end is missing"
    return "it is encrypted" if any(tag in ENCRYPTED for tag in codec_tags(file)) else None


def is_photograph(file: BinaryIO) -> bool:
    """Return whether a JPEG file starts with what a camera writes: EXIF, or a list of pictures.

    Args:
      file: the file; its position changes.
    """
    file.seek(0)
    start = file.read(1 << 16)
    # JPEG's application segments 1 and 2: EXIF, and CIPA DC-007 (Multi-Picture Format).
    return start.startswith(b"\xff\xd8") and (b"Exif\0\0" in start or b"MPF\0" in start)


def codec_tags(file: BinaryIO) -> list[str]:
    """Return what an MP4 file calls its codecs, such as "avc1"; nothing for any other file.

    Args:
      file: the file; its position changes.
    """
    areas = [(0, file.seek(0, 2))]
    for wanted in _TO_SAMPLE_ENTRIES:
        areas = [
            (start, end)
            for area in areas
            for kind, start, end in boxes_of(file, *area)
            if kind == wanted
        ]
    # The body of `stsd` starts with version, flags and the number of entries.
    entries = {kind for start, end in areas for kind, _, _ in boxes_of(file, start + 8, end)}
    return sorted(kind.decode("latin-1") for kind in entries)


def boxes_of(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the body of each box in a part of a file."""
    for _ in range(_MAX_BOXES):
        if start + _HEADER > end:
            return
        file.seek(start)
        header = file.read(2 * _HEADER)
        size, body = int.from_bytes(header[:4]), start + _HEADER
        if size == 1:  # the size follows in 64 bits
            size, body = int.from_bytes(header[_HEADER:]), body + _HEADER
        stop = min(end, start + size) if size else end
        if stop < body:
            return
        yield header[4:_HEADER], body, stop
        start = stop
