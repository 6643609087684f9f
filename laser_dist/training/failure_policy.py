"""Decides after a worker's error whether the workers restart or the training ends."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from laser_dist.errors import UserError
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.storage.checkpoints import checkpoint_names, checkpoints_folder

# TensorFlow's errors in the workers that are left when another one is lost.
_LEFT_BEHIND = ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded")


class FailurePolicy:
    """Decides on the errors of one training's workers, one attempt after the other.

    All workers restart after an error. That helps if one of them was lost, a machine was reclaimed,
    or storage failed, but not if the settings are wrong. Any other error may be either: cuDNN and
    NCCL raise the same types for a wrong driver and for a lost peer, and other programs may have
    used a machine's memory. So the workers restart, but not twice from the same checkpoint.
    """

    def __init__(self, trained: Sequence[tuple[RunFiles, Sequence[str]]]) -> None:
        """Create the policy.

        Args:
          trained: storage of each run, and the names of the stages that the workers train.
        """
        self._trained = trained
        self._checkpoints_at_failure: list[list[str]] | None = None

    def fatal_error(self, errors: Iterable[BaseException]) -> BaseException | None:
        """Return the error that ends the training, or None if the workers should restart.

        Args:
          errors: errors of the workers: raised by the training function, or by Ray about them.
        """
        kinds = {error: kind_of(error) for error in errors}
        for kind in ("fatal", "lost worker"):
            for error in kinds:
                if kinds[error] == kind:
                    return _explained(error) if kind == "fatal" else None
        unclear = [error for error in kinds if kinds[error] == "unclear"]
        if not unclear:
            return None
        before = self._checkpoints_at_failure
        try:
            self._checkpoints_at_failure = self._checkpoints()
        except (OSError, UserError):  # storage failed, so whether there was progress is not known
            return None
        if self._checkpoints_at_failure != before:
            return None
        return out_of_memory_error() if any(map(is_out_of_memory, unclear)) else unclear[0]

    def _checkpoints(self) -> list[list[str]]:
        return [
            checkpoint_names(store, checkpoints_folder(store.local, stage))
            for store, stages in self._trained
            for stage in stages
        ]


def kind_of(error: BaseException) -> Literal["fatal", "lost worker", "passing", "unclear"]:
    """Return what an error says, by its type.

    "fatal": it would only come again. "lost worker": Ray lost one, whatever the others raise.
    "passing": a peer or the storage did not answer. "unclear": it may come again.
    """
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    if isinstance(error, UserError | FloatingPointError) or _is_device_full(error):
        return "fatal"
    if is_out_of_memory(error):
        return "unclear"
    if package == "ray":
        return "lost worker"
    is_left_behind = package == "tensorflow" and name.removesuffix("Error") in _LEFT_BEHIND
    return "passing" if is_left_behind or isinstance(error, OSError) else "unclear"


def _is_device_full(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    return (package, type(error).__name__) == ("tensorflow", "ResourceExhaustedError")


def _explained(error: BaseException) -> BaseException:
    """Return the error to report; the training loop itself explains a full device in its steps."""
    if not _is_device_full(error):
        return error
    device = re.search(r"device:([GC]PU:\d+)", str(error))
    return UserError(
        f"{device[1] if device else 'A device'} of a worker has too little memory.",
        hint="Use devices with more memory, smaller frames, or precision=bfloat16.",
    )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether Ray killed a worker because its machine's memory was nearly full."""
    cause = type(getattr(error, "health_check_failure", error))  # Ray Train wraps Ray's own error
    return (cause.__module__, cause.__name__) == ("ray.exceptions", "OutOfMemoryError")


def out_of_memory_error() -> UserError:
    """Return the error for machines without enough memory for their workers."""
    return UserError(
        "A machine ran out of memory, so Ray killed a worker of the training.",
        hint="Run fewer workers per machine, lower the stage's batch_size, or use machines with "
        "more memory.",
    )
