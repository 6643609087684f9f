"""Decides after a worker's error whether the workers restart or the training ends."""

from collections.abc import Iterable, Sequence

from laser_dist.errors import UserError
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.storage.checkpoints import checkpoints_folder

# TensorFlow's errors in the workers that are left when another one is lost.
_LEFT_BEHIND = ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal", "Unknown")


class FailurePolicy:
    """Decides on the errors of one training's workers, one attempt after the other.

    All workers restart after an error. That helps if one of them was lost, but not if the code or
    the settings are wrong. If a machine ran out of memory, other programs may have used it, so the
    workers restart, but not twice from the same checkpoint.
    """

    def __init__(self, trained: Sequence[tuple[RunFiles, Sequence[str]]]) -> None:
        """Create the policy.

        Args:
          trained: storage of each run, and the names of the stages that the workers train.
        """
        self._trained = trained
        self._when_out_of_memory: list[list[str]] | None = None

    def fatal_error(self, errors: Iterable[BaseException]) -> BaseException | None:
        """Return the error that ends the training, or None if the workers should restart.

        Args:
          errors: errors of the workers: raised by the training function, or by Ray about them.
        """
        errors = list(errors)
        for error in errors:
            if not may_follow_from_a_lost_worker(error):
                return error
        if not any(map(is_out_of_memory, errors)):
            return None
        before = self._when_out_of_memory
        try:
            self._when_out_of_memory = self._checkpoints()
        except (OSError, UserError):  # storage failed, so whether there was progress is not known
            return None
        return out_of_memory_error() if self._when_out_of_memory == before else None

    def _checkpoints(self) -> list[list[str]]:
        return [
            store.names(checkpoints_folder(store.local, stage))
            for store, stages in self._trained
            for stage in stages
        ]


def may_follow_from_a_lost_worker(error: BaseException) -> bool:
    """Return whether an error, by its type, may be the consequence of another worker's loss."""
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    left_behind = package == "tensorflow" and name.removesuffix("Error") in _LEFT_BEHIND
    return package == "ray" or left_behind


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
