"""Events of a run for live progress, and where its logs are.

`RUN/logs/events/FIRST-STAGE.jsonl` holds one event per line, oldest first, of the stages that some
workers train one after the other. It stays on the chief's machine if the run is in a bucket.
`RUN/logs/metrics/STAGE.csv` holds one metric per row (stage, epoch, metric, value), and
`RUN/logs/tensorboard/` the same for TensorBoard. Stages can be trained at the same time, so no two
of them write to one file.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser_dist.storage.run_files import RunFiles

METRICS_FOLDER = Path("logs") / "metrics"
EVENTS_FOLDER = Path("logs") / "events"
TENSORBOARD_FOLDER = Path("logs") / "tensorboard"
SECONDS_BETWEEN_STEPS = 0.5

# Not below `laser_dist`, whose records become events themselves.
progress_logger = logging.getLogger("laser_jnd_progress")


class RunLog:
    """Writes a run's logs, on the chief worker only."""

    def __init__(
        self, store: RunFiles, *, is_chief: bool, name: str = "events", prints: bool = False
    ) -> None:
        """Open the logs; an earlier attempt's are continued.

        Args:
          store: storage of the run.
          is_chief: whether this worker writes.
          name: name of the file of events.
          prints: whether progress also goes to `progress_logger`.
        """
        self._events = events_path(store.local, name)
        self._writes = is_chief
        self._prints = prints
        self._last_step = 0.0
        if is_chief:
            self._events.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError), self._events.open("ab+") as file:
                file.seek(-min(1, file.tell()), os.SEEK_END)
                if file.read() not in (b"", b"\n"):  # half a line of a worker that was killed
                    file.write(b"\n")

    def event(self, kind: str, **values: Any) -> None:
        """Append an event: `stage`, `step`, `epoch`, `done` or `note`."""
        if not self._writes:
            return
        line = json.dumps({"kind": kind, "time": time.time(), **values}) + "\n"
        # Only for live progress: a disk that fails for a while must not end the run.
        with contextlib.suppress(OSError), self._events.open("a") as file:
            file.write(line)
        if self._prints and (text := progress_text(kind, values)):
            progress_logger.info(text)

    def step(self, **values: Any) -> None:
        """Append an event for a step, at most two per second."""
        now = time.monotonic()
        if now - self._last_step >= SECONDS_BETWEEN_STEPS:
            self._last_step = now
            self.event("step", **values)


class EventReader:
    """Reads the events that are appended to a run's log from now on."""

    def __init__(self, run_dir: Path) -> None:
        """Start after the events of earlier attempts."""
        self._folder = run_dir / EVENTS_FOLDER
        self._positions = {path: path.stat().st_size for path in self._folder.glob("*.jsonl")}

    def read(self) -> list[dict[str, Any]]:
        """Return the events since the last call; none of a file that cannot be read now."""
        events: list[dict[str, Any]] = []
        for path in self._folder.glob("*.jsonl"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(self._positions.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):  # still being written
                        break
                    self._positions[path] = self._positions.get(path, 0) + len(line)
                    with contextlib.suppress(ValueError):  # half a line of a killed worker
                        events.append(json.loads(line))
        return events


def events_path(run_dir: Path, name: str) -> Path:
    """Return the file of events of the stages of which `name` is the first."""
    return run_dir / EVENTS_FOLDER / f"{name}.jsonl"


def progress_text(kind: str, values: Mapping[str, Any]) -> str:
    """Return an event as a line for a job's log; empty for steps."""
    if kind == "note":
        return values["text"]
    if kind == "stage":
        return f"{values['stage']}: {values['epochs']} epochs of {values['steps']} steps"
    if kind == "epoch":
        metrics = values["metrics"]
        return (
            f"{values['stage']}: epoch {values['epoch']}, loss {metrics['loss']:.4g}, "
            f"validation {metrics['val_loss']:.4g}, {metrics['seconds']:.0f} s"
        )
    return f"{values['stage']}: done" if kind == "done" else ""
