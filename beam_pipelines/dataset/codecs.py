"""Reads a source's clips from files, or encodes them if a file is missing."""

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from beam_pipelines.elements import ENCODED, FROM_FILE, LabeledSource
from beam_pipelines.inputs.archives import REPLACE_HINT, read_stored
from laser_dist.storage import StoredFile, too_large
from laser_dist.video.codec import (
    MAX_CLIP_BYTES,
    decode,
    decode_yuv420p,
    encode_h264,
    picture_bytes,
    x264_version,
)
from laser_dist.video.containers import VideoError, h264_stream
from laser_dist.video.frames import Clip, UInt8Array
from laser_dist.video.images import encode_jpeg, jpeg_encoder, open_image


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """A clip after encoding and decoding, and its size.

    Attributes:
      clip: decoded frames.
      num_bits: size of the encoded pictures, see `picture_bytes`, or of a JPEG file; None if the
        file holds them decoded, or in another codec than the dataset's.
      origin: "file" or "encoded".
      encoder: such as "x264"; empty if the file does not name it.
      encoder_version: such as "165"; empty if the file does not name it.
    """

    clip: Clip
    num_bits: int | None
    origin: str
    encoder: str
    encoder_version: str


def read_clip(file: StoredFile, source: LabeledSource) -> EncodedClip:
    """Read one of a source's files, at the frame rate that its name states.

    Raises:
      UserError: the file cannot be read at present.
      VideoError: it cannot be decoded, or has another size than its name states.
    """
    content = _content_of(file)
    coded = _read_image(content, file) if source.fps is None else _read_video(content, file, source)
    size = (coded.clip.width, coded.clip.height)
    if source.size is not None and size != source.size:
        raise VideoError(
            "{} is {}x{}, not {}x{} as its name states.".format(file, *size, *source.size),
            hint=REPLACE_HINT,
        )
    return coded


def read_picture(file: StoredFile) -> UInt8Array:
    """Read an uncompressed image: [H, W, 3] uint8 RGB.

    Raises:
      UserError: the file cannot be read at present.
      VideoError: it cannot be decoded.
    """
    with open_image(_content_of(file), str(file)) as image:
        return np.asarray(image.convert("RGB"))


def encode_video(reference: Clip, qp: int) -> EncodedClip:
    """Encode a clip with VideoSet's settings.

    Args:
      reference: clip to encode; the result has its frame rate.
      qp: 1 to 51.
    """
    stream = encode_h264(reference, qp=qp)
    clip = decode(stream, fps=reference.fps).with_fps(reference.fps)
    return EncodedClip(clip, 8 * picture_bytes(stream), ENCODED, *_x264_of(stream))


def encode_image(picture: UInt8Array, quality: int) -> EncodedClip:
    """Encode an image as JPEG.

    Args:
      picture: [H, W, 3] uint8 RGB.
      quality: 1 to 100.
    """
    content = encode_jpeg(picture, quality=quality)
    return EncodedClip(decode(content), 8 * len(content), ENCODED, *jpeg_encoder())


def _content_of(file: StoredFile) -> bytes:
    if problem := too_large(str(file), file.size, MAX_CLIP_BYTES):
        raise VideoError(problem, hint="Use shorter clips.")
    return read_stored(file)


def _read_video(content: bytes, file: StoredFile, source: LabeledSource) -> EncodedClip:
    assert source.fps is not None
    suffix, name = PurePosixPath(file.name).suffix, str(file)
    if suffix == ".yuv":
        assert source.size is not None
        width, height = source.size
        clip = decode_yuv420p(content, width=width, height=height, fps=source.fps, name=name)
        return EncodedClip(clip, None, FROM_FILE, "", "")
    clip = decode(content, fps=source.fps, name=name).with_fps(source.fps)
    stream = content if suffix == ".264" else h264_stream(content, name)
    # A copy in another codec looks like the clip, but its size is not the clip's.
    num_bits = None if stream is None else 8 * picture_bytes(stream)
    return EncodedClip(clip, num_bits, FROM_FILE, *_x264_of(content))


def _read_image(content: bytes, file: StoredFile) -> EncodedClip:
    clip = decode(content, max_frames=1, name=str(file))
    return EncodedClip(clip, 8 * len(content), FROM_FILE, "", "")


def _x264_of(stream: bytes) -> tuple[str, str]:
    version = x264_version(stream)
    return ("x264", version) if version else ("", "")
