"""Measures one source at every QP there is: the quality table."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.elements import JudgedSource, QualityRow
from laser_dist.video.codec import VideoError, x264_version_of
from laser_dist.video.frames import Clip
from laser_dist.video.quality import measure_quality

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
SCHEMA = pa.schema([pa.field(f.name, _TYPES[f.type], nullable=False) for f in fields(QualityRow)])


def measure_clip(
    source: JudgedSource,
    qp: int,
    stream: bytes,
    origin: str,
    *,
    clips: tuple[Clip, Clip],
    model_size: tuple[int, int],
) -> QualityRow:
    """Measures one coded clip.

    Args:
      source: whose clip it is.
      qp: quantiser index.
      stream: the coded clip.
      origin: "file" or "encoded".
      clips: the reference and the decoded clip.
      model_size: (width, height) at which RGB is compared.
    """
    reference, distorted = clips
    width, height = model_size
    quality = measure_quality(reference, distorted, rgb_width=width, rgb_height=height)
    return QualityRow(
        source_id=source.source_id,
        qp=qp,
        num_bytes=len(stream),
        bitrate_kbps=len(stream) * 8 / 1000 / float(reference.num_frames / reference.fps),
        psnr_y_db=quality.psnr_y_db,
        psnr_rgb_db=quality.psnr_rgb_db,
        ssim=quality.ssim,
        xpsnr_db=quality.xpsnr_db,
        origin=origin,
        encoder=_encoder_of(stream),
    )


def write_quality_table(rows: Sequence[QualityRow], folder: Path) -> None:
    """Writes one source's rows as `SOURCE_ID.parquet`, complete or absent."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{rows[0].source_id}.parquet"
    unfinished = final.with_suffix(".unfinished")
    pq.write_table(table, unfinished)
    unfinished.rename(final)


def _encoder_of(stream: bytes) -> str:
    try:
        return f"x264 {x264_version_of(stream)}"
    except VideoError:
        return ""


def sorted_rows(rows: Iterable[QualityRow]) -> tuple[QualityRow, ...]:
    """Rows of one source, ascending in QP."""
    return tuple(sorted(rows, key=lambda row: row.qp))
