"""The encoders x264, x265 and SVT-AV1, and their options for a quantizer.

They run in this process, from the libraries in PyAV's wheel.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from laser_dist.errors import UserError, nearest
from laser_dist.video.codec import VIDEOSET, x264_options

QP, CRF = "QP", "CRF"
_SHIFT_OF_10_BITS = 12  # 6 for each bit above 8, so that a QP has the same step of the range


RATE_OPTIONS = frozenset(
    ("qp", "q", "crf", "bitrate", "tbr", "rc", "pass", "passes", "lossless", "qpfile", "zones")
)
"""The encoders' own options that set quantizers; those of a scene are planned."""

MIN_SIDE = 64
"""Least side of frames: x265 writes past its memory if one is smaller than its largest block."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """An encoder.

    Attributes:
      library: FFmpeg's name.
      presets: its presets, or the range of them, for messages.
      default_preset: preset unless another is given; None for VideoSet's settings.
      coarsest: largest CRF.
      num_excerpts: number of excerpts of a clip that it is matched with. The error falls with it.
        SVT-AV1 is fast: by calculation, a second excerpt would make prediction and matching cost
        over a quarter of a search with four probes.
      params: name of FFmpeg's option for the encoder's own options.
      tag: name of the format in FFmpeg's `-c:v`, if players want another one in MP4.
      min_side: least width and height in pixels.
    """

    library: str
    default_preset: str | None
    presets: tuple[str, ...]
    coarsest: int
    num_excerpts: int
    params: str
    tag: str | None = None
    min_side: int = MIN_SIDE


_X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
)  # fmt: skip

CODECS = {
    "x264": Codec(
        library="libx264",
        default_preset=None,
        presets=_X26X_PRESETS,
        coarsest=51,
        num_excerpts=3,
        params="x264-params",
        min_side=16,
    ),
    "x265": Codec(
        library="libx265",
        default_preset="medium",
        presets=_X26X_PRESETS,
        coarsest=51,
        num_excerpts=3,
        params="x265-params",
        tag="hvc1",  # players of Apple do not take hev1
    ),
    "svtav1": Codec(
        library="libsvtav1",
        default_preset="8",
        presets=tuple(map(str, range(14))),
        coarsest=63,
        num_excerpts=1,
        params="svtav1-params",
    ),
}
"""The encoders by the names that people use."""


def quiet_encoders() -> None:
    """Keep SVT-AV1 from writing its settings to standard error; errors still appear."""
    os.environ.setdefault("SVT_LOG", "1")


@contextmanager
def usual_priority() -> Iterator[None]:
    """Restore the scheduling of this thread after the block.

    As root, SVT-AV1 gives real-time priority to the thread that opens it, and so to all threads and
    processes that this thread starts later. Two such processes can keep each other from running.
    """
    if not hasattr(os, "sched_getscheduler"):  # macOS
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """An encoder and how it is to encode.

    Attributes:
      codec: key of `CODECS`.
      preset: preset of the encoder; None for x264 at VideoSet's settings, the ones that the levels
        were measured at, with the same QP for all frames.
      options: further options of the encoder, by its own names.

    Raises:
      UserError: the codec or the preset is unknown, or an option sets the quantizers.
    """

    codec: str = "x264"
    preset: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = CODECS.get(self.codec)
        if known is None:
            raise UserError(f"There is no codec {self.codec}.", hint=nearest(self.codec, CODECS))
        if self.preset is None:
            object.__setattr__(self, "preset", known.default_preset)
        elif self.preset not in known.presets:
            raise UserError(
                f"{self.codec} has no preset {self.preset}.",
                hint=f"Its presets are {', '.join(known.presets)}.",
            )
        if own := next((name for name in self.options if name.lower() in RATE_OPTIONS), None):
            raise UserError(
                f"--encoder-options sets {own}, and the quantizers follow from the levels.",
                hint="Use --margin.",
            )

    @property
    def fits_webm(self) -> bool:
        """Whether a WebM file can hold the video."""
        return self.codec == "svtav1"

    @property
    def rate(self) -> str:
        """What the quantizers of the scenes are: `QP` or `CRF`."""
        return QP if self.preset is None else CRF

    def encoder_options(self, quantizer: float, *, is_deep: bool = False) -> dict[str, str]:
        """Return the options of FFmpeg's encoder.

        Args:
          quantizer: QP or CRF, see `rate`.
          is_deep: whether the frames have 10 bits, which moves the QP scale of x264 by 12.
        """
        if self.preset is None:
            qp = round(quantizer) + (_SHIFT_OF_10_BITS if is_deep else 0)
            options, own = {}, {**x264_options(VIDEOSET), "qp": str(qp)}
        else:
            options, own = {"preset": self.preset, "crf": f"{quantizer:g}"}, {}
        if self.codec == "x264":
            own["stitchable"] = "1"  # the headers do not depend on the quantizer
        if self.codec == "x265":
            own["log-level"] = "error"
            own["info"] = "0"  # its options, the quantizer too, would be among the headers
        own |= self.options
        if own:
            name = CODECS[self.codec].params
            options[name] = ":".join(f"{key}={value}" for key, value in own.items())
        return options
