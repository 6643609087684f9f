"""Quality of a distorted clip against its reference: PSNR, SSIM and XPSNR.

Higher is better for all of them. PSNR is computed here; SSIM and XPSNR come from FFmpeg's filters,
run in this process on one thread.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av import VideoFrame
from av.error import BlockingIOError as NoFrameYet
from av.error import EOFError as NoFrameLeft
from av.filter import Graph
from av.filter.context import FilterContext

from laser_dist.video.frames import Clip, UInt8Array

PSNR_CAP_DB = 100.0
"""Value for equal pixels, instead of infinity, and upper bound of PSNR and XPSNR."""

_PEAK = 255.0
XPSNR_MIN_AREA = 2048
"""Least number of pixels of a frame for FFmpeg's xpsnr filter.

It uses square blocks with a side of 4 round(32 sqrt(area / (3840 x 2160))) pixels. Below this area
the side is 0 and the filter divides by it, which crashes the process (SIGFPE, FFmpeg 8.1).
"""


@dataclass(frozen=True)
class ClipQuality:
    """Quality of a distorted clip against its reference; higher is better.

    Attributes:
      psnr_y_db: PSNR of luma in dB, from the mean squared error over all frames, as FFmpeg's `psnr`
        prints for a clip.
      psnr_y_min_db: PSNR of luma in the worst frame.
      psnr_y_p5_db: 5th percentile over the frames of the luma PSNR of each, interpolated linearly.
      psnr_rgb_db: PSNR from the mean squared error over all frames and the three channels of RGB
        frames at model resolution.
      ssim: structural similarity of luma, at most 1, averaged over the frames (FFmpeg's `ssim`,
        8x8 windows at steps of 4).
      xpsnr_db: perceptually weighted PSNR of luma in dB, capped; FFmpeg's `xpsnr` value for a
        clip, which averages the square roots of the frames' weighted errors (Helmrich et al.
        2020). On frames of fewer than 2048 pixels it equals `psnr_y_db`.
    """

    psnr_y_db: float
    psnr_y_min_db: float
    psnr_y_p5_db: float
    psnr_rgb_db: float
    ssim: float
    xpsnr_db: float


IDENTICAL = ClipQuality(
    psnr_y_db=PSNR_CAP_DB,
    psnr_y_min_db=PSNR_CAP_DB,
    psnr_y_p5_db=PSNR_CAP_DB,
    psnr_rgb_db=PSNR_CAP_DB,
    ssim=1.0,
    xpsnr_db=PSNR_CAP_DB,
)
"""Quality of a clip against itself."""


def measure_quality(
    reference: Clip, distorted: Clip, *, reference_rgb: UInt8Array, distorted_rgb: UInt8Array
) -> ClipQuality:
    """Measure a distorted clip against its reference, frame by frame in order.

    Args:
      reference: the clip to compare with.
      distorted: a clip with as many frames of the same size; its timestamps are ignored.
      reference_rgb: [T, h, w, 3] uint8, `reference.rgb_frames` at the model's input size. It is an
        argument because converting a frame costs as much as measuring it, and one reference is
        compared with many clips.
      distorted_rgb: the same for `distorted`.

    Raises:
      ValueError: the clips differ in number, size, matrix or range of frames.
    """
    if _kind(reference) != _kind(distorted):
        raise ValueError(
            "clips must agree in [T, H, W], matrix and range, got"
            f" {_kind(reference)} and {_kind(distorted)}"
        )
    mse_y = [_mse(*pair) for pair in zip(reference.y, distorted.y, strict=True)]
    mse_rgb = [_mse(*pair) for pair in zip(reference_rgb, distorted_rgb, strict=True)]
    psnr_y_db = _psnr_db(np.mean(mse_y))
    return ClipQuality(
        psnr_y_db=psnr_y_db,
        psnr_y_min_db=_psnr_db(max(mse_y)),
        psnr_y_p5_db=float(np.percentile([_psnr_db(mse) for mse in mse_y], 5)),
        psnr_rgb_db=_psnr_db(np.mean(mse_rgb)),
        ssim=float(np.mean(_filter_scores("ssim", "lavfi.ssim.Y", distorted, reference))),
        xpsnr_db=xpsnr_db(reference, distorted)
        if reference.width * reference.height >= XPSNR_MIN_AREA
        else psnr_y_db,
    )


def xpsnr_db(reference: Clip, distorted: Clip) -> float:
    """Compute `ClipQuality.xpsnr_db` of clips of at least 2048 pixels; see `measure_quality`."""
    # Unlike those of psnr and ssim, the first input of xpsnr is the reference.
    scores = _filter_scores("xpsnr", "lavfi.xpsnr.xpsnr.y", reference, distorted)
    return clip_xpsnr_db(scores)


def psnr_rgb_db(reference: UInt8Array, distorted: UInt8Array) -> float:
    """Compute the PSNR of RGB pixels from one mean squared error over all channels and pixels.

    Args:
      reference: [..., 3] uint8.
      distorted: the same shape.

    Returns:
      dB, peak 255, at most `PSNR_CAP_DB`.

    Raises:
      ValueError: the shapes differ or are not [..., 3], or there is no pixel.
    """
    if reference.shape != distorted.shape or reference.shape[-1:] != (3,) or not reference.size:
        raise ValueError(f"need two equal [..., 3], got {reference.shape} and {distorted.shape}")
    return _psnr_db(_mse(reference, distorted))


def _kind(clip: Clip) -> tuple[object, ...]:
    return clip.y.shape, clip.color.matrix, clip.color.color_range


def _mse(reference: UInt8Array, distorted: UInt8Array) -> float:
    error = np.subtract(reference, distorted, dtype=np.float32).ravel()
    # 258 squares of 8-bit errors are below 2**24: their sum in float32, the fastest, is exact.
    rest = error.size % 256
    blocks = error[rest:].reshape(-1, 256)
    squared = np.einsum("ij,ij->i", blocks, blocks).sum(dtype=np.float64)
    return float(squared + np.square(error[:rest]).sum(dtype=np.float64)) / error.size


def _psnr_db(mse: float | np.floating, peak: float = _PEAK) -> float:
    return PSNR_CAP_DB if mse == 0 else min(PSNR_CAP_DB, float(10 * np.log10(peak**2 / mse)))


def clip_psnr_db(frames_mse: Sequence[float], peak: float = _PEAK) -> float:
    """Return the PSNR of a clip from the mean squared error of each frame."""
    return _psnr_db(np.mean(frames_mse), peak)


def clip_xpsnr_db(frames_db: Sequence[float]) -> float:
    """Average as FFmpeg does: an error of 10^(-x/20) per frame; infinity counts as no error."""
    error = float(np.mean([10 ** (-value / 20) for value in frames_db]))
    return PSNR_CAP_DB if error == 0 else min(PSNR_CAP_DB, float(-20 * np.log10(error)))


def _filter_scores(name: str, key: str, first: Clip, second: Clip) -> list[float]:
    """Return the score that an FFmpeg filter gives the luma of each frame.

    Args:
      name: name of the filter, such as "ssim".
      key: key of the score in the metadata of the filter's output.
      first: clip of the filter's first input.
      second: clip of its second input.
    """
    inputs, sink, graph = comparison_graph(
        name, width=first.width, height=first.height, pix_fmt="gray", fps=first.fps
    )
    scores: list[float] = []
    for index in range(first.num_frames):
        for entry, clip in zip(inputs, (first, second), strict=True):
            frame = VideoFrame.from_numpy_buffer(clip.y[index], "gray")  # a view
            frame.pts, frame.time_base = index, 1 / first.fps
            entry.push(frame)
        # Drained frame by frame, so memory does not grow with the clip.
        scores += drained_scores(sink, key)
    for entry in inputs:
        entry.push(None)
    scores += drained_scores(sink, key)
    del graph  # referenced until here: the filter contexts do not keep the graph alive
    return scores


def drained_scores(sink: FilterContext, key: str) -> Iterator[float]:
    """Yield the score of each frame that a filter has ready, by its key in the metadata."""
    while True:
        try:
            yield float(sink.pull().metadata[key])
        except (NoFrameYet, NoFrameLeft):
            return


def comparison_graph(
    name: str, *, width: int, height: int, pix_fmt: str, fps: Fraction
) -> tuple[tuple[FilterContext, FilterContext], FilterContext, Graph]:
    """Return the inputs, the sink and the graph of a filter with two inputs.

    The graph must be referenced as long as the others are used.

    Args:
      name: name of the filter, such as "ssim".
      width: width of the frames in pixels.
      height: height of the frames in pixels.
      pix_fmt: FFmpeg's name of their format.
      fps: frames per second.
    """
    graph = Graph()
    graph.threads = 1
    # The xpsnr filter weights motion by the frame rate, which `add_buffer` cannot set.
    source = (
        f"video_size={width}x{height}:pix_fmt={pix_fmt}:time_base={_ratio(1 / fps)}"
        f":frame_rate={_ratio(fps)}:pixel_aspect=1/1"
    )
    inputs = graph.add("buffer", source), graph.add("buffer", source)
    compared, sink = graph.add(name), graph.add("buffersink")
    for index, entry in enumerate(inputs):
        entry.link_to(compared, 0, index)
    compared.link_to(sink)
    graph.configure()
    return inputs, sink, graph


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"
