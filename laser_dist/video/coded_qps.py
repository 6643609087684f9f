"""The QPs that a video was encoded with, read from its stream."""

import struct
from bisect import bisect_left
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

from laser_dist.video.containers import Damage, damaged, name_of, open_video
from laser_dist.video.packets import (
    PacketTimes,
    decode_frames,
    decode_frames_at,
    scan_packets,
)

_GROUPS = 8  # of pictures, that frames are read from

# FFmpeg's libavutil/video_enc_params.h, AVVideoEncParams: the number, offset and size of blocks,
# the type, and the QP that those of the blocks are added to; the compiler aligns them as `@` does.
_FRAME = struct.Struct("@INNii")
_DELTA = np.dtype({"names": ["qp"], "formats": ["=i4"], "offsets": [16], "itemsize": 20})


def coded_qps(source: bytes | Path, *, num_frames: int | None = None) -> NDArray[np.float32] | None:
    """Return the QP of each frame of a video in 8-bit H.264.

    FFmpeg's decoder exports the QP of each macroblock, which differs within a frame of most
    encoders. A skipped macroblock has the QP of the one before.

    Args:
      source: content or path of a file.
      num_frames: read about this many frames, at least 1: the first ones of up to `_GROUPS` groups
        of pictures, evenly over the clip. None for all frames, which are also read where the
        container cannot seek exactly.

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
        packets = num_frames and scan_packets(container, stream, name, damage)
    with open_video(source, name, damage) as (container, stream):
        decoder = stream.codec_context
        decoder.options = {**decoder.options, "export_side_data": "venc_params"}
        if num_frames and packets and packets.key_times:
            times = _starts_of_groups(packets, num_frames)
            frames = decode_frames_at(container, stream, times, packets, damage)
        else:
            frames = decode_frames(container, stream, name, damage)
        found = [_mean_qp(frame) for frame in frames]
    if not found:
        raise damaged(name, "it has no frames")
    return np.array(found, np.float32)


def _starts_of_groups(packets: PacketTimes, num_frames: int) -> list[Fraction]:
    """Return the times of about so many frames that are cheap to decode."""
    starts = [bisect_left(packets.times, key) for key in packets.key_times]
    chosen = {starts[index * len(starts) // _GROUPS] for index in range(_GROUPS)}
    length = -(-num_frames // len(chosen))
    indices = {index for start in chosen for index in range(start, start + length)}
    return [packets.times[index] for index in sorted(indices) if index < packets.num_frames]


def _mean_qp(frame: av.VideoFrame) -> float:
    side_data = cast(SideDataContainer, frame.side_data)  # the stub of `side_data` lacks this key
    data = bytes(side_data["VIDEO_ENC_PARAMS"])
    num_blocks, offset, size, _, qp = _FRAME.unpack_from(data)
    assert size == _DELTA.itemsize, f"FFmpeg's AVVideoBlockParams has {size} bytes"
    deltas = np.frombuffer(data, _DELTA, num_blocks, offset)["qp"]
    return qp + float(deltas.mean())
