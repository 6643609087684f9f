"""A run's folder: started with its resolved configuration, read back when it is finished."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from laser_dist.errors import UserError
from laser_dist.jnd.scale import Scale, scale_named
from laser_dist.training.config import from_dict, override, to_dict
from laser_dist.training.storage.run_store import RunStore
from laser_dist.training.storage.store import Folder, is_url

CONFIG_FILE = "config.json"
CONFIG_PARTS = {"variant", "training", "dataset"}
# Where the data lie and who does the work may change while a run goes on.
NOT_OF_THE_RUN = {"dir", "cluster", "checkpoint_every_steps", "feature_cache"}
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


def start_run(store: RunStore, training: dict[str, Any], dataset: str | Path) -> dict[str, Any]:
    """Writes a run's resolved configuration, or checks that it is the one already there.

    Args:
      store: of the run; made if it is not there.
      training: `TrainingConfig` as plain values.
      dataset: location of the prepared dataset, path or URL.

    Returns:
      The configuration: `run_dir`, `variant`, `training`, `parallel`, `dataset`, `packages`.

    Raises:
      UserError: no dataset there, the folder cannot be written, or it holds another run or one
        whose configuration cannot be read.
    """
    place = store.place if store.is_remote else str(store.local.resolve())
    config = {
        "run_dir": place,
        "variant": training["variant"],
        "training": training,
        "parallel": parallel_facts(training),
        "dataset": read_dataset_card(dataset),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }
    path = store.local / CONFIG_FILE
    if store.is_remote:
        store.check_writable()  # before anything is asked again and again
    if store.fetch(path):
        before = _read_config(path)
        _check_same(store.place, before, config)
        if store.fetch(_predictor_path(store.local)):  # finished, and not by today's packages
            return {**before, "run_dir": config["run_dir"]}
    store.check_writable()
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(unfinished, path)
    store.push(path)
    return config


def parallel_facts(training: Mapping[str, Any]) -> dict[str, Any]:
    """What each device does of a stage's global batch, and what that changes of the rate: nothing.

    Args:
      training: `TrainingConfig` as plain values.
    """
    cluster = training["cluster"]
    devices = max(cluster["gpus_per_worker"], 1)
    replicas = cluster["num_workers"] * devices
    batches = {name: training[name]["batch_size"] for name in ("image", "jnd", "heads", "joint")}
    return {
        "workers": cluster["num_workers"],
        "devices_per_worker": devices,
        "global_batch": batches,
        "per_replica_batch": {name: -(-size // replicas) for name, size in batches.items()},
        "learning_rate_scaling": "none: the rate belongs to the global batch, which stays the same",
    }


def resume_run(store: RunStore, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of a run that was started, to go on with it.

    Args:
      store: of the run.
      changes: `path=value` each, of who does the work.

    Raises:
      UserError: no run there, or its dataset is gone or another one now.
    """
    path = store.local / CONFIG_FILE
    if store.is_remote:
        store.check_writable()
    if not store.fetch(path):
        raise UserError(
            f"Run {store.place}",
            "one that was started",
            "none",
            "Start it: laser-jnd train --help.",
        )
    config = _read_config(path)
    try:
        before = from_dict(config["training"])
    except (UserError, TypeError) as error:
        raise UserError(
            f"Settings of a run {path}",
            "those of this version",
            str(error),
            "Start it anew in another folder; it takes over what fits.",
        ) from error
    return start_run(store, to_dict(override(before, changes)), config["dataset"]["dir"])


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
            "Train one with: laser-jnd train mj-lat --preset tiny --dataset FOLDER",
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


def _check_same(place: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """A folder holds one run: going on needs the same settings and the same data."""
    for part, name in (("training", "settings"), ("dataset", "dataset")):
        ours = {key: value for key, value in new[part].items() if key not in NOT_OF_THE_RUN}
        theirs = {key: value for key, value in old[part].items() if key not in NOT_OF_THE_RUN}
        differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        if differing:
            raise UserError(
                f"Run folder {place}",
                f"a run of the same {name}",
                f"another {', '.join(differing)}",
                "Name another folder with --output, or remove this one.",
            )
