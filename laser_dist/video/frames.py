"""Clips as arrays: 8-bit 4:2:0 frames, their RGB frames and timestamps.

All resizing and all conversion between RGB and Y′CbCr happens here, in libswscale with one set of
flags, so that training, evaluation and prediction see the same pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Planes = tuple[UInt8Array, UInt8Array, UInt8Array]
"""The y, u and v planes of one frame."""

# FFmpeg's AVColorSpace and AVColorRange.
_RGB_MATRIX = 0
UNSPECIFIED_MATRIX, UNSPECIFIED_RANGE = 2, 0
# Badly written files mark Y′CbCr as "RGB", which does not specify a matrix either.
_NO_MATRIX = (_RGB_MATRIX, UNSPECIFIED_MATRIX)
# Rows and most columns of standard-definition television (ITU-R BT.601), for files that do not
# specify a matrix; players assume BT.601 there too.
_SD_HEIGHTS, _SD_WIDTH = (480, 486, 576), 768
# Decoders that specify it where chroma is in the center.
_STATE_CENTER = ("h261", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "vvc")

DisplayMatrix = tuple[int, int, int, int]
"""Signs (a, b, c, d): the pixel (x, y) is shown at (a x + c y, b x + d y)."""
UPRIGHT: DisplayMatrix = (1, 0, 0, 1)
# FFmpeg's AVFrameSideDataType: color profiles, of which PyAV frees the name twice and crashes, and
# all that PyAV 18.1 does not know, such as EXIF, for which it raises.
_UNREADABLE = (15, *range(28, 34))

# Bicubic; when shrinking, the filter is widened to avoid aliasing. The other flags select
# libswscale's exact paths: without them luma is off by up to 3 code values, and the result depends
# on the CPU's vector units.
SCALER_FLAGS = int(
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True, kw_only=True)
class ColorEncoding:
    """How R′G′B′ is encoded as 4:2:0 planes.

    Attributes:
      matrix: matrix from R′G′B′ to Y′CbCr.
      color_range: MPEG for limited range (luma 16..235), JPEG for full range (0..255).
      chroma_location: where in 2x2 pixels a chroma sample is, by FFmpeg's name.
    """

    matrix: Colorspace
    color_range: ColorRange
    chroma_location: str


VIDEO = ColorEncoding(matrix=Colorspace.ITU709, color_range=ColorRange.MPEG, chroma_location="left")
"""The encoding of video clips: what players assume for H.264 without a color description."""

JFIF = ColorEncoding(
    matrix=Colorspace.ITU601, color_range=ColorRange.JPEG, chroma_location="center"
)
"""JPEG's own encoding, which still images in Y′CbCr keep, so that they are measured as stored."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A video clip or still image in memory, 8-bit 4:2:0.

    Attributes:
      frames: [T, 3 H / 2, W] uint8, C-contiguous; H and W even, T at least 1. The planes y, u and v
        of each frame follow each other.
      timestamps: T presentation times in seconds, the first usually 0.
      fps: nominal frames per second, above 0.
      color: how colors are encoded.

    Raises:
      ValueError: the shape, dtype or number of frames and timestamps do not match.
    """

    frames: UInt8Array
    timestamps: tuple[Fraction, ...]
    fps: Fraction
    color: ColorEncoding = VIDEO

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if len(shape) != 3 or not self.frames.size or shape[1] % 3 or shape[2] % 2:
            raise ValueError(f"frames must be [T, 3 H / 2, W] with even H and W, got {shape}")
        if self.frames.dtype != np.uint8 or not self.frames.flags.c_contiguous:
            raise ValueError(f"frames must be uint8 and contiguous, got {self.frames.dtype}")
        if len(self.timestamps) != self.num_frames:
            raise ValueError(f"{self.num_frames} frames but {len(self.timestamps)} timestamps")
        if self.fps <= 0:
            raise ValueError(f"fps must be above 0, got {self.fps}")

    @property
    def num_frames(self) -> int:
        """Number of frames T, at least 1."""
        return self.frames.shape[0]

    @property
    def height(self) -> int:
        """Luma rows, even."""
        return self.frames.shape[1] * 2 // 3

    @property
    def width(self) -> int:
        """Luma columns, even."""
        return self.frames.shape[2]

    @property
    def y(self) -> UInt8Array:
        """View of luma: [T, H, W] code values."""
        return self.frames[:, : self.height]

    @property
    def u(self) -> UInt8Array:
        """View of the blue difference: [T, H/2, W/2], 128 = none."""
        return self._chroma(0)

    @property
    def v(self) -> UInt8Array:
        """View of the red difference: [T, H/2, W/2], 128 = none."""
        return self._chroma(1)

    def _chroma(self, index: int) -> UInt8Array:
        chroma = self.frames.reshape(self.num_frames, 6, -1)[:, 4 + index]
        return chroma.reshape(self.num_frames, self.height // 2, self.width // 2)

    @classmethod
    def from_rgb(cls, frames: UInt8Array, fps: Fraction) -> "Clip":
        """Return the clip of full-range R′G′B′ frames, the first at 0 s.

        Args:
          frames: [T, H, W, 3] uint8, even H and W, T at least 1.
          fps: frames per second, above 0.

        Raises:
          ValueError: `frames` has another shape or dtype, odd sizes, or no frame.
        """
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise ValueError(
                f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}"
            )
        if not frames.size or frames.shape[1] % 2 or frames.shape[2] % 2:
            raise ValueError(f"frames need even sizes and at least one frame, got {frames.shape}")
        planes = [
            frame_planes(to_420(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
            for frame in frames
        ]
        return cls.from_planes(planes, [index / fps for index in range(len(planes))], fps)

    @classmethod
    def from_planes(
        cls,
        planes: Sequence[Planes],
        timestamps: Sequence[Fraction],
        fps: Fraction,
        color: ColorEncoding = VIDEO,
    ) -> "Clip":
        """Return the clip of T frames, each given as (y [H, W], u [H/2, W/2], v [H/2, W/2]).

        Raises:
          ValueError: there is no frame, or the shapes do not match.
        """
        height, width = planes[0][0].shape if planes else (0, 0)
        if height % 2 or width % 2:
            raise ValueError(f"planes need even sizes, got {height} rows of {width}")
        frames = np.empty((len(planes), height * 3 // 2, width), np.uint8)
        clip = cls(frames, tuple(timestamps), fps, color)
        for target, source in zip((clip.y, clip.u, clip.v), zip(*planes, strict=True), strict=True):
            np.stack(source, out=target)
        return clip

    def frame(self, index: int) -> av.VideoFrame:
        """Return one frame for FFmpeg: yuv420p, without a timestamp, a view wherever possible."""
        # PyAV 18.1 takes 3 H / 2 rows for those of another H unless H is a multiple of 4.
        view_or_copy = (
            av.VideoFrame.from_ndarray if self.height % 4 else av.VideoFrame.from_numpy_buffer
        )
        frame = view_or_copy(self.frames[index], "yuv420p")
        frame.colorspace, frame.color_range = self.color.matrix, self.color.color_range
        return frame

    def rgb(self, index: int, *, width: int | None = None, height: int | None = None) -> UInt8Array:
        """Return one frame as full-range R′G′B′.

        Args:
          index: frame index, 0..T-1, or negative to count from the end.
          width: columns of the result; None keeps the clip's.
          height: rows of the result; None keeps the clip's.

        Returns:
          [height, width, 3] uint8, resized bicubically without keeping the aspect ratio.
        """
        return self._rgb(index, width or self.width, height or self.height, VideoReformatter())

    def rgb_frames(self, *, width: int, height: int) -> UInt8Array:
        """Return all frames as `rgb` does: [T, height, width, 3] uint8."""
        frames = np.empty((self.num_frames, height, width, 3), np.uint8)
        reformatter = VideoReformatter()
        for index in range(self.num_frames):
            frames[index] = self._rgb(index, width, height, reformatter)
        return frames

    def _rgb(
        self, index: int, width: int, height: int, reformatter: VideoReformatter
    ) -> UInt8Array:
        # PyAV cannot set where the chroma of a frame is.
        location = f"chroma_location={self.color.chroma_location}"
        converted = reformatter.reformat(
            filtered(self.frame(index), ("setparams", location)),
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=self.color.matrix,
            src_color_range=self.color.color_range,
            dst_color_range=ColorRange.JPEG,
            interpolation=SCALER_FLAGS,
            threads=1,
        )
        return _as_uint8(converted.to_ndarray())

    def with_fps(self, fps: Fraction) -> "Clip":
        """Return the same frames at a constant frame rate, the first at 0 s."""
        timestamps = tuple(index / fps for index in range(self.num_frames))
        return replace(self, timestamps=timestamps, fps=fps)


def evenly_spaced_indices(num_frames: int, count: int) -> list[int]:
    """Return the frame indices at the centers of `count` equal intervals of a clip.

    Args:
      num_frames: T, frames of the clip.
      count: N, number of frames to pick, 1..T.

    Returns:
      N ascending indices: (2 i + 1) T / (2 N), rounded down, for i in 0..N-1.
    """
    return [(2 * index + 1) * num_frames // (2 * count) for index in range(count)]


def check_rgb(rgb: UInt8Array) -> None:
    """Raise ValueError unless `rgb` is one RGB image, [H, W, 3] uint8."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {rgb.shape}")


def resize_rgb(rgb: UInt8Array, *, width: int, height: int) -> UInt8Array:
    """Resize one RGB frame with the scaler of `Clip.rgb`, each channel separately.

    Args:
      rgb: [H, W, 3] uint8.
      width: columns of the result.
      height: rows of the result.

    Returns:
      [height, width, 3] uint8.

    Raises:
      ValueError: `rgb` has another shape or dtype.
    """
    check_rgb(rgb)
    if rgb.shape[:2] == (height, width):
        return rgb.copy()
    # Passed as three planes of equal size: libswscale would convert rgb24 to Y′CbCr and back,
    # which costs up to two code values.
    frame = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(rgb.transpose(2, 0, 1)), format="yuv444p"
    )
    scaled = frame.reformat(width=width, height=height, interpolation=SCALER_FLAGS, threads=1)
    return np.ascontiguousarray(_as_uint8(scaled.to_ndarray()).transpose(1, 2, 0))


def to_420(frame: av.VideoFrame, color: ColorEncoding = VIDEO) -> av.VideoFrame:
    """Convert a frame to yuv420p in a color encoding, without resizing.

    RGB counts as full range. For Y′CbCr the matrix and range of the frame apply. Where it leaves
    them unspecified: BT.601 at the sizes of standard-definition television and BT.709 at all
    others, and limited range. The chroma of 4:2:0 stays where it is. Deeper samples are reduced to
    8 bits, and an alpha plane is dropped. Transfer curves are not converted.
    """
    specify_matrix(frame)
    color_range = frame.color_range or ColorRange.MPEG
    if frame.format.name == "yuv420p" and (frame.colorspace, color_range) == (
        color.matrix,
        color.color_range,
    ):
        return frame
    options = f"flags={SCALER_FLAGS}:out_color_matrix={int(color.matrix)}"
    target = f"out_range={int(color.color_range)}:out_chroma_loc={color.chroma_location}"
    return filtered(frame, ("scale", f"{options}:{target}"), ("format", "yuv420p"))


def specify_matrix(frame: av.VideoFrame) -> None:
    """Set the matrix of a Y′CbCr frame that leaves it unspecified, see `to_420`."""
    if not frame.format.is_rgb and frame.colorspace in _NO_MATRIX:
        is_sd = frame.height in _SD_HEIGHTS and frame.width <= _SD_WIDTH
        frame.colorspace = Colorspace.ITU601 if is_sd else Colorspace.ITU709


def frame_planes(frame: av.VideoFrame) -> Planes:
    """Return views of the planes of a yuv420p frame, without an odd last row or column.

    Returns:
      (y [H, W], u [H/2, W/2], v [H/2, W/2]) uint8, H and W even; valid as long as `frame` exists.
    """
    rows, columns = frame.height // 2, frame.width // 2
    y, u, v = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        for plane in frame.planes
    )
    return y[: 2 * rows, : 2 * columns], u[:rows, :columns], v[:rows, :columns]


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Return (width, height) of a frame, rotated as its file asks, before cropping."""
    is_sideways = frame.rotation % 180 == 90
    return (frame.height, frame.width) if is_sideways else (frame.width, frame.height)


def upright_clip(frame: av.VideoFrame, *, codec: str, is_still: bool = False) -> Clip:
    """Return a decoded frame as a clip of one, upright; arguments as for `upright_color`."""
    matrix = display_matrix(frame)
    color = upright_color(frame, matrix, codec=codec, is_still=is_still)
    return Clip.from_planes(
        [upright_planes(frame, color, matrix)], [Fraction(0)], Fraction(1), color
    )


def upright_color(
    frame: av.VideoFrame, matrix: DisplayMatrix, *, codec: str, is_still: bool
) -> ColorEncoding:
    """Return the color encoding that a frame is converted to.

    Args:
      frame: a frame as decoded.
      matrix: from `display_matrix`.
      codec: FFmpeg's name of the decoder.
      is_still: whether the frame is a still image.
    """
    # Not RGB: libswscale's conversion from it to full range is biased by half a code value.
    if is_still and not frame.format.is_rgb:
        return JFIF
    if matrix != UPRIGHT:  # every other location would move
        return replace(VIDEO, chroma_location="center")
    if _is_420(frame):  # where it is, it can stay
        return replace(VIDEO, chroma_location=_chroma_location(frame, codec))
    return VIDEO


def upright_planes(frame: av.VideoFrame, color: ColorEncoding, matrix: DisplayMatrix) -> Planes:
    """Return the planes of a frame, rotated and mirrored as its file asks.

    Args:
      frame: a frame as decoded.
      color: from `upright_color`.
      matrix: from `display_matrix`.

    Returns:
      (y [H, W], u [H/2, W/2], v [H/2, W/2]) uint8, H and W even, cropped at the bottom and right
      of the encoded frame.
    """
    if matrix != UPRIGHT and _is_420(frame) and color != JFIF:
        # From 4:2:0 to 4:2:0, libswscale copies the chroma, wherever it is.
        frame = frame.reformat(format="yuv444p", interpolation=SCALER_FLAGS, threads=1)
    y, u, v = (turned(plane, matrix) for plane in frame_planes(to_420(frame, color)))
    return y, u, v


def turned(pixels: UInt8Array, matrix: DisplayMatrix) -> UInt8Array:
    """Return a view of pixels, [H, W, ...], turned for display."""
    a, b, c, d = matrix
    if is_sideways(matrix):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def is_sideways(matrix: DisplayMatrix) -> bool:
    """Return whether width and height change places."""
    return not matrix[0]


def display_matrix(frame: av.VideoFrame) -> DisplayMatrix:
    """Return how a frame is turned for display, by quarter turns and mirrors.

    This is what the file of a phone, the item properties of HEIC and AVIF, or the EXIF orientation
    of a photograph ask for. PyAV reports the rotation only, not a mirror. A picture with any other
    matrix is left as it is.
    """
    cleaned = filtered(frame, *(("sidedata", f"mode=delete:type={kind}") for kind in _UNREADABLE))
    # PyAV's stubs take the data for a text.
    for data in cast(Iterable[SideData], cleaned.side_data):
        if data.type.name == "DISPLAYMATRIX":
            # 3x3, in 1/65536: a b u, c d v, x y w
            numbers = np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]]
            a, b, c, d = (int(sign) for sign in np.sign(numbers))
            if (a and d and not b and not c) or (b and c and not a and not d):
                return a, b, c, d
    return UPRIGHT


def _is_420(frame: av.VideoFrame) -> bool:
    return frame.format.chroma_width(2) == frame.format.chroma_height(2) == 1


def _chroma_location(frame: av.VideoFrame, codec: str) -> str:
    """Return where the chroma of a 4:2:0 frame is, by FFmpeg's name; "left" if unspecified.

    PyAV has no such attribute, but its conversion to RGB depends on it. So an edge in place of the
    pixels shows it.
    """
    edge = filtered(frame, ("crop", "16:16"), ("geq", "lum=128:cr=128:cb=220*lt(X+Y,8)"))
    shown = _rgb_of(edge)
    for location in ("left", "topleft", "top", "bottomleft", "bottom"):
        placed = filtered(edge, ("setparams", f"chroma_location={location}"))
        if np.array_equal(shown, _rgb_of(placed)):
            return location
    # libswscale takes an unspecified one for the center.
    return "center" if codec in _STATE_CENTER else "left"


def _rgb_of(frame: av.VideoFrame) -> UInt8Array:
    rgb = frame.reformat(format="rgb24", interpolation=SCALER_FLAGS, threads=1)
    return _as_uint8(rgb.to_ndarray())


def filtered(frame: av.VideoFrame, *filters: tuple[str, str]) -> av.VideoFrame:
    """Return a frame after FFmpeg's filters, each a name and its options."""
    return all_filtered([frame], *filters)[0]


def all_filtered(frames: Sequence[av.VideoFrame], *filters: tuple[str, str]) -> list[av.VideoFrame]:
    """Return frames of one size and format after FFmpeg's filters; of a copy if there are several.

    Args:
      frames: in order of time.
      filters: name and options of each filter, which gives a frame for each frame.
    """
    graph = Graph()
    graph.threads = 1
    frame = frames[0]
    source = last = graph.add(
        "buffer",
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
        f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
    )
    for name, options in (*filters, ("buffersink", "")):
        entry, last = last, graph.add(name, options or None)
        entry.link_to(last)
    graph.configure()
    for each in frames:
        source.push(each)
    if len(frames) > 1:
        source.push(None)
    found: list[av.VideoFrame] = []
    for _ in frames:
        one = last.pull()
        assert isinstance(one, av.VideoFrame)
        found.append(one)
    return found


def _as_uint8(array: NDArray[np.generic]) -> UInt8Array:
    return array.astype(np.uint8, copy=False)
