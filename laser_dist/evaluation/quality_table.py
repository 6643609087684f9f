"""The dataset's quality table: what PSNR each source has at each quantiser."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laser_dist.errors import UserError

_COLUMNS = ("source_id", "qp", "psnr_rgb_db")


@dataclass(frozen=True, eq=False)
class QualityCurve:
    """PSNR of one source over the quantiser.

    Attributes:
      qps: [Q] float64, strictly ascending.
      psnr_rgb_db: [Q] float64, dB, at the model's resolution; higher is better.
    """

    qps: np.ndarray
    psnr_rgb_db: np.ndarray

    def __post_init__(self) -> None:
        if len(self.qps) == 0 or len(self.qps) != len(self.psnr_rgb_db):
            raise ValueError(
                f"expected as many PSNRs as QPs and at least one,"
                f" got {len(self.psnr_rgb_db)} for {len(self.qps)}"
            )
        if np.any(np.diff(self.qps) <= 0):
            raise ValueError(f"expected strictly ascending QPs, got {self.qps.tolist()}")

    def psnr_at(self, qps: np.ndarray) -> np.ndarray:
        """PSNR at any quantiser, linear between the table's QPs.

        Args:
          qps: any shape, may be fractional. A QP outside the table is taken as the nearest end of
            it: nothing was measured there, and a line drawn further would invent quality.

        Returns:
          float64 of the same shape, dB.
        """
        return np.interp(np.asarray(qps, np.float64), self.qps, self.psnr_rgb_db)


def read_quality_curves(folder: Path, source_ids: Iterable[str]) -> dict[str, QualityCurve]:
    """Read the curves of some sources from a folder of Parquet files.

    QP 0 is left out: it is the lossless reference, whose PSNR is the cap and not a measurement.

    Args:
      folder: the dataset's `quality/`; a row per (source, QP).
      source_ids: which sources are wanted.

    Returns:
      source id to its curve.

    Raises:
      UserError: no such folder, a file that is not this table, or a wanted source is not in it.
    """
    wanted = sorted(set(source_ids))
    table = _read_rows(folder, wanted)
    rows: dict[str, dict[int, float]] = {}
    for source_id, qp, psnr in zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True):
        rows.setdefault(source_id, {})[qp] = psnr
    missing = [source_id for source_id in wanted if source_id not in rows]
    if missing:
        raise UserError(
            f"quality table {folder}",
            "rows for every test source",
            f"none for {len(missing)} of {len(wanted)}, first {missing[0]}",
            "Build the dataset anew.",
        )
    return {source_id: _curve(by_qp) for source_id, by_qp in rows.items()}


def _read_rows(folder: Path, wanted: list[str]) -> pa.Table:
    # Checked first: pyarrow answers a missing or empty folder in several ways, none of them clear.
    if not any(folder.glob("*.parquet")):
        raise UserError(
            f"quality table {folder}", "Parquet files", "none", "Build the dataset anew."
        )
    keep = pc.field("source_id").isin(wanted) & (pc.field("qp") > 0)
    try:
        return pq.read_table(folder, columns=list(_COLUMNS), filters=keep)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"quality table {folder}",
            f"Parquet with the columns {', '.join(_COLUMNS)}",
            str(error).splitlines()[0],
            "Build the dataset anew.",
        ) from error


def _curve(by_qp: dict[int, float]) -> QualityCurve:
    qps = sorted(by_qp)
    return QualityCurve(
        qps=np.array(qps, np.float64),
        psnr_rgb_db=np.array([by_qp[qp] for qp in qps], np.float64),
    )
