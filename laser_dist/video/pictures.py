"""What a viewer sees of a decoded frame on an SDR screen: one progressive, opaque picture."""

from fractions import Fraction

import av
import numpy as np

from laser_dist.video.frames import (
    SCALER_FLAGS,
    Clip,
    UInt8Array,
    all_filtered,
    display_matrix,
    filtered,
    is_sideways,
    specify_matrix,
    turned,
    upright_color,
    upright_planes,
)
from laser_dist.video.tone_mapping import sdr_of

# FFmpeg's AVColorTransferCharacteristic: SMPTE ST 2084, and ARIB STD-B67.
_HDR = {16: "PQ", 18: "HLG"}
_MAX_16_BITS = 65535
_WHITE = 255


def hdr_of(frame: av.VideoFrame) -> str:
    """Return "PQ" or "HLG" for a frame of high dynamic range; nothing for any other."""
    return _HDR.get(frame.color_trc, "")


def seen_rgb(
    frame: av.VideoFrame,
    *,
    before: av.VideoFrame | None = None,
    after: av.VideoFrame | None = None,
    codec: str,
    is_still: bool,
    width: int,
    height: int,
) -> UInt8Array:
    """Return what a viewer sees of a decoded frame on an SDR screen.

    It is deinterlaced, tone-mapped from HDR, laid over white and turned upright, where needed.

    Args:
      frame: a frame as decoded.
      before: the frame before it, for deinterlacing; None at the start.
      after: the frame after it; None at the end.
      codec: FFmpeg's name of the decoder.
      is_still: whether the frame is a still image.
      width: columns of the result.
      height: rows of the result.

    Returns:
      [height, width, 3] uint8, full range, resized as by `Clip.rgb`.
    """
    matrix = display_matrix(frame)
    if frame.interlaced_frame:
        frame = deinterlaced(frame, before=before, after=after)
    if hdr_of(frame):
        size = (height, width) if is_sideways(matrix) else (width, height)
        return np.ascontiguousarray(turned(tone_mapped(frame, *size), matrix))
    frame = opaque(frame)
    color = upright_color(frame, matrix, codec=codec, is_still=is_still)
    planes = upright_planes(frame, color, matrix)
    clip = Clip.from_planes([planes], [Fraction(0)], Fraction(1), color)
    return clip.rgb(0, width=width, height=height)


def deinterlaced(
    frame: av.VideoFrame, *, before: av.VideoFrame | None, after: av.VideoFrame | None
) -> av.VideoFrame:
    """Return the first field of an interlaced frame as a picture, by FFmpeg's filter `bwdif`.

    The other rows are interpolated from the rows around them and from the frames before and after.
    """
    kind = (frame.width, frame.height, frame.format.name)
    frames = [
        each
        for each in (before, frame, after)
        if each is not None and (each.width, each.height, each.format.name) == kind
    ]
    return all_filtered(frames, ("bwdif", "mode=send_frame"))[frames.index(frame)]


def tone_mapped(frame: av.VideoFrame, width: int, height: int) -> UInt8Array:
    """Return a PQ or HLG frame in SDR, [height, width, 3] uint8, full range; see `sdr_of`.

    It is resized first. FFmpeg's own conversion, `scale` with other transfer functions, takes 25 s
    before the first frame (FFmpeg 8.1), and `zscale` is missing in PyAV's wheel.
    """
    matrix = "" if frame.format.is_rgb else ":in_color_matrix=bt2020"
    size = f"{width}:{height}:out_range=pc:flags={SCALER_FLAGS}"
    scaled = filtered(frame, ("scale", size + matrix), ("format", "rgb48le"))
    signal = scaled.to_ndarray() / _MAX_16_BITS
    return np.rint(sdr_of(signal, hdr_of(frame)) * 255).astype(np.uint8)


def opaque(frame: av.VideoFrame) -> av.VideoFrame:
    """Return a frame laid over white, as RGB; the frame itself if no pixel is transparent."""
    format = frame.format
    if not (format.has_palette or any(component.is_alpha for component in format.components)):
        return frame
    specify_matrix(frame)
    rgba = frame.reformat(format="rgba", interpolation=SCALER_FLAGS, threads=1).to_ndarray()
    alpha = rgba[..., 3:] / np.float32(255)
    if alpha.min() == 1:
        return frame
    over = rgba[..., :3] * alpha + _WHITE * (1 - alpha)
    return av.VideoFrame.from_ndarray(np.rint(over).astype(np.uint8), "rgb24")
