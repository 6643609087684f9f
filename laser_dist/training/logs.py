"""What a run tells while it trains: events for whoever watches, figures for later.

`RUN/logs/events.jsonl` holds one event a line, the newest last; `RUN/logs/metrics.csv` one figure a
row (stage, epoch, metric, value); `RUN/logs/tensorboard/` the same for TensorBoard.
"""

import csv
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS_FILE = Path("logs") / "metrics.csv"
EVENTS_FILE = Path("logs") / "events.jsonl"
TENSORBOARD_FOLDER = Path("logs") / "tensorboard"
COLUMNS = ("stage", "epoch", "metric", "value")
SECONDS_BETWEEN_STEPS = 0.5


class RunLog:
    """Writes a run's logs; only the chief worker has one that writes."""

    def __init__(self, run_dir: Path, *, is_chief: bool) -> None:
        """Opens the logs; those of an earlier attempt go on."""
        self._run_dir = run_dir
        self._writes = is_chief
        self._last_step = 0.0
        self._writers: dict[str, Any] = {}
        if is_chief:
            (run_dir / METRICS_FILE).parent.mkdir(parents=True, exist_ok=True)

    def event(self, kind: str, **values: Any) -> None:
        """Appends an event: `stage`, `step`, `epoch`, `done` or `note`."""
        if not self._writes:
            return
        with (self._run_dir / EVENTS_FILE).open("a") as file:
            file.write(json.dumps({"kind": kind, "time": time.time(), **values}) + "\n")

    def step(self, **values: Any) -> None:
        """An event for a step, at most two a second."""
        now = time.monotonic()
        if now - self._last_step >= SECONDS_BETWEEN_STEPS:
            self._last_step = now
            self.event("step", **values)

    def epoch(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes an epoch's figures everywhere; what an earlier attempt said of it is replaced."""
        if not self._writes:
            return
        rows = [row for row in self._rows() if not (row[0] == stage and int(row[1]) >= epoch)]
        rows += [(stage, str(epoch), name, f"{value:.6g}") for name, value in figures.items()]
        path = self._run_dir / METRICS_FILE
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        os.replace(unfinished, path)
        self._to_tensorboard(stage, epoch, figures)

    def _rows(self) -> list[tuple[str, ...]]:
        path = self._run_dir / METRICS_FILE
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [tuple(row) for row in csv.reader(file)][1:]

    def _to_tensorboard(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        import tensorflow as tf

        if stage not in self._writers:
            folder = self._run_dir / TENSORBOARD_FOLDER / stage
            self._writers[stage] = tf.summary.create_file_writer(str(folder))
        with self._writers[stage].as_default(step=epoch):
            for name, value in figures.items():
                tf.summary.scalar(name, value)
        self._writers[stage].flush()
