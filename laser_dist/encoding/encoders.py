"""The encoders x264, x265 and SVT-AV1, and how each takes a quantizer for each scene.

They run in this process, from the libraries in PyAV's wheel.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from laser_dist.errors import UserError, nearest
from laser_dist.video.codec import VIDEOSET, x264_options

QP, CRF = "QP", "CRF"
_SHIFT_OF_10_BITS = 12  # 6 for each bit above 8, so that a QP has the same step of the range


@dataclass(frozen=True, kw_only=True)
class Codec:
    """An encoder.

    Attributes:
      library: FFmpeg's name.
      presets: its presets, or the range of them, for messages.
      default_preset: preset unless another is given; None for VideoSet's settings.
      coarsest: largest CRF.
      params: name of FFmpeg's option for the encoder's own options.
      has_zones: whether it takes a quantizer per zone. Another one encodes each scene separately.
      tag: name of the format in FFmpeg's `-c:v`, if players want another one in MP4.
    """

    library: str
    default_preset: str | None
    presets: tuple[str, ...]
    coarsest: int
    params: str
    has_zones: bool
    tag: str | None = None


_X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
)  # fmt: skip

CODECS = {
    "x264": Codec(
        library="libx264",
        default_preset=None,
        presets=_X26X_PRESETS,
        coarsest=51,
        params="x264-params",
        has_zones=True,
    ),
    "x265": Codec(
        library="libx265",
        default_preset="medium",
        presets=_X26X_PRESETS,
        coarsest=51,
        params="x265-params",
        has_zones=True,
        tag="hvc1",  # players of Apple do not take hev1
    ),
    "svtav1": Codec(
        library="libsvtav1",
        default_preset="8",
        presets=tuple(map(str, range(14))),
        coarsest=63,
        params="svtav1-params",
        has_zones=False,
    ),
}
"""The encoders by the names that people use."""


def quiet_encoders() -> None:
    """Keep SVT-AV1 from writing its settings to standard error; errors still appear."""
    os.environ.setdefault("SVT_LOG", "1")


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """An encoder and how it is to encode.

    Attributes:
      codec: key of `CODECS`.
      preset: preset of the encoder; None for x264 at VideoSet's settings, the ones that the levels
        were measured at, with the same QP for all frames.
      options: further options of the encoder, by its own names.

    Raises:
      UserError: the codec or the preset is unknown.
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

    @property
    def rate(self) -> str:
        """What the quantizers of the scenes are: `QP` or `CRF`."""
        return QP if self.preset is None else CRF

    def encoder_options(
        self, values: Sequence[tuple[range, float]], *, is_deep: bool = False
    ) -> dict[str, str]:
        """Return the options of FFmpeg's encoder.

        Args:
          values: frames and quantizer of each scene, in order, without gaps; one scene only for an
            encoder without zones.
          is_deep: whether the frames have 10 bits, which moves the QP scale of x264 by 12.
        """
        codec = CODECS[self.codec]
        base = values[0][1]
        if self.preset is None:
            # The zones of x264 change nothing in its mode for a constant QP, which clips QPs to it.
            # With equal factors for I and B frames and without adaptive quantization, a zone sets
            # the QP of all its frames in the mode for CRF, too, and the pictures are the same.
            shift = _SHIFT_OF_10_BITS if is_deep else 0
            zones = [
                f"{frames.start},{frames.stop - 1},q={round(value) + shift}"
                for frames, value in values
            ]
            own = {**x264_options(VIDEOSET), "crf": f"{base:g}", "zones": "/".join(zones)}
            options = {"forced-idr": "1"}
        else:
            options = {"preset": self.preset, "crf": f"{base:g}", "forced-idr": "1"}
            own = {}
            # A zone divides the step of the quantizer, which doubles every 6 QP.
            zones = [
                f"{frames.start},{frames.stop - 1},b={2 ** ((base - value) / 6):.4f}"
                for frames, value in values[1:]
            ]
            if zones:
                own["zones"] = "/".join(zones)
        if self.codec == "x265":
            own["log-level"] = "error"
        own |= self.options
        if own:
            options[codec.params] = ":".join(f"{key}={value}" for key, value in own.items())
        return options
