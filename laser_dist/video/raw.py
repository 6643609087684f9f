"""Raw video: planes one after the other, with no header that says what they are."""

from fractions import Fraction

import numpy as np

from laser_dist.video.containers import VideoError
from laser_dist.video.frames import Clip


def read_yuv420p(content: bytes, *, width: int, height: int, fps: Fraction) -> Clip:
    """The clip of a raw 8-bit 4:2:0 file (y, u, v of each frame), taken as BT.709 limited.

    Args:
      content: of the file.
      width: in pixels, even.
      height: in pixels, even.
      fps: frames per second.

    Returns:
      The clip; its planes are views of `content`.

    Raises:
      VideoError: no frame, or a last one that is cut.
    """
    luma, chroma = width * height, (width // 2) * (height // 2)
    frame_bytes = luma + 2 * chroma
    num_frames, rest = divmod(len(content), frame_bytes)
    if rest or not num_frames:
        raise VideoError(
            f"read {len(content)} bytes of raw video",
            f"whole frames of {frame_bytes} bytes ({width}x{height}, 4:2:0)",
            f"{num_frames} and {rest} bytes",
            "Fetch the clip again.",
        )
    frames = np.frombuffer(content, np.uint8).reshape(num_frames, frame_bytes)
    y, u, v = np.split(frames, [luma, luma + chroma], axis=1)
    chroma_shape = (num_frames, height // 2, width // 2)
    return Clip(
        y.reshape(num_frames, height, width),
        u.reshape(chroma_shape),
        v.reshape(chroma_shape),
        tuple(index / fps for index in range(num_frames)),
        fps,
    )
