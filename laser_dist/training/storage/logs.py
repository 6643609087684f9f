"""What a run tells while it trains: events for whoever watches, figures for later.

`RUN/logs/events/FIRST-STAGE.jsonl` holds one event a line, the newest last, of the stages that some
workers train one after the other; `RUN/logs/metrics/STAGE.csv` one figure a row (stage, epoch,
metric, value); `RUN/logs/tensorboard/` the same for TensorBoard. Stages may be trained side by
side, so no two of them write to one file.
"""

import contextlib
import csv
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser_dist.training.storage.run_store import RunStore

METRICS_FOLDER = Path("logs") / "metrics"
EVENTS_FOLDER = Path("logs") / "events"
TENSORBOARD_FOLDER = Path("logs") / "tensorboard"
COLUMNS = ("stage", "epoch", "metric", "value")
SECONDS_BETWEEN_STEPS = 0.5
SECONDS_BETWEEN_PUSHES = 5.0


class RunLog:
    """Writes a run's logs; only the chief worker has one that writes."""

    def __init__(self, store: RunStore, *, is_chief: bool, name: str = "events") -> None:
        """Opens the logs; those of an earlier attempt go on.

        Args:
          store: of the run.
          is_chief: whether this worker writes.
          name: of the file of events.
        """
        self._store = store
        self._events = events_path(store.local, name)
        self._writes = is_chief
        self._last_step = 0.0
        self._last_push = 0.0
        self._push = threading.Thread()
        self._writers: dict[str, Any] = {}
        if is_chief:
            self._events.parent.mkdir(parents=True, exist_ok=True)
            (store.local / METRICS_FOLDER).mkdir(parents=True, exist_ok=True)
            if not store.fetch(self._events):
                self._events.unlink(missing_ok=True)  # of a run that is no more
            with contextlib.suppress(OSError), self._events.open("ab+") as file:
                file.seek(-min(1, file.tell()), os.SEEK_END)
                if file.read() not in (b"", b"\n"):  # half a line of a worker that was killed
                    file.write(b"\n")

    def event(self, kind: str, **values: Any) -> None:
        """Appends an event: `stage`, `step`, `epoch`, `done` or `note`."""
        if not self._writes:
            return
        line = json.dumps({"kind": kind, "time": time.time(), **values}) + "\n"
        # A line for who watches: a disk that fails for a while must not end the run with it.
        with contextlib.suppress(OSError), self._events.open("a") as file:
            file.write(line)
        now = time.monotonic()
        # Beside the training: a store takes its time, and these lines are for who watches.
        if (
            self._store.is_remote
            and now - self._last_push >= SECONDS_BETWEEN_PUSHES
            and not self._push.is_alive()
        ):
            self._last_push = now
            self._push = threading.Thread(target=self._push_events, daemon=True)
            self._push.start()

    def close(self) -> None:
        """Brings what was told last into the store."""
        if self._writes and self._store.is_remote:
            if self._push.is_alive():
                self._push.join()
            self._store.push(self._events)

    def _push_events(self) -> None:
        with contextlib.suppress(OSError):  # the next one brings it all
            self._store.push(self._events)

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
        path = self._store.local / METRICS_FOLDER / f"{stage}.csv"
        if not self._store.fetch(path):
            path.unlink(missing_ok=True)
        rows = [row for row in _rows(path) if int(row[1]) < epoch]
        rows += [(stage, str(epoch), name, f"{value:.6g}") for name, value in figures.items()]
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        os.replace(unfinished, path)
        self._to_tensorboard(stage, epoch, figures)
        self._store.push(path, self._store.local / TENSORBOARD_FOLDER / stage)

    def _to_tensorboard(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        import tensorflow as tf

        if stage not in self._writers:
            folder = self._store.local / TENSORBOARD_FOLDER / stage
            self._writers[stage] = tf.summary.create_file_writer(str(folder))
        with self._writers[stage].as_default(step=epoch):
            for name, value in figures.items():
                tf.summary.scalar(name, value)
        self._writers[stage].flush()


def events_path(run_dir: Path, name: str) -> Path:
    """The file of events of the stages of which `name` is the first."""
    return run_dir / EVENTS_FOLDER / f"{name}.jsonl"


def events_in(content: bytes) -> list[dict[str, Any]]:
    """The events of such a file; a worker that is killed may leave half a line, which is none."""
    events = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return events


def _rows(path: Path) -> list[tuple[str, ...]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]
