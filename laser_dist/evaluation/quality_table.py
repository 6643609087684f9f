"""The dataset's quality table: what PSNR and how many bits each source has at each quantizer."""

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


@dataclass(frozen=True, eq=False)
class QualityCurve:
    """PSNR and bits of one source over the quantizer.

    Attributes:
      quantizers: [Q] float64, strictly ascending.
      psnr_rgb_db: [Q] float64, dB, at the model's resolution; higher is better. NaN where frames
        are compared with themselves: one of them at least is a measurement.
      num_bits: [Q] float64, of the whole coded source; NaN where they are not known.
    """

    quantizers: np.ndarray
    psnr_rgb_db: np.ndarray
    num_bits: np.ndarray

    def __post_init__(self) -> None:
        lengths = [len(self.quantizers), len(self.psnr_rgb_db), len(self.num_bits)]
        if len(set(lengths)) > 1 or not np.isfinite(self.psnr_rgb_db).any():
            raise ValueError(
                f"expected a PSNR and bits for each quantizer and one PSNR at least, got"
                f" {lengths[1]} and {lengths[2]} for {lengths[0]}: {self.psnr_rgb_db.tolist()}"
            )
        if np.any(np.diff(self.quantizers) <= 0):
            raise ValueError(
                f"expected strictly ascending quantizers, got {self.quantizers.tolist()}"
            )

    def psnr_at(self, quantizers: np.ndarray) -> np.ndarray:
        """PSNR at any quantizer, linear between the table's.

        Args:
          quantizers: any shape, may be fractional. One outside the table is taken as the nearest
            end of it: nothing was measured there, and a line drawn further would invent quality.

        Returns:
          float64 of the same shape, dB; NaN where the quantizer is.
        """
        measured = np.isfinite(self.psnr_rgb_db)
        return np.interp(
            np.asarray(quantizers, np.float64),
            self.quantizers[measured],
            self.psnr_rgb_db[measured],
        )

    def bits_at(self, quantizers: np.ndarray) -> np.ndarray:
        """Bits at any quantizer: their logarithm is linear between the table's, as `psnr_at`.

        Returns:
          float64 of the same shape; NaN throughout where any of the table's are not known.
        """
        asked = np.asarray(quantizers, np.float64)
        if np.isnan(self.num_bits).any():
            return np.full_like(asked, np.nan)
        return np.exp(np.interp(asked, self.quantizers, np.log(self.num_bits)))

    def finest(self, scale: Scale) -> float:
        """The table's quantizer of highest quality."""
        return float(self.quantizers[0 if scale.higher_is_worse else -1])


def read_quality_curves(
    folder: Path, source_ids: Iterable[str], scale: Scale
) -> dict[str, QualityCurve]:
    """Read the curves of some sources from a folder of Parquet files.

    The reference's PSNR is left out: it is the cap and not a measurement. QP 0 is left out as a
    whole, as no level can lie there; QF 100 is a JPEG as any other, and its bits are kept.

    Args:
      folder: the dataset's `quality/`; a row per (source, quantizer).
      source_ids: which sources are wanted.
      scale: whose name in lower case is the quantizer's column.

    Returns:
      source id to its curve.

    Raises:
      UserError: no such folder, a file that is not this table, or a wanted source is not in it.
    """
    wanted = sorted(set(source_ids))
    table = _read_rows(folder, wanted, scale)
    rows: dict[str, dict[int, tuple[float, float]]] = {}
    for source_id, quantizer, psnr, bits in zip(
        *map(pa.ChunkedArray.to_pylist, table), strict=True
    ):
        measured = math.nan if quantizer == scale.reference else psnr
        rows.setdefault(source_id, {})[quantizer] = (measured, math.nan if bits is None else bits)
    missing = [s for s in wanted if rows.get(s, {}).keys() <= {scale.reference}]
    if missing:
        raise UserError(
            f"quality table {folder}",
            "rows for every test source",
            f"none for {len(missing)} of {len(wanted)}, first {missing[0]}",
            "Build the dataset anew.",
        )
    return {source_id: _curve(of_source) for source_id, of_source in rows.items()}


def _read_rows(folder: Path, wanted: list[str], scale: Scale) -> list[pa.ChunkedArray]:
    """The columns source, quantizer, PSNR and bits, of the wanted sources' coded rows."""
    # Checked first: pyarrow answers a missing or empty folder in several ways, none of them clear.
    if not any(folder.glob("*.parquet")):
        raise UserError(
            f"quality table {folder}", "Parquet files", "none", "Build the dataset anew."
        )
    quantizer = scale.name.lower()
    columns = ["source_id", quantizer, "psnr_rgb_db", "num_bits"]
    coded = (pc.field(quantizer) >= scale.lowest) & (pc.field(quantizer) <= scale.highest)
    keep = pc.field("source_id").isin(wanted) & coded
    try:
        return pq.read_table(folder, columns=columns, filters=keep).columns
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"quality table {folder}",
            f"Parquet with the columns {', '.join(columns)}",
            str(error).splitlines()[0],
            "Build the dataset anew.",
        ) from error


def _curve(of_source: dict[int, tuple[float, float]]) -> QualityCurve:
    quantizers = sorted(of_source)
    psnr_rgb_db, num_bits = np.array([of_source[each] for each in quantizers], np.float64).T
    return QualityCurve(np.array(quantizers, np.float64), psnr_rgb_db, num_bits)
