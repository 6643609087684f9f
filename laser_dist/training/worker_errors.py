"""What an error of a worker means for the training: another try, or its end."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laser_dist.errors import UserError
from laser_dist.training.learning.memory import too_little_memory
from laser_dist.training.storage.logs import events_path
from laser_dist.training.storage.run_store import RunStore

# What TensorFlow raises in the workers that are left when another one is lost.
_LEFT_BEHIND = ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal", "Unknown")
# Of Ray, which ends a worker before the machine's memory is full.
_FULL = re.compile(r"Memory on the node \(IP: ([^,)]+).*?was (.+? used / .+? limit)")


class Judge:
    """Decides on the errors of one training's workers, as they come.

    All workers are started anew after an error. That helps where one of them was lost; where the
    code or the settings are at fault it takes half a minute each time, to no end. Where a machine
    had too little memory it may help, as others may have used it: but not twice in one epoch.
    """

    def __init__(self, place: str, stages: Sequence[str]) -> None:
        """Knows of no error yet.

        Args:
          place: of the run, path or URL.
          stages: that the workers train.
        """
        self._place = place
        self._stages = stages
        self._epochs_when_full: int | None = None

    def fault(self, errors: Iterable[BaseException]) -> BaseException | None:
        """What the training has to end with, if it has to.

        Args:
          errors: of the workers, raised by the training function or by Ray about them.
        """
        errors = list(errors)
        for error in errors:
            if not may_come_of_a_lost_worker(error):
                return error
        full = next(filter(None, (_FULL.search(str(error)) for error in errors)), None)
        if full is None:
            return None
        events = _events(self._place, self._stages[0])
        epochs, before = sum(each["kind"] == "epoch" for each in events), self._epochs_when_full
        self._epochs_when_full = epochs
        if epochs != before:
            return None
        return _memory_error(events, full[1], full[2], again=", and that twice")

    def end(self, error: BaseException) -> BaseException:
        """What the training's own error means, where it has ended.

        A machine may be so full that Ray ends more than the workers.
        """
        full = _FULL.search(str(error))
        if full is None:
            return error
        return _memory_error(_events(self._place, self._stages[0]), full[1], full[2])


def may_come_of_a_lost_worker(error: BaseException) -> bool:
    """Whether a worker's error may be another worker's end, told by the error's own type.

    Args:
      error: that the training function raised, or Ray's word that the worker has died.
    """
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    left_behind = package == "tensorflow" and name.removesuffix("Error") in _LEFT_BEHIND
    return package == "ray" or left_behind


def _memory_error(
    events: Iterable[Mapping[str, Any]], node: str, used: str, *, again: str = ""
) -> UserError:
    """What is told of a machine whose memory was full, given the training's events."""
    device, got = f"the machine {node}", used + again
    at = [each for each in events if each["kind"] == "stage"][-1:]
    if not at:
        hint = "Have fewer workers on one machine."
        return UserError(f"Memory of {device}", "room for the workers", got, hint)
    return too_little_memory(
        device,
        at[0]["stage"],
        settings_name=at[0]["settings"],
        batch_size=at[0]["batch_size"],
        replicas=at[0]["replicas"],
        got=got,
    )


def _events(place: str, first_stage: str) -> list[dict[str, Any]]:
    """What a training has told so far."""
    store = RunStore(place)
    told = []
    for line in (store.content(events_path(store.local, first_stage)) or b"").splitlines():
        with contextlib.suppress(ValueError):  # a worker that is ended may leave half a line
            told.append(json.loads(line))
    return told
