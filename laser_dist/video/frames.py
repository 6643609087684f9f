"""Clips as arrays: 8-bit 4:2:0 planes in BT.709 limited range, their RGB frames and timestamps.

Every resize and every change between RGB and Y′CbCr of the project is made here, by libswscale
with one set of flags, so that training, evaluation and prediction see the same pixels.
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
"""One frame's y, u and v."""

# Bicubic with the filter widened when shrinking, so it does not alias. The other flags take
# libswscale's exact paths: without them luma is off by up to 3 code values and the result depends
# on the processor's vector units.
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
      timestamps: T presentation times in seconds, the first frame's usually 0.
      fps: nominal frames per second, above 0.

    Raises:
      ValueError: planes or timestamps that do not fit together.
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

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame's start to the last one's end (one frame's time long)."""
        return float(max(self.timestamps) - min(self.timestamps) + 1 / self.fps)

    @classmethod
    def from_rgb(cls, frames: UInt8Array, fps: Fraction) -> "Clip":
        """The clip of full-range R′G′B′ frames, the first at 0 s.

        Args:
          frames: [T, H, W, 3] uint8, even H and W, T at least 1.
          fps: frames per second, above 0.

        Returns:
          The clip, [T, H, W] luma.

        Raises:
          ValueError: another shape or type, odd sizes, no frame.
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
        """The clip of T frames given one by one as (y [H, W], u [H/2, W/2], v [H/2, W/2])."""
        y, u, v = (np.stack(plane) for plane in zip(*planes, strict=True))
        return cls(y, u, v, tuple(timestamps), fps)

    def select(self, indices: Sequence[int]) -> "Clip":
        """The frames at `indices`, in that order, with their timestamps; at least one."""
        chosen = list(indices)
        timestamps = tuple(self.timestamps[index] for index in chosen)
        return Clip(self.y[chosen], self.u[chosen], self.v[chosen], timestamps, self.fps)

    def frame(self, index: int) -> av.VideoFrame:
        """One frame for FFmpeg: yuv420p, BT.709 limited, a copy, without a timestamp."""
        # One packed copy costs less than filling three padded planes from Python.
        packed = np.concatenate(
            (self.y[index].ravel(), self.u[index].ravel(), self.v[index].ravel())
        ).reshape(self.height * 3 // 2, self.width)
        frame = av.VideoFrame.from_ndarray(packed, format="yuv420p")
        frame.colorspace = Colorspace.ITU709
        frame.color_range = ColorRange.MPEG
        return frame

    def rgb(self, index: int, *, width: int | None = None, height: int | None = None) -> UInt8Array:
        """One frame as full-range R′G′B′.

        Args:
          index: which frame, 0..T-1 (negative from the end).
          width: columns of the result, the clip's when None.
          height: rows of the result, the clip's when None.

        Returns:
          [height, width, 3] uint8; resized bicubically, without keeping the aspect ratio.
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
        """[T, height, width, 3] uint8: all frames as `rgb` gives them."""
        frames = np.empty((self.num_frames, height, width, 3), np.uint8)
        for index in range(self.num_frames):
            frames[index] = self.rgb(index, width=width, height=height)
        return frames

    def at_rate(self, fps: Fraction) -> "Clip":
        """The same frames at a constant rate, whatever their timestamps were; the first at 0 s."""
        timestamps = tuple(index / fps for index in range(self.num_frames))
        return Clip(self.y, self.u, self.v, timestamps, fps)


def resize_rgb(rgb: UInt8Array, *, width: int, height: int) -> UInt8Array:
    """Resize one RGB frame with the scaler of `Clip.rgb`, each channel by itself.

    Args:
      rgb: [H, W, 3] uint8.
      width: columns of the result.
      height: rows of the result.

    Returns:
      [height, width, 3] uint8.

    Raises:
      ValueError: another shape or type.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {rgb.shape}")
    if rgb.shape[:2] == (height, width):
        return rgb.copy()
    # Handed over as three planes of equal size: libswscale would take rgb24 through Y′CbCr and
    # back, which costs up to two code values.
    frame = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(rgb.transpose(2, 0, 1)), format="yuv444p"
    )
    scaled = frame.reformat(width=width, height=height, interpolation=SCALER_FLAGS, threads=1)
    return np.ascontiguousarray(_as_uint8(scaled.to_ndarray()).transpose(1, 2, 0))


def to_bt709_420(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame as yuv420p, BT.709, limited range, at its own size.

    RGB is taken as full range. For Y′CbCr the matrix and range that the frame states are
    honored; what it leaves open is BT.709 and limited. Deeper samples are reduced to 8 bits, an
    alpha plane is dropped. Transfer curves are not converted: HDR stays HDR-coded.
    """
    if _is_plain_bt709_420(frame):
        return frame
    is_rgb = frame.format.is_rgb
    states_matrix = frame.colorspace not in _UNSTATED_MATRIX
    return frame.reformat(
        format="yuv420p",
        src_colorspace=None if is_rgb or states_matrix else Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=SCALER_FLAGS,
        threads=1,
    )


def frame_planes(frame: av.VideoFrame) -> Planes:
    """Views of a yuv420p frame's planes, an odd last row or column cut off.

    Returns:
      (y [H, W], u [H/2, W/2], v [H/2, W/2]) uint8, H and W even; valid while `frame` lives.
    """
    rows, columns = frame.height // 2, frame.width // 2
    y, u, v = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        for plane in frame.planes
    )
    return y[: 2 * rows, : 2 * columns], u[:rows, :columns], v[:rows, :columns]


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """(width, height) of a frame turned as its file asks, before anything is cropped."""
    is_turned = frame.rotation % 180 == 90
    return (frame.height, frame.width) if is_turned else (frame.width, frame.height)


def upright_planes(frame: av.VideoFrame) -> Planes:
    """A frame's planes in BT.709 limited range, turned by the quarters that its file asks for.

    A phone's display matrix and a photograph's EXIF orientation are followed. A mirror in them is
    not: PyAV tells the turn only, and its list of a frame's side data, where the mirror stands,
    must not be touched. With an EXIF block there it raises, with a color profile it frees memory
    twice and the process dies (PyAV 18.1).

    Returns:
      (y [H, W], u [H/2, W/2], v [H/2, W/2]) uint8, H and W even, cut at the coded frame's bottom
      and right.
    """
    y, u, v = frame_planes(to_bt709_420(frame))
    if frame.rotation % 90:
        return y, u, v
    quarters = frame.rotation // 90  # counter-clockwise, as numpy counts
    return np.rot90(y, quarters), np.rot90(u, quarters), np.rot90(v, quarters)


_AVCOL_SPC_RGB, _AVCOL_SPC_BT709, _AVCOL_SPC_UNSPECIFIED = 0, 1, 2
# Y′CbCr marked as "RGB" occurs in badly written files; it says nothing about the matrix.
_UNSTATED_MATRIX = (_AVCOL_SPC_RGB, _AVCOL_SPC_UNSPECIFIED)


def _is_plain_bt709_420(frame: av.VideoFrame) -> bool:
    return (
        frame.format.name == "yuv420p"
        and frame.colorspace in (_AVCOL_SPC_BT709, *_UNSTATED_MATRIX)
        and frame.color_range != ColorRange.JPEG
    )


def _as_uint8(array: NDArray[np.generic]) -> UInt8Array:
    return array.astype(np.uint8, copy=False)
