"""From found sources to frame pairs and quality rows.

JudgedSource ─ decode reference ─▶ at each QP: decode, measure ─▶ MeasuredSource
                                    └ at a level without a coded clip: encode anew
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import apache_beam as beam
import numpy as np

from beam_pipelines.elements import FramePair, JudgedSource, MeasuredSource, QualityRow
from beam_pipelines.quality_sweep import measure_clip, sorted_rows, write_quality_table
from beam_pipelines.rejects import SOURCE, Reject
from beam_pipelines.rejects_table import REJECTS
from laser_dist.video.activity import spatial_information, temporal_information
from laser_dist.video.codec import VideoError, decode, encode_h264
from laser_dist.video.frames import Clip
from laser_dist.video.quality import psnr_rgb_db


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """What decides the examples, beside the clips.

    Attributes:
      model_width: of the frames, in pixels.
      model_height: of the frames, in pixels.
      frames_per_second: frames taken of each source; at least one.
    """

    model_width: int
    model_height: int
    frames_per_second: float

    def frame_indices(self, num_frames: int, fps: float) -> list[int]:
        """Which frames are taken: the centres of equal intervals over the clip."""
        count = int(min(max(round(num_frames / fps * self.frames_per_second), 1), num_frames))
        return [int((i + 0.5) * num_frames / count) for i in range(count)]


def measure_source(source: JudgedSource, settings: PairSettings) -> MeasuredSource:
    """Decodes, measures and pairs one source.

    Args:
      source: found and matched; its clips include the reference.
      settings: of the examples.

    Returns:
      Rows for all QPs that have a clip and for the three levels, and the frame pairs. A level
      without a coded clip is encoded anew from the reference.

    Raises:
      VideoError: a clip cannot be decoded, or differs from its reference in size or length.
      OSError: a file cannot be read.
    """
    paths = dict(source.clips)
    reference = decode(paths[0], fps=source.fps)
    size = (settings.model_width, settings.model_height)
    rows: list[QualityRow] = []
    level_clips: dict[int, Clip] = {}
    for qp in sorted({*paths, *source.level_qps} - {0}):
        if qp in paths:
            stream, origin = paths[qp].read_bytes(), "file"
        else:
            stream, origin = encode_h264(reference, qp=qp), "encoded"
        clip = _decode_like(reference, stream, paths.get(qp, Path(f"of QP {qp}")))
        clips = (reference, clip)
        rows.append(measure_clip(source, qp, stream, origin, clips=clips, model_size=size))
        if qp in source.level_qps:
            level_clips[qp] = clip
    first, second, third = ("file" if qp in paths else "encoded" for qp in source.level_qps)
    return MeasuredSource(
        source=source,
        level_origins=(first, second, third),
        spatial_information=spatial_information(reference),
        temporal_information=temporal_information(reference),
        rows=sorted_rows(rows),
        pairs=_pairs(reference, [level_clips[qp] for qp in source.level_qps], settings),
    )


def _pairs(reference: Clip, levels: list[Clip], settings: PairSettings) -> tuple[FramePair, ...]:
    size = {"width": settings.model_width, "height": settings.model_height}
    pairs: list[FramePair] = []
    for index in settings.frame_indices(reference.num_frames, float(reference.fps)):
        raw = reference.rgb(index, **size)
        frames = np.stack([clip.rgb(index, **size) for clip in levels])
        first, second, third = (psnr_rgb_db(raw, frame) for frame in frames)
        pairs.append(
            FramePair(
                frame_index=index,
                timestamp_s=float(reference.timestamps[index]),
                raw=raw,
                levels=frames,
                psnr_db=(first, second, third),
            )
        )
    return tuple(pairs)


def _decode_like(reference: Clip, stream: bytes, path: Path) -> Clip:
    """Decodes a coded clip, which must be as long and as large as its reference."""
    try:
        clip = decode(stream, fps=reference.fps, expected_frames=reference.num_frames)
    except VideoError as error:  # which speaks of "bytes in memory"
        raise VideoError(
            f"Clip {path}", error.expected, error.got, "Fetch the clip again."
        ) from error
    if clip.y.shape != reference.y.shape:
        raise VideoError(
            f"Clip {path}",
            f"the reference's {reference.width}x{reference.height}",
            f"{clip.width}x{clip.height}",
            "Fetch the clip again.",
        )
    return clip


class MeasureSources(beam.DoFn):
    """`measure_source` for every source; what cannot be used goes to the output `rejects`.

    Each source's quality rows are written as soon as they are there: one file, complete or absent.
    """

    def __init__(self, settings: PairSettings, quality_folder: Path) -> None:
        self._settings = settings
        self._quality_folder = quality_folder
        self._measured = beam.metrics.Metrics.counter("sources", "measured")
        self._rejected = beam.metrics.Metrics.counter("sources", "rejected")

    def process(
        self, source: JudgedSource
    ) -> Iterable[MeasuredSource | beam.pvalue.TaggedOutput[Literal["rejects"], Reject]]:
        """Yields the measured source, or one reject."""
        try:
            measured = measure_source(source, self._settings)
        except (VideoError, OSError) as error:
            self._rejected.inc()
            reject = Reject(what=SOURCE, where=source.source_id, stage="measure", reason=str(error))
            yield beam.pvalue.TaggedOutput(REJECTS, reject)
            return
        write_quality_table(measured.rows, self._quality_folder)
        self._measured.inc()
        yield measured
