"""Compare an encoded file with its source, frame by frame, in memory that does not grow."""

# PyAV's stubs leave the type of metadata open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext

from laser_dist.encoding.prepare import prepared_frames
from laser_dist.encoding.segments import Values
from laser_dist.errors import UserError
from laser_dist.video.containers import (
    Damage,
    damaged,
    frame_rate,
    open_video,
    presentation_time,
)
from laser_dist.video.packets import decode_frames
from laser_dist.video.quality import clip_psnr_db, clip_xpsnr_db, comparison_graph, drained_scores
from laser_dist.video.vmaf import MIN_SIDE, VmafError, VmafMeter, measuring_vmaf, vmaf_program

# Name of the filter to the key of its score of luma, and whether the reference comes first.
_FILTERS = {
    "psnr": ("lavfi.psnr.mse.y", False),
    "ssim": ("lavfi.ssim.Y", False),
    "xpsnr": ("lavfi.xpsnr.xpsnr.y", True),
}
_VMAF = "vmaf"
_ROUNDING_S = Fraction(2, 1000)  # containers round times, Matroska to milliseconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality of the luma of a part of a file, as FFmpeg's filters give it; higher is better.

    Attributes:
      psnr_db: from the mean squared error over all frames.
      ssim: mean over the frames.
      xpsnr_db: mean of the frames' weighted errors.
      vmaf: mean over the frames, from 0 to 100; None without a program that measures it.
    """

    psnr_db: float
    ssim: float
    xpsnr_db: float
    vmaf: float | None


@dataclass(frozen=True, kw_only=True)
class Verified:
    """An encoded file compared with its source.

    Attributes:
      num_frames: frames of both.
      duration_s: seconds from the first to the last frame of the encoded file. Each is shown at the
        time that it has in the source, up to half a frame.
      total: quality of all frames.
      scenes: quality of each scene; None for one of which no frame decodes.
    """

    num_frames: int
    duration_s: float
    total: Quality
    scenes: tuple[Quality | None, ...]


def verify(
    source: Path,
    output: Path,
    values: Values,
    *,
    needs_vmaf: bool = False,
    progress: Callable[[int], None] = lambda num_frames: None,
) -> Verified:
    """Decode both files once, and compare their frames.

    VMAF is measured if `vmaf_program` finds a program and frames are large enough for it.

    Args:
      source: the file that was encoded.
      output: the encoded file.
      values: the scenes, as for `transcode`.
      needs_vmaf: raise an error if VMAF cannot be measured, instead of a warning.
      progress: called with the number of frames that are compared.

    Raises:
      VmafError: VMAF cannot be measured, and is needed.
      UserError: a file does not decode, or they differ in the number or the times of frames.
    """
    scores: dict[str, list[float]] = {name: [] for name in (*_FILTERS, _VMAF)}
    count = 0
    bits = 8
    vmaf = _Vmaf(needs_vmaf)
    first_times = times = (Fraction(0), Fraction(0))
    with (
        _decoded(source) as (first, rate),
        _decoded(output) as (second, _),
        vmaf,
    ):
        filters: dict[str, tuple[tuple[FilterContext, FilterContext], FilterContext, Graph]] = {}
        for count, (reference, encoded) in enumerate(zip_longest(first, second), start=1):
            if reference is None or encoded is None:
                which = "fewer" if encoded is None else "more"
                raise UserError(
                    f"The encoded file has {which} frames than {source}: frame {count} differs.",
                    hint="Report this, with the command and the file.",
                )
            if not filters:
                bits = max(component.bits for component in reference.format.components)
                size = {"width": reference.width, "height": reference.height}
                form = {"pix_fmt": reference.format.name, "fps": rate}
                filters = {name: comparison_graph(name, **size, **form) for name in _FILTERS}
                vmaf.start(**size, **form)
            vmaf.add(reference, encoded)
            times = (presentation_time(reference) or 0, presentation_time(encoded) or 0)
            first_times = times if count == 1 else first_times
            due, shown = (time - start for time, start in zip(times, first_times, strict=True))
            if abs(shown - due) > max(1 / (2 * rate), _ROUNDING_S):
                raise UserError(
                    f"Frame {count} of the encoded file is shown at {float(shown):.3f} s, and at"
                    f" {float(due):.3f} s in {source}.",
                    hint="Report this, with the command and the file.",
                )
            for frame in (reference, encoded):
                frame.pts, frame.time_base = count - 1, 1 / rate
            for name, (entries, sink, _) in filters.items():
                is_first = _FILTERS[name][1]
                pair = (reference, encoded) if is_first else (encoded, reference)
                for entry, frame in zip(entries, pair, strict=True):
                    entry.push(frame)
                scores[name] += drained_scores(sink, _FILTERS[name][0])
            progress(count)
        for name, (entries, sink, _) in filters.items():
            for entry in entries:
                entry.push(None)
            scores[name] += drained_scores(sink, _FILTERS[name][0])
        scores[_VMAF] = vmaf.scores()
    total = _quality(scores, range(count), bits)
    if total is None:
        raise damaged(str(source), "it has no frames")
    return Verified(
        num_frames=count,
        duration_s=float(times[1] - first_times[1]),
        total=total,
        scenes=tuple(_quality(scores, frames, bits) for frames, _ in values),
    )


class _Vmaf(ExitStack):
    """Measures VMAF as far as it can; what fails is a warning, unless it is needed."""

    def __init__(self, is_needed: bool) -> None:
        super().__init__()
        self._is_needed = is_needed
        self._meter: VmafMeter | None = None

    def start(self, *, width: int, height: int, pix_fmt: str, fps: Fraction) -> None:
        """Start to compare frames of a size and format."""
        program = vmaf_program()
        if program is None or min(width, height) < MIN_SIDE:
            return
        size = {"width": width, "height": height}
        with self._warning():
            measuring = measuring_vmaf(program, **size, pix_fmt=pix_fmt, fps=fps)
            self._meter = self.enter_context(measuring)

    def add(self, reference: av.VideoFrame, encoded: av.VideoFrame) -> None:
        """Compare two frames."""
        if self._meter is not None:
            with self._warning():
                self._meter.add(reference, encoded)

    def scores(self) -> list[float]:
        """Return the VMAF of each frame; nothing if it was not measured."""
        if self._meter is not None:
            with self._warning():
                return self._meter.scores()
        return []

    @contextmanager
    def _warning(self) -> Generator[None]:
        try:
            yield
        except VmafError as error:
            if self._is_needed:
                raise
            self._meter = None
            logger.warning("%s", error.message)


@contextmanager
def _decoded(path: Path) -> Generator[tuple[Iterator[av.VideoFrame], Fraction]]:
    """Open a file, and give its prepared frames and their rate."""
    name, damage = str(path), Damage()
    with open_video(path, name, damage) as (container, stream):
        decoded = decode_frames(container, stream, name, damage)
        yield prepared_frames(decoded, stream, name), frame_rate(stream)


def _quality(scores: dict[str, list[float]], frames: range, bits: int) -> Quality | None:
    psnr, ssim, xpsnr, vmaf = (scores[name][frames.start : frames.stop] for name in scores)
    if not psnr:
        return None
    return Quality(
        psnr_db=clip_psnr_db(psnr, 2**bits - 1),
        ssim=float(np.mean(ssim)),
        xpsnr_db=clip_xpsnr_db(xpsnr),
        vmaf=float(np.mean(vmaf)) if vmaf else None,
    )
