"""VideoSet's folder layout: what a coded clip is called and where it lies.

`videoSRC001_1280x720_30/videoSRC001_1280x720_30_qp_22.264`: source 1, 1280x720, 30 frames per
second, coded at QP 22. QP 0 is the reference. A raw stream carries no timestamps: its frame rate is
the one in its name, where 24 stands for 24 and 30 for 30000/1001 frames per second.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath

# Seen in VideoSet's streams: sources "30" are coded at 30000/1001, sources "24" at 24 exactly.
FRAME_RATES = {24: Fraction(24), 30: Fraction(30000, 1001)}

CLIP_SUFFIXES = ("264", "mp4", "avi", "yuv")
"""Of the published streams, and of copies in other containers or decoded."""

_NAME = re.compile(
    r"videoSRC(?P<source>\d{3})_(?P<width>\d+)x(?P<height>\d+)_(?P<rate>24|30)"
    rf"_qp_(?P<qp>\d{{2}})\.(?P<suffix>{'|'.join(CLIP_SUFFIXES)})"
)


@dataclass(frozen=True, kw_only=True, order=True)
class ClipName:
    """What a coded clip's name says.

    Attributes:
      source_index: 1 and up, the SRC number.
      width: in pixels.
      height: in pixels.
      rate: 24 or 30, VideoSet's word for the frame rate.
      qp: quantizer index, 0 for the reference.
      suffix: of the file, without the dot.
    """

    source_index: int
    width: int
    height: int
    rate: int
    qp: int
    suffix: str = "264"

    @property
    def source_id(self) -> str:
        """Such as `videoSRC001`."""
        return videoset_source_id(self.source_index)

    @property
    def resolution(self) -> str:
        """Such as `1280x720`."""
        return f"{self.width}x{self.height}"

    @property
    def fps(self) -> Fraction:
        """Frames per second."""
        return FRAME_RATES[self.rate]

    @property
    def path(self) -> PurePosixPath:
        """Where VideoSet puts the clip, below its root."""
        folder = f"{self.source_id}_{self.resolution}_{self.rate}"
        return PurePosixPath(folder) / f"{folder}_qp_{self.qp:02d}.{self.suffix}"


def videoset_source_id(source_index: int) -> str:
    """Such as `videoSRC001` for 1."""
    return f"videoSRC{source_index:03d}"


def parse_clip_name(file_name: str) -> ClipName | None:
    """Reads a file's name (no folders); None where it is not a VideoSet clip's."""
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
