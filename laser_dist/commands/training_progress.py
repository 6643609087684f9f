"""What a training tells while it runs, as lines for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from laser_dist.commands.wording import count_text, figure_text, time_text

_SHARES = {
    "input_wait": "input",
    "compute": "compute",
    "all_reduce": "all-reduce",
    "checkpoint": "checkpoints",
}


@dataclass
class _Running:
    """A stage that is being trained: its first events, and its best epoch so far."""

    began: Mapping[str, Any]
    first_step: Mapping[str, Any] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    rate: float = 0.0  # examples a second of each worker, in the last epoch


class TrainingProgress:
    """Turns a run's events into lines: one that changes, and some that stay.

    Stages may be trained side by side, so each is followed by itself.
    """

    def __init__(self, stages: Sequence[str], *, each_epoch: bool) -> None:
        """Begins before the first event.

        Args:
          stages: their names, in order.
          each_epoch: whether every epoch leaves a line, or only every stage.
        """
        self._stages = tuple(stages)
        self._each_epoch = each_epoch
        self._running: dict[str, _Running] = {}
        self._epochs: list[Mapping[str, float]] = []  # figures of each
        self._last_saves_s = 0.0  # checkpoints after stages' last epochs, in none of their figures
        self._now = "starting the workers"

    @property
    def line(self) -> str:
        """What is going on."""
        return self._now

    def take(self, event: Mapping[str, Any]) -> list[str]:
        """Takes an event of the run's log.

        Returns:
          Lines to leave on the terminal.
        """
        kind = event["kind"]
        if kind == "note":
            self._now = event["text"]
            return [f"  {event['text']}"] if self._each_epoch else []
        stage = event["stage"]
        if kind == "stage":
            self._running[stage] = _Running(event)
            self._now = f"{self._name(stage)}  starting"
            return []
        running = self._running.setdefault(stage, _Running(event))
        if kind == "step":
            running.first_step = running.first_step or event
            self._now = self._step_line(event, running)
        elif kind == "epoch":
            return self._epoch(event, running)
        elif kind == "done":
            return self._done(event)
        return []

    def pace(self) -> list[tuple[str, str]]:
        """How fast all epochs taken went, and what their time was spent on, by name."""
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
        return [("pace", f"{rate} samples/s a worker"), ("spent on", ", ".join(shares))]

    def _done(self, event: Mapping[str, Any]) -> list[str]:
        """The line of a stage that has ended."""
        running = self._running.pop(event["stage"])
        self._last_saves_s += event["checkpoint_seconds"]
        if self._each_epoch or running.best is None:
            return []
        loss, epoch = figure_text(running.best[0]), running.best[1]
        took = time_text(event["time"] - running.began["time"])
        epochs = running.began.get("epochs", epoch)
        return [
            f"  {self._name(event['stage'])}  {count_text(epochs, 'epoch')}"
            f"  best validation {loss} (epoch {epoch})  {took}"
            f"  {figure_text(running.rate)}/s a worker"
        ]

    def _epoch(self, event: Mapping[str, Any], running: _Running) -> list[str]:
        figures, epoch = event["figures"], event["epoch"]
        self._epochs.append(figures)
        if running.best is None or figures["val_loss"] < running.best[0]:
            running.best = (figures["val_loss"], epoch)
        running.rate = figures["samples_per_second"]
        if not self._each_epoch:
            return []
        each = " ".join(
            f"{name.removeprefix('val_')} {figure_text(value)}"
            for name, value in figures.items()
            if name.startswith("val_") and name != "val_loss"
        )
        return [
            f"  {self._name(event['stage'])}  epoch {epoch}/{running.began.get('epochs', '?')}"
            f"  loss {figure_text(figures['loss'])}  validation {figure_text(figures['val_loss'])}"
            + (f" ({each})" if each else "")
            + f"  {time_text(figures['seconds'])}"
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
    """Of the stage, by the pace since its first step; the step before it built the graph."""
    done = _steps(event) - _steps(first_step)
    if done <= 0:
        return ""
    pace = (event["time"] - first_step["time"]) / done
    return f"  {time_text(pace * (event['epochs'] * event['steps'] - _steps(event)))} left"


def _steps(event: Mapping[str, Any]) -> int:
    """Steps since the stage began."""
    return (event["epoch"] - 1) * event["steps"] + event["step"]
