"""Checkpoints of a stage: one file each, complete or absent; the last and the best are kept."""

import contextlib
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from laser_dist.errors import UserError
from laser_dist.training.storage.retrying import first_line, retrying
from laser_dist.training.storage.run_store import RunStore

KEY_FILE = "key"
_ABOUT = "about"
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.npz")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage has come.

    Attributes:
      epochs_done: whole epochs trained.
      best_epoch: the one of lowest validation loss, from 1; 0 before there is one.
      best_loss: its validation loss.
      steps_done: of the epoch after those.
      sums: of these steps: of each figure the sum over their examples, and how many they were.
    """

    epochs_done: int
    best_epoch: int
    best_loss: float
    steps_done: int = 0
    sums: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def checkpoints_folder(run_dir: Path, stage: str) -> Path:
    """Where the checkpoints of a stage lie."""
    return run_dir / "checkpoints" / stage


def checkpoint_path(folder: Path, epochs_done: int, steps_done: int = 0) -> Path:
    """Where the checkpoint of a stage lies after so many epochs, and steps of the next one."""
    within = f"-step-{steps_done:06d}" if steps_done else ""
    return folder / f"epoch-{epochs_done:03d}{within}.npz"


def claim_folder(store: RunStore, folder: Path, key: str) -> None:
    """Makes a stage's checkpoints those of a key: any of another one are removed.

    Args:
      store: of the run.
      folder: of the stage's checkpoints, below `store.local`.
      key: of all that the stage follows from.
    """
    claim = folder / KEY_FILE
    if store.fetch(claim) and claim.read_text() == key:
        return
    store.remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    claim.write_text(key)
    store.push(claim)


def save_checkpoint(
    store: RunStore,
    folder: Path,
    variables: Sequence[np.ndarray],
    progress: Progress,
    config: Mapping[str, Any],
) -> Path:
    """Writes one checkpoint under a temporary name, then gives it its own.

    A store that fails for a while is tried again.

    Args:
      store: of the run.
      folder: of the stage's checkpoints, below `store.local`.
      variables: of model and optimizer, in the order they are restored in.
      progress: of the stage.
      config: the run's resolved configuration, kept beside the weights.

    Returns:
      The checkpoint's file.

    Raises:
      UserError: the store is full, or fails for longer; earlier checkpoints are as they were.
    """
    final = checkpoint_path(folder, progress.epochs_done, progress.steps_done)
    about = json.dumps({"progress": asdict(progress), "config": config})
    try:
        retrying(lambda: _write(final, variables, about), told=store.told)
        store.push(final)
    except OSError as error:
        left = None
        with contextlib.suppress(OSError):  # of the same store
            left = latest_checkpoint(store, folder, but=final, patiently=False)
        raise UserError(
            f"Checkpoint {final.name} in {store.place}",
            "a store that takes it",
            error.strerror or first_line(error),
            f"The last good one is {left.name if left else 'none'}: free some space, or mend the "
            "store, and give the same command again.",
        ) from error
    return final


def load_checkpoint(path: Path) -> tuple[list[np.ndarray], Progress]:
    """Reads what `save_checkpoint` wrote."""
    with np.load(path, allow_pickle=False) as state:
        variables = [state[f"arr_{index}"] for index in range(len(state.files) - 1)]
        progress = json.loads(str(state[_ABOUT]))["progress"]
    sums = {name: (total, count) for name, (total, count) in progress.pop("sums").items()}
    return variables, Progress(**progress, sums=sums)


def latest_checkpoint(
    store: RunStore, folder: Path, but: Path | None = None, *, patiently: bool = True
) -> Path | None:
    """The checkpoint that is furthest on; unfinished ones do not count. It may have to be fetched.

    Args:
      store: of the run.
      folder: of the stage's checkpoints.
      but: one that is left out.
      patiently: whether a store that fails is tried again.
    """
    names = _checkpoints(store, folder, patiently=patiently)
    there = [name for name in names if but is None or name != but.name]
    return folder / max(there, key=_place_of) if there else None


def prune(store: RunStore, folder: Path, progress: Progress) -> None:
    """Removes all checkpoints but the last, the best, and what is unfinished."""
    kept = {
        checkpoint_path(folder, progress.epochs_done, progress.steps_done).name,
        checkpoint_path(folder, progress.best_epoch).name,
    }
    # The last one first: were the rest lost with the process, there would still be the latest.
    for name in reversed(sorted(_checkpoints(store, folder), key=_place_of)):
        if name not in kept:
            store.remove(folder / name)
    for path in folder.glob(".unfinished-*"):
        path.unlink(missing_ok=True)
    for path in folder.glob("epoch-*.npz"):  # of a bucket: what lies here as well
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _write(final: Path, variables: Sequence[np.ndarray], about: str) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.parent / f".unfinished-{uuid.uuid4().hex}"
    try:
        with unfinished.open("wb") as file:
            arrays = {f"arr_{index}": value for index, value in enumerate(variables)}
            np.savez(file, allow_pickle=False, **arrays, **{_ABOUT: np.array(about)})
            file.flush()
            os.fsync(file.fileno())  # a machine that goes down must not leave a name without it
        os.replace(unfinished, final)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _checkpoints(store: RunStore, folder: Path, *, patiently: bool = True) -> list[str]:
    names = store.names(folder, patiently=patiently)
    return [name for name in names if _NAME.fullmatch(name)]


def _place_of(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)
