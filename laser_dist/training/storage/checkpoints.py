"""Checkpoints of a stage: one file each, complete or absent.

The last two stay, as a disk may damage the last one, and the best one of each.
"""

import errno
import json
import logging
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from laser_dist.errors import UserError
from laser_dist.storage.files import atomic_path
from laser_dist.storage.retries import reason, retrying
from laser_dist.storage.run_files import RunFiles

KEY_FILE = "key"
_ABOUT = "about"
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.npz")

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
) -> Path:
    """Write a checkpoint, complete or absent; retry transient errors.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints, below `store.local`.
      variables: variables of model and optimizer, by their names.
      progress: progress of the stage.
      config: the run's resolved configuration, stored with the weights.

    Returns:
      The path of the checkpoint.

    Raises:
      UserError: the storage is full or keeps failing; earlier checkpoints are unchanged.
    """
    final = checkpoint_path(folder, progress.epochs_done, progress.steps_done)
    about = json.dumps({"progress": asdict(progress), "config": config})
    try:
        retrying(lambda: _write(final, variables, about), str(final))
        store.push(final)
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

    Raises:
      OSError: the file cannot be read.
      DamagedCheckpointError: it is cut or altered.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            altered = archive.testzip()  # before a shape in it is believed
        if altered is not None:
            raise ValueError(f"{altered} has another checksum")
        with np.load(path, allow_pickle=False) as state:
            variables = {name: state[name] for name in state.files if name != _ABOUT}
            progress = json.loads(str(state[_ABOUT]))["progress"]
        sums = {name: (total, count) for name, (total, count) in progress.pop("sums").items()}
        return variables, Progress(**progress, sums=sums)
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

    It is intact, and so is the best one so far, which is read at the end. Each checkpoint that is
    not is named in a warning.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints.
    """
    for name in sorted(_checkpoints(store, folder), key=position_of, reverse=True):
        path = folder / name
        try:
            progress = _fetched(store, path)
            if progress.best_epoch:
                _fetched(store, checkpoint_path(folder, progress.best_epoch))
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
    names = _checkpoints(store, folder)
    return folder / max(names, key=position_of) if names else None


def prune(store: RunFiles, folder: Path, *resumable: Progress) -> None:
    """Remove unfinished checkpoints, and all others except some and the best one of each.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints.
      *resumable: progress of the checkpoints to keep.
    """
    kept = {
        checkpoint_path(folder, *position).name
        for each in resumable
        for position in ((each.epochs_done, each.steps_done), (each.best_epoch,))
    }
    # Newest first: if the process is lost meanwhile, the latest retained checkpoint is intact.
    for name in reversed(sorted(_checkpoints(store, folder), key=position_of)):
        if name not in kept:
            store.remove(folder / name)
    for path in folder.glob(".*.unfinished.npz"):
        path.unlink(missing_ok=True)
    for path in folder.glob("epoch-*.npz"):  # local copies, if the run is in a bucket
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _fetched(store: RunFiles, path: Path) -> Progress:
    if not store.fetch(path):
        raise DamagedCheckpointError(f"Checkpoint {path} is missing.")
    return load_checkpoint(path)[1]


def _write(final: Path, variables: Mapping[str, np.ndarray], about: str) -> None:
    with atomic_path(final) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **variables, **{_ABOUT: np.array(about)})


def _checkpoints(store: RunFiles, folder: Path) -> list[str]:
    return [name for name in store.names(folder) if _NAME.fullmatch(name)]


def position_of(name: str) -> tuple[int, int]:
    """Return the number of complete epochs, and of steps of the next one, of a checkpoint."""
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)
