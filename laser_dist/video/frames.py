"""Clips as arrays: 8-bit 4:2:0 planes in BT.709 limited range, their RGB frames and timestamps.

All resizing and all conversion between RGB and Y′CbCr happens here, in libswscale with one set of
flags, so that training, evaluation and prediction see the same pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Planes = tuple[UInt8Array, UInt8Array, UInt8Array]
"""The y, u and v planes of one frame."""

# FFmpeg's AVColorSpace and AVColorRange.
_RGB_MATRIX, _BT709_MATRIX = 0, 1
UNSPECIFIED_MATRIX, UNSPECIFIED_RANGE = 2, 0
# Badly written files mark Y′CbCr as "RGB", which does not specify a matrix either.
_NO_MATRIX = (_RGB_MATRIX, UNSPECIFIED_MATRIX)

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


@dataclass(frozen=True, eq=False)
class Clip:
    """A video clip in memory: 8-bit 4:2:0 planes, BT.709 matrix, limited range (luma 16..235).

    Attributes:
      y: [T, H, W] uint8, luma code values; H and W even, T at least 1.
      u: [T, H/2, W/2] uint8, blue difference, 128 = none.
      v: [T, H/2, W/2] uint8, red difference, 128 = none.
      timestamps: T presentation times in seconds, the first usually 0.
      fps: nominal frames per second, above 0.

    Raises:
      ValueError: the shapes, dtypes or numbers of planes and timestamps do not match.
    """

    y: UInt8Array
    u: UInt8Array
    v: UInt8Array
    timestamps: tuple[Fraction, ...]
    fps: Fraction

    def __post_init__(self) -> None:
        if self.y.ndim != 3 or not self.y.size or self.y.shape[1] % 2 or self.y.shape[2] % 2:
            raise ValueError(f"y must be [T, H, W] with even H and W, got {self.y.shape}")
        chroma = (self.y.shape[0], self.y.shape[1] // 2, self.y.shape[2] // 2)
        if self.u.shape != chroma or self.v.shape != chroma:
            raise ValueError(f"u, v must be {chroma}, got {self.u.shape} and {self.v.shape}")
        dtypes = {str(plane.dtype) for plane in (self.y, self.u, self.v)}
        if dtypes != {"uint8"}:
            raise ValueError(f"planes must be uint8, got {sorted(dtypes)}")
        if len(self.timestamps) != len(self.y):
            raise ValueError(f"{len(self.y)} frames but {len(self.timestamps)} timestamps")
        if self.fps <= 0:
            raise ValueError(f"fps must be above 0, got {self.fps}")

    @property
    def num_frames(self) -> int:
        """Number of frames T, at least 1."""
        return self.y.shape[0]

    @property
    def height(self) -> int:
        """Luma rows, even."""
        return self.y.shape[1]

    @property
    def width(self) -> int:
        """Luma columns, even."""
        return self.y.shape[2]

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
            frame_planes(to_bt709_420(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
            for frame in frames
        ]
        return cls.from_planes(planes, [index / fps for index in range(len(planes))], fps)

    @classmethod
    def from_planes(
        cls,
        planes: Sequence[Planes],
        timestamps: Sequence[Fraction],
        fps: Fraction,
    ) -> "Clip":
        """Return the clip of T frames, each given as (y [H, W], u [H/2, W/2], v [H/2, W/2])."""
        y, u, v = (np.stack(plane) for plane in zip(*planes, strict=True))
        return cls(y, u, v, tuple(timestamps), fps)

    def frame(self, index: int) -> av.VideoFrame:
        """Return a copy of one frame for FFmpeg: yuv420p, BT.709 limited, without a timestamp."""
        # One packed copy is cheaper than filling three padded planes from Python.
        packed = np.concatenate(
            (self.y[index].ravel(), self.u[index].ravel(), self.v[index].ravel())
        ).reshape(self.height * 3 // 2, self.width)
        frame = av.VideoFrame.from_ndarray(packed, format="yuv420p")
        frame.colorspace = Colorspace.ITU709
        frame.color_range = ColorRange.MPEG
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
        converted = self.frame(index).reformat(
            width=width or self.width,
            height=height or self.height,
            format="rgb24",
            src_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=SCALER_FLAGS,
            threads=1,
        )
        return _as_uint8(converted.to_ndarray())

    def rgb_frames(self, *, width: int, height: int) -> UInt8Array:
        """Return all frames as `rgb` does: [T, height, width, 3] uint8."""
        frames = np.empty((self.num_frames, height, width, 3), np.uint8)
        for index in range(self.num_frames):
            frames[index] = self.rgb(index, width=width, height=height)
        return frames

    def with_fps(self, fps: Fraction) -> "Clip":
        """Return the same frames at a constant frame rate, the first at 0 s."""
        timestamps = tuple(index / fps for index in range(self.num_frames))
        return Clip(self.y, self.u, self.v, timestamps, fps)


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


def to_bt709_420(frame: av.VideoFrame) -> av.VideoFrame:
    """Convert a frame to yuv420p, BT.709, limited range, without resizing.

    RGB counts as full range. For Y′CbCr the matrix and range of the frame apply; where the frame
    leaves them unspecified, BT.709 and limited. Deeper samples are reduced to 8 bits, and an alpha
    plane is dropped. Transfer curves are not converted.
    """
    if _is_bt709_420(frame):
        return frame
    has_matrix = frame.format.is_rgb or frame.colorspace not in _NO_MATRIX
    return frame.reformat(
        format="yuv420p",
        src_colorspace=None if has_matrix else Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=SCALER_FLAGS,
        threads=1,
    )


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


def upright_planes(frame: av.VideoFrame) -> Planes:
    """Return the planes of a frame in BT.709 limited range, rotated as its file asks.

    The rotation comes from the display matrix (phones) or the EXIF orientation (photographs). PyAV
    reports the rotation only, not a mirror. Do not read the frame's side data instead: with an EXIF
    block it raises, and with a color profile it frees memory twice and crashes (PyAV 18.1).

    Returns:
      (y [H, W], u [H/2, W/2], v [H/2, W/2]) uint8, H and W even, cropped at the bottom and right
      of the encoded frame.
    """
    y, u, v = frame_planes(to_bt709_420(frame))
    if frame.rotation % 90:
        return y, u, v
    quarters = frame.rotation // 90  # counterclockwise, as in NumPy
    return np.rot90(y, quarters), np.rot90(u, quarters), np.rot90(v, quarters)


def _is_bt709_420(frame: av.VideoFrame) -> bool:
    return (
        frame.format.name == "yuv420p"
        and frame.colorspace in (_BT709_MATRIX, *_NO_MATRIX)
        and frame.color_range != ColorRange.JPEG
    )


def _as_uint8(array: NDArray[np.generic]) -> UInt8Array:
    return array.astype(np.uint8, copy=False)
