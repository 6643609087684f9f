"""What training logged, as curves."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laser_dist.errors import UserError

_COLUMNS = ("stage", "epoch", "metric", "value")


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric over the epochs of one stage.

    Attributes:
      stage: of training, for example `jnd1`.
      metric: its name as logged; `val_` first means on the validation sources.
      epochs: [E] int64, ascending.
      values: [E] float64.
    """

    stage: str
    metric: str
    epochs: np.ndarray
    values: np.ndarray


def read_curves(folder: Path) -> tuple[Curve, ...]:
    """Read `logs/metrics/STAGE.csv` of a run, long form: stage, epoch, metric, value.

    Returns:
      The curves, by stage, the image backbone's first; empty where no log was kept.

    Raises:
      UserError: a file has other columns or a value that is no number.
    """
    paths = sorted(folder.glob("*.csv"), key=lambda path: (path.stem != "image", path.stem))
    return tuple(curve for path in paths for curve in _read_file(path))


def _read_file(path: Path) -> tuple[Curve, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise _unreadable(path, f"no column {missing[0]}")
        try:
            return curves_from_rows(reader)
        except (TypeError, ValueError) as error:
            raise _unreadable(path, str(error)) from error


def curves_from_rows(rows: Iterable[Mapping[str, str]]) -> tuple[Curve, ...]:
    """Collect rows into curves.

    A resumed run logs an epoch again: the later row counts. Values that are not finite are left
    out, as they cannot be drawn.
    """
    points: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        value = float(row["value"])
        if np.isfinite(value):
            points.setdefault((row["stage"], row["metric"]), {})[int(row["epoch"])] = value
    return tuple(
        Curve(
            stage=stage,
            metric=metric,
            epochs=np.array(sorted(by_epoch), np.int64),
            values=np.array([by_epoch[epoch] for epoch in sorted(by_epoch)], np.float64),
        )
        for (stage, metric), by_epoch in points.items()
    )


def _unreadable(path: Path, got: str) -> UserError:
    return UserError(
        f"training log {path}", f"CSV with {', '.join(_COLUMNS)}", got, "Train the run again."
    )
