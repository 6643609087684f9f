"""A source's clips as pictures: read from its files, or coded anew where a file is missing."""

import io
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from beam_pipelines.elements import ENCODED, FROM_FILE, LabeledSource
from beam_pipelines.inputs.archives import read_stored
from laser_dist.storage import StoredFile
from laser_dist.video.codec import decode, decode_yuv420p, encode_h264, x264_version
from laser_dist.video.containers import VideoError, encoded_size
from laser_dist.video.frames import Clip, UInt8Array
from laser_dist.video.jpeg import PILLOW_ERRORS, encode_jpeg, jpeg_encoder


class UnreadableClip(VideoError):
    """A clip whose file cannot be read now; another run may find it well."""


@dataclass(frozen=True, eq=False)
class CodedClip:
    """A clip as it was coded, and what it cost.

    Attributes:
      clip: decoded.
      num_bits: of the coded pictures; None where the file holds them decoded, or coded otherwise.
      origin: "file" or "encoded".
      encoder: such as "x264"; empty where the file does not say.
      encoder_version: such as "165"; empty alike.
    """

    clip: Clip
    num_bits: int | None
    origin: str
    encoder: str
    encoder_version: str


def read_clip(file: StoredFile, source: LabeledSource) -> CodedClip:
    """Reads one of a source's files, at the frame rate that its name says.

    Raises:
      UnreadableClip: its file cannot be read.
      VideoError: it cannot be decoded, or has another size than its name says.
    """
    content = _content_of(file)
    coded = _read_image(content, file) if source.fps is None else _read_video(content, file, source)
    size = (coded.clip.width, coded.clip.height)
    if source.size is not None and size != source.size:
        expected = "{}x{}, as its name says".format(*source.size)
        raise VideoError(f"Clip {file}", expected, "{}x{}".format(*size), "Fetch it again.")
    return coded


def read_picture(file: StoredFile) -> UInt8Array:
    """[H, W, 3] uint8 RGB of an uncompressed image.

    Raises:
      UnreadableClip: its file cannot be read.
      VideoError: it cannot be decoded.
    """
    content = _content_of(file)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except PILLOW_ERRORS as error:
        raise VideoError(f"Image {file}", "a whole image", str(error), "Fetch it again.") from error


def encode_video(reference: Clip, qp: int) -> CodedClip:
    """Codes a clip as VideoSet's were.

    Args:
      reference: what to code, and what the result has the frame rate of.
      qp: 1 to 51.
    """
    stream = encode_h264(reference, qp=qp)
    clip = decode(stream, fps=reference.fps).with_fps(reference.fps)
    return CodedClip(clip, 8 * len(stream), ENCODED, *_x264_of(stream))


def encode_image(picture: UInt8Array, quality: int) -> CodedClip:
    """Codes an image as JPEG.

    Args:
      picture: [H, W, 3] uint8 RGB.
      quality: 1 to 100.
    """
    content = encode_jpeg(picture, quality=quality)
    return CodedClip(decode(content), 8 * len(content), ENCODED, *jpeg_encoder())


def _content_of(file: StoredFile) -> bytes:
    try:
        return read_stored(file)
    except OSError as error:
        raise UnreadableClip(
            f"Clip {file}", "a file that can be read", str(error), "Check it, or fetch it again."
        ) from error


def _read_video(content: bytes, file: StoredFile, source: LabeledSource) -> CodedClip:
    assert source.fps is not None
    suffix, name = PurePosixPath(file.name).suffix, str(file)
    if suffix == ".yuv":
        assert source.size is not None
        width, height = source.size
        clip = decode_yuv420p(content, width=width, height=height, fps=source.fps, name=name)
        return CodedClip(clip, None, FROM_FILE, "", "")
    clip = decode(content, fps=source.fps, name=name).with_fps(source.fps)
    codec, num_bytes = ("h264", len(content)) if suffix == ".264" else encoded_size(content, name)
    # A copy in another codec looks like the clip, but tells nothing of what the clip cost.
    num_bits = 8 * num_bytes if codec == "h264" else None
    return CodedClip(clip, num_bits, FROM_FILE, *_x264_of(content))


def _read_image(content: bytes, file: StoredFile) -> CodedClip:
    clip = decode(content, max_frames=1, name=str(file))
    return CodedClip(clip, 8 * len(content), FROM_FILE, "", "")


def _x264_of(stream: bytes) -> tuple[str, str]:
    version = x264_version(stream)
    return ("x264", version) if version else ("", "")
