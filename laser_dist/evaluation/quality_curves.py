"""Quality and size of each source over the quantizer, from the dataset's quality table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laser_dist.errors import UserError
from laser_dist.jnd.scale import Scale

_REBUILD = "Rebuild the dataset."


@dataclass(frozen=True, eq=False)
class QualityCurve:
    """PSNR and size of one source at the measured quantizers.

    Attributes:
      quantizers: [Q] float64, strictly ascending.
      psnr_rgb_db: [Q] float64, dB, at the model's resolution; higher is better. NaN for the
        reference, which would be compared with itself; at least one value is finite.
      num_bits: [Q] float64, size of the encoded clip; NaN where unknown.
      seconds: duration of the clip; NaN for an image, or if unknown.
    """

    quantizers: np.ndarray
    psnr_rgb_db: np.ndarray
    num_bits: np.ndarray
    seconds: float = math.nan

    def __post_init__(self) -> None:
        lengths = [len(self.quantizers), len(self.psnr_rgb_db), len(self.num_bits)]
        if len(set(lengths)) > 1 or not np.isfinite(self.psnr_rgb_db).any():
            raise ValueError(
                f"a quality curve needs a PSNR and a size for each quantizer, and at least one"
                f" finite PSNR: {lengths[0]} quantizers, {lengths[1]} PSNRs"
                f" {self.psnr_rgb_db.tolist()}, {lengths[2]} sizes"
            )
        if np.any(np.diff(self.quantizers) <= 0):
            raise ValueError(f"quantizers are not strictly ascending: {self.quantizers.tolist()}")

    def psnr_at(self, quantizers: np.ndarray) -> np.ndarray:
        """Interpolate the PSNR linearly.

        Args:
          quantizers: any shape, may be fractional. Values outside the measured range are clipped
            to it, because an extrapolated PSNR would have no measurement behind it.

        Returns:
          float64 of the same shape, dB; NaN where the quantizer is NaN.
        """
        measured = np.isfinite(self.psnr_rgb_db)
        return np.interp(
            np.asarray(quantizers, np.float64),
            self.quantizers[measured],
            self.psnr_rgb_db[measured],
        )

    def bits_at(self, quantizers: np.ndarray) -> np.ndarray:
        """Interpolate the number of bits, linearly in its logarithm, clipped as in `psnr_at`.

        Returns:
          float64 of the same shape; all NaN if any of the measured sizes is unknown.
        """
        quantizers = np.asarray(quantizers, np.float64)
        if np.isnan(self.num_bits).any():
            return np.full_like(quantizers, np.nan)
        return np.exp(np.interp(quantizers, self.quantizers, np.log(self.num_bits)))

    def kbps_at(self, quantizers: np.ndarray) -> np.ndarray:
        """Interpolate the bit rate, kilobits (1000) per second, like `bits_at`.

        Returns:
          float64 of the same shape; NaN for an image.
        """
        return self.bits_at(quantizers) / 1000 / self.seconds

    def finest(self, scale: Scale) -> float:
        """Return the measured quantizer of highest quality."""
        return float(self.quantizers[0 if scale.higher_is_worse else -1])


def read_quality_curves(
    folder: Path, source_ids: Iterable[str], scale: Scale
) -> dict[str, QualityCurve]:
    """Read the curves of some sources from the Parquet files of a quality table.

    The reference's PSNR is dropped, because it is a cap and not a measurement. QP 0 is dropped
    completely, because no level can be there. QF 100 is an ordinary JPEG, so its size is kept.

    Args:
      folder: the dataset's `quality/`; one row per (source, quantizer).
      source_ids: sources to read.
      scale: its name in lower case is the name of the quantizer column.

    Returns:
      Source id to its curve.

    Raises:
      UserError: the folder has no table, a file is unreadable or lacks a column, or a source is
        missing.
    """
    rows: dict[str, dict[int, tuple[float, float]]] = {one: {} for one in sorted(set(source_ids))}
    seconds: dict[str, float] = {}
    columns = _read_columns(folder, list(rows), scale)
    for source_id, quantizer, psnr_db, num_bits, kbps in zip(
        *map(pa.ChunkedArray.to_pylist, columns), strict=True
    ):
        rows[source_id][quantizer] = (
            math.nan if quantizer == scale.reference else psnr_db,
            math.nan if num_bits is None else num_bits,
        )
        if num_bits and kbps:
            seconds[source_id] = num_bits / 1000 / kbps
    missing = [source_id for source_id, row in rows.items() if row.keys() <= {scale.reference}]
    if missing:
        raise UserError(
            f"The quality table {folder} has no measurement of {len(missing)} of {len(rows)}"
            f" sources, for example {missing[0]}.",
            hint=_REBUILD,
        )
    return {
        source_id: QualityCurve(
            *np.array([(quantizer, *row[quantizer]) for quantizer in sorted(row)], np.float64).T,
            seconds=seconds.get(source_id, math.nan),
        )
        for source_id, row in rows.items()
    }


def _read_columns(folder: Path, source_ids: list[str], scale: Scale) -> list[pa.ChunkedArray]:
    """Return source id, quantizer, PSNR, bits and kbit/s of the sources' rows within the scale."""
    # Checked here because pyarrow's errors for a missing and for an empty folder are unclear.
    if not any(folder.glob("*.parquet")):
        raise UserError(f"The quality table {folder} has no Parquet files.", hint=_REBUILD)
    quantizer = scale.name.lower()
    # The last one is not used, but tables of version 1, whose PSNR and bits mean less, lack it.
    columns = ["source_id", quantizer, "psnr_rgb_db", "num_bits", "bitrate_kbps", "psnr_y_min_db"]
    in_scale = (pc.field(quantizer) >= scale.lowest) & (pc.field(quantizer) <= scale.highest)
    try:
        return pq.read_table(
            folder, columns=columns, filters=pc.field("source_id").isin(source_ids) & in_scale
        ).columns[:5]
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"Cannot read the columns {', '.join(columns)} from the quality table {folder}:"
            f" {str(error).splitlines()[0].rstrip('.')}.",
            hint=_REBUILD,
        ) from error
