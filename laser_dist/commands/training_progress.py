"""What a training tells while it runs, as lines for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from laser_dist.commands.wording import count_text, figure_text, time_text


class TrainingProgress:
    """Turns a run's events into lines: one that changes, and some that stay."""

    def __init__(self, stages: Sequence[str], *, each_epoch: bool) -> None:
        """Begins before the first event.

        Args:
          stages: their names, in order.
          each_epoch: whether every epoch leaves a line, or only every stage.
        """
        self._stages = tuple(stages)
        self._each_epoch = each_epoch
        self._stage: Mapping[str, Any] = {}
        self._first_step: Mapping[str, Any] = {}
        self._best: tuple[float, int] | None = None
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
        if kind == "stage":
            lines = self.finish(event["time"])
            self._stage, self._first_step, self._best = event, {}, None
            self._now = f"{self._name(event['stage'])}  starting"
            return lines
        if kind == "step":
            self._first_step = self._first_step or event
            self._now = self._step_line(event)
        elif kind == "epoch":
            return self._epoch(event)
        elif kind == "note":
            # Notes come between stages: the time they take is not the last stage's.
            lines = self.finish(event["time"])
            self._now = event["text"]
            return [*lines, f"  {event['text']}"] if self._each_epoch else lines
        return []

    def finish(self, now: float) -> list[str]:
        """The line of the stage that has just ended, if there is one to say.

        Args:
          now: seconds since the epoch.
        """
        stage, best = self._stage, self._best
        self._stage, self._best = {}, None
        if self._each_epoch or not stage or best is None:
            return []
        loss, epoch = figure_text(best[0]), best[1]
        return [
            f"  {self._name(stage['stage'])}  {count_text(stage['epochs'], 'epoch')}"
            f"  best validation {loss} (epoch {epoch})  {time_text(now - stage['time'])}"
        ]

    def _epoch(self, event: Mapping[str, Any]) -> list[str]:
        figures, epoch = event["figures"], event["epoch"]
        if self._best is None or figures["val_loss"] < self._best[0]:
            self._best = (figures["val_loss"], epoch)
        if not self._each_epoch:
            return []
        each = " ".join(
            f"{name.removeprefix('val_')} {figure_text(value)}"
            for name, value in figures.items()
            if name.startswith("val_") and name != "val_loss"
        )
        return [
            f"  {self._name(event['stage'])}  epoch {epoch}/{self._stage.get('epochs', '?')}"
            f"  loss {figure_text(figures['loss'])}  validation {figure_text(figures['val_loss'])}"
            + (f" ({each})" if each else "")
            + f"  {time_text(figures['seconds'])}"
        ]

    def _step_line(self, event: Mapping[str, Any]) -> str:
        return (
            f"{self._name(event['stage'])}  epoch {event['epoch']}/{event['epochs']}"
            f"  step {event['step']}/{event['steps']}  loss {figure_text(event['loss'])}"
            + self._time_left(event)
        )

    def _time_left(self, event: Mapping[str, Any]) -> str:
        """Of the stage, by the pace since its first step; the step before it built the graph."""
        done = _steps(event) - _steps(self._first_step)
        if done <= 0:
            return ""
        pace = (event["time"] - self._first_step["time"]) / done
        return f"  {time_text(pace * (event['epochs'] * event['steps'] - _steps(event)))} left"

    def _name(self, stage: str) -> str:
        number = self._stages.index(stage) + 1 if stage in self._stages else "?"
        return f"{number}/{len(self._stages)} {stage:<{max(map(len, self._stages))}}"


def _steps(event: Mapping[str, Any]) -> int:
    """Steps since the stage began."""
    return (event["epoch"] - 1) * event["steps"] + event["step"]
