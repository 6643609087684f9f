"""The dataset's quality table: what PSNR and how many bits each source has at each quantiser."""

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
    """PSNR and bits of one source over the quantiser.

    Attributes:
      quantisers: [Q] float64, strictly ascending.
      psnr_rgb_db: [Q] float64, dB, at the model's resolution; higher is better. NaN where frames
        are compared with themselves: one of them at least is a measurement.
      num_bits: [Q] float64, of the whole coded source; NaN where they are not known.
    """

    quantisers: np.ndarray
    psnr_rgb_db: np.ndarray
    num_bits: np.ndarray

    def __post_init__(self) -> None:
        lengths = [len(self.quantisers), len(self.psnr_rgb_db), len(self.num_bits)]
        if len(set(lengths)) > 1 or not np.isfinite(self.psnr_rgb_db).any():
            raise ValueError(
                f"expected a PSNR and bits for each quantiser and one PSNR at least, got"
                f" {lengths[1]} and {lengths[2]} for {lengths[0]}: {self.psnr_rgb_db.tolist()}"
            )
        if np.any(np.diff(self.quantisers) <= 0):
            raise ValueError(
                f"expected strictly ascending quantisers, got {self.quantisers.tolist()}"
            )

    def psnr_at(self, quantisers: np.ndarray) -> np.ndarray:
        """PSNR at any quantiser, linear between the table's.

        Args:
          quantisers: any shape, may be fractional. One outside the table is taken as the nearest
            end of it: nothing was measured there, and a line drawn further would invent quality.

        Returns:
          float64 of the same shape, dB; NaN where the quantiser is.
        """
        measured = np.isfinite(self.psnr_rgb_db)
        return np.interp(
            np.asarray(quantisers, np.float64),
            self.quantisers[measured],
            self.psnr_rgb_db[measured],
        )

    def bits_at(self, quantisers: np.ndarray) -> np.ndarray:
        """Bits at any quantiser: their logarithm is linear between the table's, as `psnr_at`.

        Returns:
          float64 of the same shape; NaN throughout where any of the table's are not known.
        """
        asked = np.asarray(quantisers, np.float64)
        if np.isnan(self.num_bits).any():
            return np.full_like(asked, np.nan)
        return np.exp(np.interp(asked, self.quantisers, np.log(self.num_bits)))

    def finest(self, scale: Scale) -> float:
        """The table's quantiser of highest quality."""
        return float(self.quantisers[0 if scale.higher_is_worse else -1])


def read_quality_curves(
    folder: Path, source_ids: Iterable[str], scale: Scale
) -> dict[str, QualityCurve]:
    """Read the curves of some sources from a folder of Parquet files.

    The reference's PSNR is left out: it is the cap and not a measurement. QP 0 is left out as a
    whole, as no level can lie there; QF 100 is a JPEG as any other, and its bits are kept.

    Args:
      folder: the dataset's `quality/`; a row per (source, quantiser).
      source_ids: which sources are wanted.
      scale: whose name in lower case is the quantiser's column.

    Returns:
      source id to its curve.

    Raises:
      UserError: no such folder, a file that is not this table, or a wanted source is not in it.
    """
    wanted = sorted(set(source_ids))
    table = _read_rows(folder, wanted, scale)
    rows: dict[str, dict[int, tuple[float, float]]] = {}
    for source_id, quantiser, psnr, bits in zip(
        *map(pa.ChunkedArray.to_pylist, table), strict=True
    ):
        measured = math.nan if quantiser == scale.reference else psnr
        rows.setdefault(source_id, {})[quantiser] = (measured, math.nan if bits is None else bits)
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
    """The columns source, quantiser, PSNR and bits, of the wanted sources' coded rows."""
    # Checked first: pyarrow answers a missing or empty folder in several ways, none of them clear.
    if not any(folder.glob("*.parquet")):
        raise UserError(
            f"quality table {folder}", "Parquet files", "none", "Build the dataset anew."
        )
    quantiser = scale.name.lower()
    columns = ["source_id", quantiser, "psnr_rgb_db", "num_bits"]
    coded = (pc.field(quantiser) >= scale.lowest) & (pc.field(quantiser) <= scale.highest)
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
    quantisers = sorted(of_source)
    psnr_rgb_db, num_bits = np.array([of_source[each] for each in quantisers], np.float64).T
    return QualityCurve(np.array(quantisers, np.float64), psnr_rgb_db, num_bits)
