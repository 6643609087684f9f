"""VideoSet's folder layout: names and paths of encoded clips.

`videoSRC001_1280x720_30/videoSRC001_1280x720_30_qp_22.264`: source 1, 1280x720, 30 frames per
second, encoded at QP 22. QP 0 is the reference. A raw stream has no timestamps; its frame rate is
in its name, where 24 means 24 and 30 means 30000/1001 frames per second.

The sources were cut from 11 films, in order. The films and their numbers of sources are those of
Wang et al. 2017 (arXiv 1701.01500); that SRC numbers follow the order of the films is inferred: the
numbers give exactly the ranges of sources with 24 frames per second.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import PurePosixPath

# In VideoSet's streams, sources "30" have 30000/1001 frames per second, sources "24" exactly 24.
FRAME_RATES = {24: Fraction(24), 30: Fraction(30000, 1001)}

CLIP_SUFFIXES = ("264", "mp4", "avi", "yuv")
"""File suffixes of the published streams and of copies, remuxed or decoded."""

FILMS = {
    "El Fuente": 31,
    "Chimera": 59,
    "Ancient Thought": 11,
    "Eldorado": 14,
    "Indoor Soccer": 5,
    "Life Untouched": 15,
    "Lifting Off": 13,
    "Moment of Intensity": 10,
    "Skateboarding": 9,
    "Unspoken Friend": 13,
    "Tears of Steel": 40,
}
"""Number of sources of each film, in the order of their SRC numbers."""
_FILM_ENDS = tuple(accumulate(FILMS.values()))

_NAME = re.compile(
    r"videoSRC(?P<source>\d{3})_(?P<width>\d+)x(?P<height>\d+)_(?P<rate>24|30)"
    rf"_qp_(?P<qp>\d{{2}})\.(?P<suffix>{'|'.join(CLIP_SUFFIXES)})"
)


@dataclass(frozen=True, kw_only=True, order=True)
class ClipName:
    """The parts of an encoded clip's name.

    Attributes:
      source_index: the SRC number, 1 or more.
      width: in pixels.
      height: in pixels.
      rate: 24 or 30, VideoSet's name for the frame rate.
      qp: quantizer index, 0 for the reference.
      suffix: file suffix without the dot.
    """

    source_index: int
    width: int
    height: int
    rate: int
    qp: int
    suffix: str = "264"

    @property
    def source_id(self) -> str:
        """Source id, such as `videoSRC001`."""
        return videoset_source_id(self.source_index)

    @property
    def resolution(self) -> str:
        """Resolution, such as `1280x720`."""
        return f"{self.width}x{self.height}"

    @property
    def fps(self) -> Fraction:
        """Frames per second."""
        return FRAME_RATES[self.rate]

    @property
    def path(self) -> PurePosixPath:
        """Path of the clip below the dataset's root."""
        folder = f"{self.source_id}_{self.resolution}_{self.rate}"
        return PurePosixPath(folder) / f"{folder}_qp_{self.qp:02d}.{self.suffix}"


def videoset_source_id(source_index: int) -> str:
    """Return the source id, such as `videoSRC001` for 1."""
    return f"videoSRC{source_index:03d}"


def film_of(source_index: int) -> str | None:
    """Return the film of a source by its SRC number, from 1; None above VideoSet's last."""
    film = bisect_left(_FILM_ENDS, source_index)
    return list(FILMS)[film] if film < len(FILMS) else None


def parse_clip_name(file_name: str) -> ClipName | None:
    """Parse a file name without folders; None if it is not a clip of VideoSet."""
    match = _NAME.fullmatch(file_name)
    if match is None:
        return None
    return ClipName(
        source_index=int(match["source"]),
        width=int(match["width"]),
        height=int(match["height"]),
        rate=int(match["rate"]),
        qp=int(match["qp"]),
        suffix=match["suffix"],
    )
