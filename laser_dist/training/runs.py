"""A run's folder: started with its resolved configuration, read back when it is finished."""

import json
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from laser_dist.errors import UserError
from laser_dist.jnd.scale import Scale, scale_named
from laser_dist.training.config import from_dict, to_dict
from laser_dist.training.store import Folder, is_url

CONFIG_FILE = "config.json"
CONFIG_PARTS = {"variant", "training", "dataset"}
PACKAGES = ("laser-jnd", "tensorflow", "keras", "ray", "tensorflow-datasets", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      dir: its folder.
      config: as `start_run` wrote it.
      predictor_path: model from raw frames [B, H, W, 3] to levels [B, L].
    """

    dir: Path
    config: dict[str, Any]
    predictor_path: Path

    @property
    def scale(self) -> Scale:
        """What its levels count in.

        Raises:
          UserError: its configuration does not say so.
        """
        return scale_named(self.config["dataset"].get("scale"), of=f"run {self.dir}")


def start_run(run_dir: Path, training: dict[str, Any], dataset: str | Path) -> dict[str, Any]:
    """Writes a run's resolved configuration, or checks that it is the one already there.

    Args:
      run_dir: of the run; made if it is not there.
      training: `TrainingConfig` as plain values.
      dataset: location of the prepared dataset, path or URL.

    Returns:
      The configuration: `run_dir`, `variant`, `training`, `dataset`, `packages`.

    Raises:
      UserError: no dataset there, the folder cannot be written, or it holds another run or one
        whose configuration cannot be read.
    """
    config = {
        "run_dir": str(run_dir.resolve()),
        "variant": training["variant"],
        "training": training,
        "dataset": read_dataset_card(dataset),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }
    path = run_dir / CONFIG_FILE
    if path.exists():
        before = _read_config(path)
        _check_same(run_dir, before, config)
        if _predictor_path(run_dir).exists():  # finished, and not by the packages of today
            return {**before, "run_dir": config["run_dir"]}
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(config, indent=2) + "\n")
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(
            f"Run folder {run_dir}",
            "a place that can be written",
            error.strerror or str(error),
            "Free it, or name another with --output.",
        ) from error
    return config


def resume_run(run_dir: Path) -> dict[str, Any]:
    """The configuration of a run that was started, to go on with it.

    Raises:
      UserError: no run there, or its dataset is gone or another one now.
    """
    path = run_dir / CONFIG_FILE
    if not path.exists():
        raise UserError(
            f"Run {run_dir}", "one that was started", "none", "Start it: laser-jnd train --help."
        )
    config = _read_config(path)
    try:
        training = to_dict(from_dict(config["training"]))
    except (UserError, TypeError) as error:
        raise UserError(
            f"Settings of a run {path}",
            "those of this version",
            str(error),
            "Start it anew in another folder; it takes over what fits.",
        ) from error
    return start_run(run_dir, training, config["dataset"]["dir"])


def read_dataset_card(dataset: str | Path) -> dict[str, Any]:
    """What a run keeps of the dataset it learnt from: its place, and what it says of itself.

    Args:
      dataset: location of the prepared dataset, path or URL.

    Raises:
      UserError: the bucket cannot be read, or the folder holds no prepared dataset of ours, or one
        of an unknown scale.
    """
    try:
        folder = Folder(dataset)
        info = json.loads(folder.read("dataset_info.json"))
        about = json.loads(folder.read("metadata.json"))
        card = {
            "dir": str(dataset) if is_url(dataset) else str(Path(dataset).resolve()),
            "name": f"{info['name']}/{info['configName']}",
            "version": info["version"],
            "fingerprint": about["fingerprint"],
            "scale": about["scale"],
            "simulated": about["simulated"],
            "splits": about["splits"],
        }
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"Dataset {dataset}",
            "a prepared dataset (dataset_info.json, metadata.json)",
            f"{type(error).__name__}: {error}",
            "Build one: laser-jnd build --help tells how.",
        ) from error
    scale_named(card["scale"], of=f"dataset {dataset}")
    return card


def load_run(run_dir: Path) -> Run:
    """Reads a finished run.

    Raises:
      UserError: no such folder, no finished predictor in it, or a configuration that cannot be
        read.
    """
    path = _predictor_path(run_dir)
    config_path = run_dir / CONFIG_FILE
    if not config_path.exists() or not path.exists():
        missing = config_path if not config_path.exists() else path
        raise UserError(
            f"Run {run_dir}",
            "a finished training",
            f"no {missing.relative_to(run_dir)}" if run_dir.is_dir() else "no such folder",
            "Train one with: laser-jnd train mj-lat --preset demo --dataset FOLDER",
        )
    return Run(run_dir, _read_config(config_path), path)


def _predictor_path(run_dir: Path) -> Path:
    return run_dir / "models" / "predictor.keras"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not CONFIG_PARTS <= config.keys():
            raise ValueError(f"no object with {', '.join(sorted(CONFIG_PARTS))}")
        return config
    except (OSError, ValueError) as error:  # what is no JSON, or no UTF-8, is a ValueError too
        raise UserError(
            f"Settings of a run {path}",
            "the JSON that training wrote",
            f"{type(error).__name__}: {error}",
            "Put the file back, or train into another folder.",
        ) from error


def _check_same(run_dir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """A folder holds one run: going on needs the same settings and the same data."""
    for part, name in (("training", "settings"), ("dataset", "dataset")):
        ours = {key: value for key, value in new[part].items() if key != "dir"}
        theirs = {key: value for key, value in old[part].items() if key != "dir"}
        differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        if differing:
            raise UserError(
                f"Run folder {run_dir}",
                f"a run of the same {name}",
                f"another {', '.join(differing)}",
                "Name another folder with --output, or remove this one.",
            )
