"""HEIC and AVIF pictures that FFmpeg does not put together: of tiles, cropped, or transparent.

FFmpeg opens a stream for each tile and for the transparency, and ignores the clean aperture.

Source: ISO/IEC 23008-12 (HEIF), and ISO/IEC 14496-12, section 8.11, for the items of a file.
"""

# PyAV's stubs leave the stream type of the packets that `encode` returns open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.codec.context import CodecContext
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.codeccontext import VideoCodecContext

from laser_dist.video.frames import SCALER_FLAGS, filtered
from laser_dist.video.signatures import boxes_of

_MAX_META = 1 << 20  # bytes of the box that describes the items
_MAX_TILES = 1024
# How an auxiliary picture says that it is the alpha plane: ISO/IEC 23000-22, and HEVC's own way.
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")


@dataclass(frozen=True)
class Grid:
    """How a picture is put together.

    Attributes:
      columns: tiles in a row.
      size: width and height of the picture, which the tiles may exceed at the right and bottom;
        None for those of a single tile.
      tiles: numbers of the items with the tiles, row by row.
      filters: FFmpeg's filters that crop, rotate and mirror the picture, with their options.
      alpha: number of the item with the alpha plane; None for an opaque picture.
    """

    columns: int
    size: tuple[int, int] | None
    tiles: tuple[int, ...]
    filters: tuple[tuple[str, str], ...]
    alpha: int | None = None

    @property
    def items(self) -> tuple[int, ...]:
        """Numbers of all items to decode."""
        return self.tiles if self.alpha is None else (*self.tiles, self.alpha)


def grid_of(file: BinaryIO) -> Grid | None:
    """Return the grid of a file whose primary picture is one, cropped or transparent; else None.

    There is none in an animated AVIF file, whose primary picture is only its first frame.

    Args:
      file: the file; its position changes.
    """
    file.seek(0)
    start = file.read(12)
    if start[4:8] != b"ftyp" or start[8:] == b"avis":
        return None
    for kind, start, end in boxes_of(file, 0, file.seek(0, 2)):
        if kind == b"meta" and end - start <= _MAX_META:
            file.seek(start)
            try:
                return _grid(file, file.read(end - start))
            except (ArithmeticError, IndexError, KeyError, ValueError):
                return None
    return None


def assembled(grid: Grid, tiles: Mapping[int, av.VideoFrame]) -> bytes:
    """Return the picture of a grid as PNG.

    Args:
      grid: the grid.
      tiles: what each item decodes to.

    Raises:
      KeyError: a tile is missing.
      FFmpegError: the tiles differ in size.
    """
    frames = [tiles[number] for number in grid.tiles]
    picture = _stacked(frames, grid.columns) if len(frames) > 1 else frames[0]
    is_deep = max(each.bits for each in picture.format.components) > 8
    form = "rgb48be" if is_deep else "rgb24"
    scale = ("scale", f"flags={SCALER_FLAGS}:out_range=pc")
    crop = [("crop", "{}:{}:0:0".format(*grid.size))] if grid.size else []
    rgb = filtered(picture, scale, ("format", form), *crop)
    if grid.alpha is not None:
        form = "rgba64be" if is_deep else "rgba"
        rgb = _with_alpha(rgb, tiles[grid.alpha], form)
    if grid.filters:
        rgb = filtered(rgb, *grid.filters)
    encoder = CodecContext.create("png", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = rgb.width, rgb.height, form
    encoder.time_base = Fraction(1)
    encoder.color_trc, encoder.color_primaries = picture.color_trc, picture.color_primaries
    encoder.options = {"compression_level": "1"}
    return b"".join(map(bytes, (*encoder.encode(rgb), *encoder.encode(None))))


def _with_alpha(rgb: av.VideoFrame, alpha: av.VideoFrame, form: str) -> av.VideoFrame:
    gray = "gray16be" if form == "rgba64be" else "gray"
    size = f"{rgb.width}:{rgb.height}:flags={SCALER_FLAGS}:out_range=pc"
    plane = filtered(alpha, ("scale", size), ("format", gray)).to_ndarray()
    pixels: Any = np.dstack([rgb.to_ndarray(), plane])
    return av.VideoFrame.from_ndarray(pixels, form)


def _stacked(frames: Sequence[av.VideoFrame], columns: int) -> av.VideoFrame:
    graph = Graph()
    graph.threads = 1
    rows = len(frames) // columns
    stack = graph.add("xstack", f"inputs={len(frames)}:grid={columns}x{rows}")
    entries: list[FilterContext] = []
    for number, frame in enumerate(frames):
        entry = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
            f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        entry.link_to(stack, 0, number)
        entries.append(entry)
    sink = graph.add("buffersink")
    stack.link_to(sink)
    graph.configure()
    for entry, frame in zip(entries, frames, strict=True):
        frame.pts = 0
        entry.push(frame)
    picture = sink.pull()
    assert isinstance(picture, av.VideoFrame)
    return picture


class _Reader:
    """Reads big-endian numbers one after the other."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def __call__(self, size: int) -> int:
        return int.from_bytes(self.bytes(size))

    def bytes(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError("the box is too short")
        return data


def _grid(file: BinaryIO, meta: bytes) -> Grid | None:
    """Return the grid that a `meta` box describes if its primary item is one."""
    parts = dict(_parts(meta[4:]))
    number = _primary_item(parts[b"pitm"])
    properties = _properties(parts[b"iprp"])
    filters = tuple(each for pair in properties.get(number, ()) for each in _filters_of(*pair))
    alpha = _alpha_of(parts, number, properties)
    if _item_type(parts[b"iinf"], number) != b"grid":
        is_cropped = any(name == "crop" for name, _ in filters)
        is_whole = alpha is None and not is_cropped
        return None if is_whole else Grid(1, None, (number,), filters, alpha)
    offset, size, in_meta = _location(parts[b"iloc"], number)
    if in_meta:
        data = parts[b"idat"][offset : offset + size]
    else:
        file.seek(offset)
        data = file.read(min(size, 64))
    read = _Reader(data)
    read(1)
    wide = 4 if read(1) & 1 else 2
    rows, columns = read(1) + 1, read(1) + 1
    width, height = read(wide), read(wide)
    tiles = _references(parts[b"iref"], number).get(b"dimg", ())
    if len(tiles) != rows * columns or not 0 < len(tiles) <= _MAX_TILES:
        return None
    return Grid(columns, (width, height), tiles, filters, alpha)


def _parts(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return type and body of the boxes in some data."""
    file = io.BytesIO(data)
    return [(kind, data[start:end]) for kind, start, end in boxes_of(file, 0, len(data))]


def _primary_item(body: bytes) -> int:
    read = _Reader(body)
    return read(4 if read(4) >> 24 else 2)


def _item_type(body: bytes, number: int) -> bytes:
    read = _Reader(body)
    entries = body[4 + (4 if read(4) >> 24 else 2) :]
    for _, entry in _parts(entries):
        read = _Reader(entry)
        if read(4 if read(4) >> 24 == 3 else 2) == number:
            read(2)
            return read.bytes(4)
    return b""


def _location(body: bytes, number: int) -> tuple[int, int, bool]:
    """Return position and size of the data of an item, and whether it is in the `idat` box."""
    read = _Reader(body)
    version = read(4) >> 24
    offset_size, length_size = divmod(read(1), 16)
    base_size, index_size = divmod(read(1), 16)
    for _ in range(read(2 if version < 2 else 4)):
        item = read(2 if version < 2 else 4)
        in_meta = bool(version and read(2) & 15)
        read(2)
        base, extents = read(base_size), list[tuple[int, int]]()
        for _ in range(read(2)):
            read(index_size if version else 0)
            extents.append((base + read(offset_size), read(length_size)))
        if item == number:
            return *extents[0], in_meta
    raise KeyError(number)


def _alpha_of(
    parts: Mapping[bytes, bytes], number: int, properties: Mapping[int, list[tuple[bytes, bytes]]]
) -> int | None:
    """Return the item with the alpha plane of an item.

    There is none for colors that are stored multiplied by it, nor for a plane of tiles.
    """
    body = parts.get(b"iref", bytes(4))
    if b"prem" in _references(body, number):
        return None
    for item, of_item in properties.items():
        kinds = {value[4:].split(b"\0")[0] for kind, value in of_item if kind == b"auxC"}
        is_alpha = kinds & {*_ALPHA} and number in _references(body, item).get(b"auxl", ())
        if is_alpha and _item_type(parts[b"iinf"], item) != b"grid":
            return item
    return None


def _references(body: bytes, number: int) -> dict[bytes, tuple[int, ...]]:
    """Return the items that an item refers to, by the type of reference."""
    wide = 4 if _Reader(body)(4) >> 24 else 2
    found: dict[bytes, tuple[int, ...]] = {}
    for kind, entry in _parts(body[4:]):
        read = _Reader(entry)
        if read(wide) == number:
            found[kind] = tuple(read(wide) for _ in range(read(2)))
    return found


def _properties(body: bytes) -> dict[int, list[tuple[bytes, bytes]]]:
    """Return type and body of the properties of each item, in their order."""
    parts = dict(_parts(body))
    known = _parts(parts[b"ipco"])
    read = _Reader(parts[b"ipma"])
    head = read(4)
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    for _ in range(read(4)):
        item = read(4 if head >> 24 else 2)
        for _ in range(read(1)):
            index = read(2) & 0x7FFF if head & 1 else read(1) & 0x7F
            if index:
                found.setdefault(item, []).append(known[index - 1])
    return found


def _filters_of(kind: bytes, body: bytes) -> list[tuple[str, str]]:
    if kind == b"irot":  # quarter turns, counterclockwise
        return [("transpose", "cclock")] * (body[0] & 3)
    if kind == b"imir":
        return [("hflip", "") if body[0] & 1 else ("vflip", "")]
    if kind == b"clap":
        numbers = [int.from_bytes(body[at : at + 4], signed=at >= 16) for at in range(0, 32, 4)]
        width, height, right, down = (
            top / bottom for top, bottom in zip(numbers[::2], numbers[1::2], strict=True)
        )
        position = f"(iw-{width:.0f})/2+{right}:(ih-{height:.0f})/2+{down}"
        return [("crop", f"{width:.0f}:{height:.0f}:{position}:exact=1")]
    return []
