"""The QPs that a video was encoded with, read from its stream."""

import struct
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

from laser_dist.video.containers import Damage, damaged, name_of, open_video
from laser_dist.video.packets import decode_frames

# FFmpeg's libavutil/video_enc_params.h, AVVideoEncParams: the number, offset and size of blocks,
# the type, and the QP that those of the blocks are added to; the compiler aligns them as `@` does.
_FRAME = struct.Struct("@INNii")
_DELTA = np.dtype({"names": ["qp"], "formats": ["=i4"], "offsets": [16], "itemsize": 20})


def coded_qps(source: bytes | Path) -> NDArray[np.float32] | None:
    """Return the QP of each frame of a video in 8-bit H.264.

    All frames are decoded. FFmpeg's decoder exports the QP of each macroblock, which differs within
    a frame of most encoders. A skipped macroblock has the QP of the one before.

    Args:
      source: content or path of a file.

    Returns:
      [T] mean QP over the macroblocks of each frame, in [0, 51], in the order of display; higher is
      coarser. None for another codec, or more than 8 bits, where the scale is another one.

    Raises:
      VideoError: the file is missing, not a readable video, or has no frame that decodes.
    """
    name, damage = name_of(source), Damage()
    with open_video(source, name, damage) as (container, stream):
        decoder = stream.codec_context
        pixels = decoder.format
        if decoder.name != "h264" or pixels is None or pixels.components[0].bits != 8:
            return None
        decoder.options = {**decoder.options, "export_side_data": "venc_params"}
        found = [_mean_qp(frame) for frame in decode_frames(container, stream, name, damage)]
    if not found:
        raise damaged(name, "it has no frames")
    return np.array(found, np.float32)


def _mean_qp(frame: av.VideoFrame) -> float:
    side_data = cast(SideDataContainer, frame.side_data)  # the stub of `side_data` lacks this key
    data = bytes(side_data["VIDEO_ENC_PARAMS"])
    num_blocks, offset, size, _, qp = _FRAME.unpack_from(data)
    assert size == _DELTA.itemsize, f"FFmpeg's AVVideoBlockParams has {size} bytes"
    deltas = np.frombuffer(data, _DELTA, num_blocks, offset)["qp"]
    return qp + float(deltas.mean())
