"""Checkpoints of a stage: one file each, complete or absent. The last and the best stay."""

import json
import re
from collections.abc import Mapping, Sequence
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
    variables: Sequence[np.ndarray],
    progress: Progress,
    config: Mapping[str, Any],
) -> Path:
    """Write a checkpoint, complete or absent; retry transient errors.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints, below `store.local`.
      variables: variables of model and optimizer, in the order of their restoration.
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
        left = max(filter(_NAME.fullmatch, names), key=_position_of, default="none")
        problem = error.message if isinstance(error, UserError) else f"{reason(error)}."
        raise UserError(
            f"Cannot save checkpoint {final.name} to {store.location}: {problem} The last "
            f"complete checkpoint is {left}.",
            hint="Free some space or restore the connection, then run the same command again.",
        ) from error
    return final


def load_checkpoint(path: Path) -> tuple[list[np.ndarray], Progress]:
    """Load the variables and the progress of a checkpoint."""
    with np.load(path, allow_pickle=False) as state:
        variables = [state[f"arr_{index}"] for index in range(len(state.files) - 1)]
        progress = json.loads(str(state[_ABOUT]))["progress"]
    sums = {name: (total, count) for name, (total, count) in progress.pop("sums").items()}
    return variables, Progress(**progress, sums=sums)


def latest_checkpoint(store: RunFiles, folder: Path) -> Path | None:
    """Return the path of the latest complete checkpoint, which may have to be fetched.

    Args:
      store: files of the run.
      folder: folder of the stage's checkpoints.
    """
    names = _checkpoints(store, folder)
    return folder / max(names, key=_position_of) if names else None


def prune(store: RunFiles, folder: Path, progress: Progress) -> None:
    """Remove unfinished checkpoints, and all others except the last and the best."""
    kept = {
        checkpoint_path(folder, progress.epochs_done, progress.steps_done).name,
        checkpoint_path(folder, progress.best_epoch).name,
    }
    # Newest first: if the process is lost meanwhile, the latest retained checkpoint is intact.
    for name in reversed(sorted(_checkpoints(store, folder), key=_position_of)):
        if name not in kept:
            store.remove(folder / name)
    for path in folder.glob(".*.unfinished.npz"):
        path.unlink(missing_ok=True)
    for path in folder.glob("epoch-*.npz"):  # local copies, if the run is in a bucket
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _write(final: Path, variables: Sequence[np.ndarray], about: str) -> None:
    arrays = {f"arr_{index}": value for index, value in enumerate(variables)}
    with atomic_path(final) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{_ABOUT: np.array(about)})


def _checkpoints(store: RunFiles, folder: Path) -> list[str]:
    return [name for name in store.names(folder) if _NAME.fullmatch(name)]


def _position_of(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)
