"""Checkpoints of a stage: each complete or absent, the last and the best kept."""

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

STATE_FILE = "state.npz"
PROGRESS_FILE = "progress.json"
KEY_FILE = "key"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage has come.

    Attributes:
      epochs_done: whole epochs trained.
      best_epoch: the one of lowest validation loss, from 1.
      best_loss: its validation loss.
    """

    epochs_done: int
    best_epoch: int
    best_loss: float


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where the checkpoint after `epoch` (from 1) of a stage lies."""
    return folder / f"epoch-{epoch:03d}"


def claim_folder(folder: Path, key: str) -> None:
    """Makes a stage's checkpoints those of a key: any of another one are removed.

    Args:
      folder: of the stage's checkpoints.
      key: of all that the stage follows from.
    """
    claim = folder / KEY_FILE
    if claim.exists() and claim.read_text() == key:
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    claim.write_text(key)


def save_checkpoint(
    folder: Path, variables: Sequence[np.ndarray], progress: Progress, config: dict
) -> Path:
    """Writes one checkpoint under a temporary name, then renames it.

    Args:
      folder: of the stage's checkpoints.
      variables: of model and optimizer, in the order they are restored in.
      progress: of the stage.
      config: the run's resolved configuration, kept beside the weights.

    Returns:
      The checkpoint's folder.
    """
    final = checkpoint_path(folder, progress.epochs_done)
    unfinished = folder / f".unfinished-{uuid.uuid4().hex}"
    unfinished.mkdir(parents=True)
    try:
        np.savez(unfinished / STATE_FILE, *variables)
        (unfinished / PROGRESS_FILE).write_text(json.dumps(asdict(progress), indent=2))
        (unfinished / "config.json").write_text(json.dumps(config, indent=2))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(unfinished, final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return final


def load_checkpoint(path: Path) -> tuple[list[np.ndarray], Progress]:
    """Reads what `save_checkpoint` wrote."""
    with np.load(path / STATE_FILE, allow_pickle=False) as state:
        variables = [state[f"arr_{index}"] for index in range(len(state.files))]
    return variables, Progress(**json.loads((path / PROGRESS_FILE).read_text()))


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest epoch; unfinished ones do not count."""
    return max(folder.glob("epoch-*"), key=_epoch_of, default=None)


def prune(folder: Path, progress: Progress) -> None:
    """Removes all checkpoints but the last, the best, and what is unfinished."""
    kept = {checkpoint_path(folder, e) for e in (progress.epochs_done, progress.best_epoch)}
    for path in [*folder.glob("epoch-*"), *folder.glob(".unfinished-*")]:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _epoch_of(path: Path) -> int:
    return int(path.name.removeprefix("epoch-"))
