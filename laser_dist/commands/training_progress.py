"""Progress of trainings on the terminal."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from laser_dist.commands.processes import claim_signals
from laser_dist.commands.terminal import Show, Terminal
from laser_dist.training.session import Follower
from laser_dist.wording import count_text, figure_text, time_text

logger = logging.getLogger(__name__)

_SHARES = {"input_wait": "input", "compute": "compute", "checkpoint": "checkpoints"}


@dataclass
class _Running:
    """A stage that is being trained.

    Attributes:
      start: first event of the stage.
      first_step: event of its first step.
      best: lowest validation loss, and its epoch.
      rate: examples per second and worker in the last epoch.
    """

    start: Mapping[str, Any]
    first_step: Mapping[str, Any] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    rate: float = 0.0


class TrainingProgress:
    """Turns a run's events into lines: one that changes, and some that stay.

    Stages can be trained at the same time, so each is followed on its own.
    """

    def __init__(self, stages: Sequence[str], *, each_epoch: bool) -> None:
        """Start before the first event.

        Args:
          stages: names of the stages, in order.
          each_epoch: whether every epoch leaves a line, or only every stage.
        """
        self._stages = tuple(stages)
        self._each_epoch = each_epoch
        self._running: dict[str, _Running] = {}
        self._epochs: list[Mapping[str, float]] = []  # metrics of each
        self._last_saves_s = 0.0  # of the stages' last checkpoints, which no metrics contain
        self._line = "starting the workers"

    @property
    def line(self) -> str:
        """The line that changes."""
        return self._line

    def take(self, event: Mapping[str, Any]) -> list[str]:
        """Process an event of the run's log; return the lines that stay."""
        kind = event["kind"]
        if kind == "note":
            if self._each_epoch or event.get("warning"):
                return [f"  {event['text']}"]
            self._line = event["text"]
            return []
        stage = event["stage"]
        if kind == "stage":
            self._running[stage] = _Running(event)
            self._line = f"{self._name(stage)}  starting"
            return []
        running = self._running.setdefault(stage, _Running(event))
        if kind == "step":
            running.first_step = running.first_step or event
            self._line = self._step_line(event, running)
        elif kind == "epoch":
            return self._epoch(event, running)
        elif kind == "done":
            return self._done(event)
        return []

    def throughput(self) -> list[tuple[str, str]]:
        """Return the throughput over all epochs, and what their time was spent on, by name."""
        if not self._epochs:
            return []
        seconds = {
            name: sum(each[name] * each["training_seconds"] for each in self._epochs)
            for name in _SHARES
        }
        seconds["checkpoint"] += self._last_saves_s
        total = sum(seconds.values())
        shares = (f"{text} {seconds[name] / total:.0%}" for name, text in _SHARES.items())
        examples = sum(e["samples_per_second"] * e["training_seconds"] for e in self._epochs)
        rate = figure_text(examples / sum(e["training_seconds"] for e in self._epochs))
        return [("throughput", f"{rate} samples/s per worker"), ("spent on", ", ".join(shares))]

    def _done(self, event: Mapping[str, Any]) -> list[str]:
        running = self._running.pop(event["stage"])
        self._last_saves_s += event["checkpoint_seconds"]
        if self._each_epoch or running.best is None:
            return []
        loss, epoch = figure_text(running.best[0]), running.best[1]
        took = time_text(event["time"] - running.start["time"])
        epochs = running.start.get("epochs", epoch)
        return [
            f"  {self._name(event['stage'])}  {count_text(epochs, 'epoch')}"
            f"  best validation {loss} (epoch {epoch})  {took}"
            f"  {figure_text(running.rate)}/s per worker"
        ]

    def _epoch(self, event: Mapping[str, Any], running: _Running) -> list[str]:
        metrics, epoch = event["metrics"], event["epoch"]
        self._epochs.append(metrics)
        if running.best is None or metrics["val_loss"] < running.best[0]:
            running.best = (metrics["val_loss"], epoch)
        running.rate = metrics["samples_per_second"]
        if not self._each_epoch:
            return []
        each = " ".join(
            f"{name.removeprefix('val_')} {figure_text(value)}"
            for name, value in metrics.items()
            if name.startswith("val_") and name != "val_loss"
        )
        return [
            f"  {self._name(event['stage'])}  epoch {epoch}/{running.start.get('epochs', '?')}"
            f"  loss {figure_text(metrics['loss'])}  validation {figure_text(metrics['val_loss'])}"
            + (f" ({each})" if each else "")
            + f"  {time_text(metrics['seconds'])}"
        ]

    def _step_line(self, event: Mapping[str, Any], running: _Running) -> str:
        return (
            f"{self._name(event['stage'])}  epoch {event['epoch']}/{event['epochs']}"
            f"  step {event['step']}/{event['steps']}  loss {figure_text(event['loss'])}"
            + _time_left(event, running.first_step)
        )

    def _name(self, stage: str) -> str:
        number = self._stages.index(stage) + 1 if stage in self._stages else "?"
        return f"{number}/{len(self._stages)} {stage:<{max(map(len, self._stages))}}"


def _time_left(event: Mapping[str, Any], first_step: Mapping[str, Any]) -> str:
    """Estimate the rest of the stage from its steps after the first, which traces the graph."""
    done = _steps(event) - _steps(first_step)
    if done <= 0:
        return ""
    pace = (event["time"] - first_step["time"]) / done
    return f"  {time_text(pace * (event['epochs'] * event['steps'] - _steps(event)))} left"


def _steps(event: Mapping[str, Any]) -> int:
    """Return the number of steps since the start of the stage."""
    return (event["epoch"] - 1) * event["steps"] + event["step"]


class TerminalFollower(Follower):
    """Shows the progress of trainings on the terminal."""

    def __init__(self, terminal: Terminal, show: Show | None = None) -> None:
        """Take the terminal to show it on.

        Args:
          terminal: terminal for the lines that stay.
          show: shows the line that changes; None to open a progress line while runs are trained.
        """
        self._terminal = terminal
        self._show = show
        self._progress: list[TrainingProgress] = []
        self._prefixes: list[str] = []

    @property
    def throughput(self) -> list[tuple[str, str]]:
        """Throughput of the first run, and what its time was spent on, as names and values."""
        return self._progress[0].throughput() if self._progress else []

    def preparing(self) -> AbstractContextManager[Show]:
        """Show a line that changes."""
        return self._terminal.progress()

    @contextmanager
    def following(self, runs: Sequence[tuple[str, Sequence[str]]]) -> Iterator[None]:
        """Show a line that changes while the block runs."""
        each_epoch = not self._terminal.is_live
        self._progress = [TrainingProgress(stages, each_epoch=each_epoch) for _, stages in runs]
        names = [location.rpartition("/")[2] for location, _ in runs]
        self._prefixes = [f"  {name}" if len(runs) > 1 else "" for name in names]
        self._current = 0
        if self._show is not None:
            yield
            return
        with self._terminal.progress() as self._show:
            yield
        self._show = None

    def take(self, index: int, event: Mapping[str, Any]) -> None:
        """Log the lines that stay."""
        self._current = index
        for line in self._progress[index].take(event):
            logger.info("%s%s", self._prefixes[index], line)

    def look(self) -> None:
        """Show the line that changes, and keep the signals from Ray."""
        claim_signals()
        prefix = self._prefixes[self._current].strip()
        assert self._show is not None  # set while runs are trained
        self._show(f"{prefix}  {self._progress[self._current].line}".strip())
