"""What an error of a worker means for the training: another try, or its end."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laser_dist.errors import UserError
from laser_dist.training.learning.memory import too_little_memory
from laser_dist.training.storage.checkpoints import checkpoints_folder
from laser_dist.training.storage.logs import events_in, events_path
from laser_dist.training.storage.run_store import RunStore

# What TensorFlow raises in the workers that are left when another one is lost.
_LEFT_BEHIND = ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal", "Unknown")
# Of Ray, which ends a worker before the machine's memory is full.
_FULL = re.compile(r"Memory on the node \(IP: ([^,)]+).*?was (.+? used / .+? limit)")


class Judge:
    """Decides on the errors of one training's workers, as they come.

    All workers are started anew after an error. That helps where one of them was lost; where the
    code or the settings are at fault it takes half a minute each time, to no end. Where a machine
    had too little memory it may help, as others may have used it: but not twice from one place.
    """

    def __init__(self, place: str, stages: Sequence[str]) -> None:
        """Knows of no error yet.

        Args:
          place: of the run, path or URL.
          stages: that the workers train.
        """
        self._place = place
        self._stages = stages
        self._when_full: Any = None

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
        try:
            under_way = self._under_way()
            come_to = self._come_to(under_way)
        except OSError:  # of the store: whether it has come further is not known
            return None
        before, self._when_full = self._when_full, come_to
        if come_to != before:
            return None
        return _memory_error(under_way, full[1], f"{full[2]}, and that twice")

    def told(self, error: BaseException) -> UserError | None:
        """What to tell of an error with which Ray ended the training itself, if it was memory."""
        full = _FULL.search(str(error))
        if full is None:
            return None
        under_way = None
        with contextlib.suppress(OSError):
            under_way = self._under_way()
        return _memory_error(under_way, full[1], full[2])

    def _under_way(self) -> Mapping[str, Any] | None:
        """The event with which the stage that is being trained began; None between stages."""
        store = RunStore(self._place)
        events = events_in(store.content(events_path(store.local, self._stages[0])) or b"")
        turns = [event for event in events if event["kind"] in ("stage", "done")]
        return turns[-1] if turns and turns[-1]["kind"] == "stage" else None

    def _come_to(self, under_way: Mapping[str, Any] | None) -> Any:
        """How far it has come: the stage, and its checkpoints."""
        if under_way is None:
            return ()
        store, stage = RunStore(self._place), under_way["stage"]
        return stage, store.names(checkpoints_folder(store.local, stage), patiently=False)


def may_come_of_a_lost_worker(error: BaseException) -> bool:
    """Whether a worker's error may be another worker's end, told by the error's own type.

    Args:
      error: that the training function raised, or Ray's word that the worker has died.
    """
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    left_behind = package == "tensorflow" and name.removesuffix("Error") in _LEFT_BEHIND
    return package == "ray" or left_behind


def _memory_error(under_way: Mapping[str, Any] | None, node: str, got: str) -> UserError:
    """What is told of a machine whose memory was full.

    Args:
      under_way: how the stage began in which that was; None if it was in none.
      node: the machine's address.
      got: how full it was.
    """
    device = f"the machine {node}"
    if under_way is None or "settings" not in under_way:
        hint = "Have fewer workers on one machine, or more memory."
        return UserError(f"Memory of {device}", "room for the workers", got, hint)
    return too_little_memory(
        device,
        under_way["stage"],
        settings_name=under_way["settings"],
        batch_size=under_way["batch_size"],
        replicas=under_way["replicas"],
        got=got,
    )
