"""Checkpoints of a stage: one file each, complete or absent.

`epoch-003.npz` and `epoch-003-step-000040.npz` hold all variables of model and optimizer. The last
two stay, as a disk may damage the last one. `best-003.npz` holds the model's weights after the best
epoch before a checkpoint.
"""

import errno
import json
import logging
import re
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from laser_dist.errors import UserError
from laser_dist.storage.files import atomic_path
from laser_dist.storage.retries import reason, retrying
from laser_dist.storage.run_files import RunFiles

KEY_FILE = "key"
WRITING_THREAD = "checkpoint"  # start of the name of the thread that writes
PACKAGES = ("keras", "laser-jnd", "numpy", "tensorflow")  # whose versions are recorded
Variables = Callable[[], Mapping[str, np.ndarray]]
_ABOUT = "about"
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.npz")
_BEST = re.compile(r"best-\d+\.npz")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a stage.

    Attributes:
      epochs_done: number of complete epochs.
      best_epoch: epoch with the lowest validation loss, from 1; 0 before the first.
      best_loss: validation loss of that epoch.
      steps_done: number of steps of the current epoch.
      sums: for each metric, the sum over the examples of these steps, and their number.
    """

    epochs_done: int
    best_epoch: int
    best_loss: float
    steps_done: int = 0
    sums: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class DamagedCheckpointError(UserError):
    """A checkpoint is cut or altered."""


def checkpoints_folder(run_dir: Path, stage: str) -> Path:
    """Return the folder of a stage's checkpoints."""
    return run_dir / "checkpoints" / stage


def checkpoint_path(folder: Path, epochs_done: int, steps_done: int = 0) -> Path:
    """Return the path of the checkpoint after complete epochs, and steps of the next one."""
    within = f"-step-{steps_done:06d}" if steps_done else ""
    return folder / f"epoch-{epochs_done:03d}{within}.npz"


def best_path(folder: Path, epoch: int) -> Path:
    """Return the path of the model's weights after an epoch, the best so far."""
    return folder / f"best-{epoch:03d}.npz"


class CheckpointWriter:
    """Writes the checkpoints of a stage in a thread, one after the other, while steps run."""

    def __init__(
        self, store: RunFiles, folder: Path, config: Mapping[str, Any], resumed: Progress
    ) -> None:
        """Create the writer.

        Args:
          store: files of the run.
          folder: folder of the stage's checkpoints, below `store.local`.
          config: the run's resolved configuration, stored with the weights.
          resumed: progress of the checkpoint that the stage was resumed from.
        """
        self._store, self._folder, self._config = store, folder, config
        self._last = resumed
        self._pool = ThreadPoolExecutor(1, WRITING_THREAD)
        self._writing: Future[Path] | None = None
        self._written: list[Path] = []

    def save(self, variables: Variables, best: Variables, progress: Progress) -> None:
        """Write a checkpoint, when the one before has been written.

        Args:
          variables: returns the variables of model and optimizer, by their names; called in the
            thread.
          best: returns the model's variables after the best epoch; called if they are not stored.
          progress: progress of the stage.

        Raises:
          UserError: the one before could not be written, as `save_checkpoint`.
        """
        self.finish()
        last, self._last = self._last, progress
        self._writing = self._pool.submit(self._write, variables, best, progress, last)

    def finish(self) -> None:
        """Wait until all is written; raise the error of a checkpoint that could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self._written.append(writing.result())

    def close(self) -> None:
        """Wait until all is written, whether or not it could be, and end the thread."""
        self._pool.shutdown()

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written, if it is known."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def take_written(self) -> list[Path]:
        """Return the checkpoints that are known to be written and have not been returned before."""
        written, self._written = self._written, []
        return written

    def _write(
        self, variables: Variables, best: Variables, progress: Progress, last: Progress
    ) -> Path:
        state = variables()  # first, as it takes memory of the device until then
        weights = best() if progress.best_epoch != last.best_epoch else None
        path = save_checkpoint(
            self._store, self._folder, state, progress, self._config, best=weights
        )
        prune(self._store, self._folder, last, progress)
        return path


def claim_folder(store: RunFiles, folder: Path, key: str) -> None:
    """Reserve a stage's checkpoints for a key; remove those of another key.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints, below `store.local`.
      key: key of everything that the stage depends on.
    """
    claim = folder / KEY_FILE
    if store.fetch(claim) and claim.read_text() == key:
        return
    if checkpoint_names(store, folder):
        logger.warning(
            "%s: its checkpoints are removed, as they are of other settings, data or packages",
            folder.name,
        )
    store.remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    claim.write_text(key)
    store.push(claim)


def save_checkpoint(
    store: RunFiles,
    folder: Path,
    variables: Mapping[str, np.ndarray],
    progress: Progress,
    config: Mapping[str, Any],
    *,
    best: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a checkpoint, complete or absent; retry transient errors.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints, below `store.local`.
      variables: variables of model and optimizer, by their names.
      progress: progress of the stage.
      config: the run's resolved configuration, stored with the weights.
      best: variables of the model after the best epoch, written before; None if they are there.

    Returns:
      The path of the checkpoint.

    Raises:
      UserError: the storage is full or keeps failing; earlier checkpoints are unchanged.
    """
    final = checkpoint_path(folder, progress.epochs_done, progress.steps_done)
    about = {"progress": asdict(progress), "config": config, "versions": _versions()}
    files = [(final, variables, about)]
    if best is not None:
        files.insert(0, (best_path(folder, progress.best_epoch), best, {}))
    try:
        for path, values, said in files:
            text = json.dumps(said)
            retrying(lambda: _write(path, values, text), str(path))  # noqa: B023 - called at once
            store.push(path)
    except (OSError, UserError) as error:
        # The newest ones are on this machine, even if the run is in a bucket.
        names = {path.name for path in folder.glob("*.npz")} - {final.name}
        left = max(filter(_NAME.fullmatch, names), key=position_of, default="none")
        problem = error.message if isinstance(error, UserError) else f"{reason(error)}."
        raise UserError(
            f"Cannot save checkpoint {final.name} to {store.location}: {problem} The last "
            f"complete checkpoint is {left}.",
            hint="Free some space or restore the connection, then run the same command again.",
        ) from error
    return final


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], Progress]:
    """Load the variables, by their names, and the progress of a checkpoint.

    A warning names each package of which the checkpoint is of another version.

    Raises:
      OSError: the file cannot be read.
      DamagedCheckpointError: it is cut or altered.
    """
    variables, about = _read(path)
    sums = {name: (total, count) for name, (total, count) in about["progress"].pop("sums").items()}
    here = _versions()
    for name, version in about["versions"].items():
        if here.get(name) != version:
            logger.warning(
                "%s was written with %s %s, and is resumed with %s: the bits may differ",
                *(path.name, name, version, here.get(name)),
            )
    return variables, Progress(**about["progress"], sums=sums)


def load_best(folder: Path, epoch: int) -> dict[str, np.ndarray]:
    """Load the model's variables after the best epoch, by their names; errors as above."""
    return _read(best_path(folder, epoch))[0]


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            altered = archive.testzip()  # before a shape in it is believed
        if altered is not None:
            raise ValueError(f"{altered} has another checksum")
        with np.load(path, allow_pickle=False) as state:
            variables = {name: state[name] for name in state.files if name != _ABOUT}
            return variables, json.loads(str(state[_ABOUT]))
    except Exception as error:
        # A wrong offset in the file leads to EINVAL; other errors are those of the disk.
        if isinstance(error, MemoryError | OSError) and getattr(error, "errno", 0) != errno.EINVAL:
            raise
        raise DamagedCheckpointError(
            f"Checkpoint {path} is damaged: {error}.",
            hint="Run the same command again: it resumes from an earlier checkpoint.",
        ) from error


def intact_checkpoint(store: RunFiles, folder: Path) -> Path | None:
    """Return the path of the latest checkpoint from which a stage can be resumed, fetched.

    It is intact, and so are the weights of its best epoch. Each checkpoint that is not is named in
    a warning.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints.
    """
    for name in sorted(checkpoint_names(store, folder), key=position_of, reverse=True):
        path = folder / name
        try:
            about = _fetched(store, path)
            if epoch := about["progress"]["best_epoch"]:
                _fetched(store, best_path(folder, epoch))
        except DamagedCheckpointError as error:
            logger.warning("%s: %s is skipped. %s", folder.name, name, error.message)
        else:
            return path
    return None


def latest_checkpoint(store: RunFiles, folder: Path) -> Path | None:
    """Return the path of the latest complete checkpoint, which may have to be fetched.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints.
    """
    names = checkpoint_names(store, folder)
    return folder / max(names, key=position_of) if names else None


def prune(store: RunFiles, folder: Path, *resumable: Progress) -> None:
    """Remove unfinished checkpoints, and all others except some and the best weights of each.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints.
      *resumable: progress of the checkpoints to keep.
    """
    kept = {
        path.name
        for each in resumable
        for path in (
            checkpoint_path(folder, each.epochs_done, each.steps_done),
            best_path(folder, each.best_epoch),
        )
    }
    # Newest first: if the process is lost meanwhile, the latest retained checkpoint is intact.
    # Weights last, so that none is missing that a checkpoint needs.
    names = store.names(folder)
    saved = sorted(filter(_NAME.fullmatch, names), key=position_of, reverse=True)
    for name in [*saved, *filter(_BEST.fullmatch, names)]:
        if name not in kept:
            store.remove(folder / name)
    for path in folder.glob(".*.unfinished.npz"):
        path.unlink(missing_ok=True)
    for path in folder.glob("*.npz"):  # local copies, if the run is in a bucket
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _fetched(store: RunFiles, path: Path) -> dict[str, Any]:
    if not store.fetch(path):
        raise DamagedCheckpointError(f"Checkpoint {path} is missing.")
    return _read(path)[1]


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


def _write(final: Path, variables: Mapping[str, np.ndarray], about: str) -> None:
    with atomic_path(final) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **variables, **{_ABOUT: np.array(about)})


def checkpoint_names(store: RunFiles, folder: Path) -> list[str]:
    """Return the names of the complete checkpoints in a folder, sorted."""
    return [name for name in store.names(folder) if _NAME.fullmatch(name)]


def position_of(name: str) -> tuple[int, int]:
    """Return the number of complete epochs, and of steps of the next one, of a checkpoint."""
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)
