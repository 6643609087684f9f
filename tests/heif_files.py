"""HEIF files made in code: AVIF images of tiles, with the properties that cameras add."""

import io
import struct

import numpy as np
from PIL import Image


def box(kind, *parts):
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind, *parts, version=0, flags=0):
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def av1_of(rgb):
    """Return the AV1 picture of an image, and the box that configures its decoder."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(file, "AVIF", quality=95, subsampling="4:4:4")
    content = file.getvalue()
    start = content.index(b"av1C") - 4
    size = int.from_bytes(content[start : start + 4])
    return content[content.index(b"mdat") + 4 :], content[start : start + size]


def grid_image(rgb, *, rows, columns, tile, properties=(), in_meta=True, kind=b"grid", primary=1):
    """Return an AVIF image of tiles.

    Args:
      rgb: [H, W, 3] uint8, the picture; tiles that reach beyond it repeat its edge.
      rows: rows of tiles.
      columns: columns of tiles.
      tile: size of a square tile in pixels.
      properties: boxes of transformations of the picture, in order.
      in_meta: whether the description of the grid is among the metadata, as phones write it.
      kind: type of the derived item.
      primary: number of the item that is the picture: 1 for the grid, 2 for its first tile.

    Source: ISO/IEC 23008-12, sections 6.6.2.3 (grid), 6.5 (properties), and ISO/IEC 14496-12,
    section 8.11 (items).
    """
    height, width = rgb.shape[:2]
    edge = ((0, rows * tile - height), (0, columns * tile - width), (0, 0))
    padded = np.pad(rgb, edge, "edge")
    tiles = [
        av1_of(padded[y : y + tile, x : x + tile])
        for y in range(0, rows * tile, tile)
        for x in range(0, columns * tile, tile)
    ]
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    datas = [grid, *(data for data, _ in tiles)]
    ids = range(1, len(datas) + 1)
    sizes = [(width, height)] + [(tile, tile)] * len(tiles)
    own = [full_box(b"ispe", struct.pack(">II", *size)) for size in (sizes[0], sizes[1])]
    shared = [*own, tiles[0][1], *properties]
    extra = [0x80 | (4 + index) for index in range(len(properties))]
    associated = [[1]] + [[2, 0x80 | 3]] * len(tiles)
    associated[primary - 1] = [*associated[primary - 1], *extra]

    def meta(offsets):
        infos = [
            full_box(b"infe", struct.pack(">HH", each, 0), kind if each == 1 else b"av01",
                     b"\0", version=2, flags=int(each > 1))
            for each in ids
        ]  # fmt: skip
        places = [
            struct.pack(">HHHHII", each, int(in_meta and each == 1), 0, 1, offset, len(data))
            for each, offset, data in zip(ids, offsets, datas, strict=True)
        ]
        references = box(b"dimg", struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *ids[1:]))
        links = [
            struct.pack(">HB", each, len(found)) + bytes(found)
            for each, found in zip(ids, associated, strict=True)
        ]
        return full_box(
            b"meta",
            full_box(b"hdlr", struct.pack(">I4s12sB", 0, b"pict", b"", 0)),
            full_box(b"pitm", struct.pack(">H", primary)),
            full_box(b"iloc", struct.pack(">HH", 0x4400, len(datas)), *places, version=1),
            box(b"idat", grid),
            full_box(b"iinf", struct.pack(">H", len(datas)), *infos),
            full_box(b"iref", references),
            box(b"iprp", box(b"ipco", *shared),
                full_box(b"ipma", struct.pack(">I", len(datas)), *links)),
        )  # fmt: skip

    start = box(b"ftyp", b"avif", struct.pack(">I", 0), b"avifmif1miaf")
    first = len(start) + len(meta([0] * len(datas))) + 8
    offsets = [first + sum(map(len, datas[:index])) for index in range(len(datas))]
    offsets[0] *= not in_meta
    return start + meta(offsets) + box(b"mdat", *datas)
