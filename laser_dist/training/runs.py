"""A run's folder: its resolved configuration, and loading a finished run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.jnd.scale import Scale, scale_named
from laser_dist.storage.lease import free
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.config import ClusterConfig, from_dict, override, to_dict

CONFIG_FILE = "config.json"
CONFIG_PARTS = {"variant", "training", "dataset"}
# Location of the dataset and settings that may change when a run is resumed.
MAY_CHANGE = {
    "dir", "cluster", "checkpoint_every", "feature_cache", "frame_cache_gb", "profile_steps",
    "steps_per_execution",
}  # fmt: skip
PACKAGES = ("laser-jnd", "tensorflow", "keras", "ray", "tensorflow-datasets", "numpy")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      dir: folder of the run.
      config: configuration that `start_run` wrote.
      predictor_path: file of the model from raw frames [B, H, W, 3] to levels [B, L].
    """

    dir: Path
    config: dict[str, Any]
    predictor_path: Path

    @property
    def scale(self) -> Scale:
        """Scale of the predicted levels.

        Raises:
          UserError: the configuration does not name it.
        """
        return scale_named(self.config["dataset"].get("scale"), of=f"run {self.dir}")


def start_run(
    store: RunFiles,
    training: dict[str, Any],
    dataset: str | Path,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Write a run's resolved configuration, or check that it equals the one that is there.

    Args:
      store: storage of the run; created if it does not exist.
      training: `TrainingConfig` as plain values.
      dataset: location of the prepared dataset, path or URL.
      splits: ids of the sources of each split; None for the dataset's own.

    Returns:
      The configuration: `run_dir`, `variant`, `training`, `dataset`, `packages`.

    Raises:
      UserError: there is no such dataset, the folder cannot be written, it holds another run, a
        damaged configuration or folders of another program that are named as its own, another
        process trains the run, or the training needs a GPU and this machine has none.
    """
    from laser_dist.training.ray_entry import check_gpus_here

    config = check_run(store, training, dataset, splits)
    path = store.local / CONFIG_FILE
    if store.fetch(path) and store.fetch(_predictor_path(store.local)):
        # Finished, maybe with other packages.
        return {**_read_config(path), "run_dir": config["run_dir"]}
    check_gpus_here(from_dict(training["cluster"], ClusterConfig))
    storage.check_writable(store.location)
    free(store)
    storage.write_text(path, json.dumps(config, indent=2) + "\n")
    store.push(path)
    return config


def check_run(
    store: RunFiles,
    training: dict[str, Any],
    dataset: str | Path,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return the configuration that `start_run` would write, after its checks; write nothing."""
    config = {
        "run_dir": store.location if store.is_remote else str(store.local.resolve()),
        "variant": training["variant"],
        "training": training,
        "dataset": read_dataset_card(dataset)
        | ({} if splits is None else {"splits": dict(splits)}),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }
    path = store.local / CONFIG_FILE
    if store.fetch(path):
        _check_same(store.location, _read_config(path), config)
    else:
        _check_free(store)
    return config


def read_run(
    store: RunFiles, changes: Sequence[str] = ()
) -> tuple[dict[str, Any], str, dict[str, list[str]]]:
    """Return the arguments of `start_run` for an existing run: settings, dataset and splits.

    Args:
      store: storage of the run.
      changes: `PATH=VALUE` each, of settings that may change.

    Raises:
      UserError: there is no such run, or its configuration is damaged or of another version.
    """
    path = store.local / CONFIG_FILE
    if not store.fetch(path):
        raise UserError(
            f"There is no run in {store.location}.",
            hint="Start one with `laser-jnd train VARIANT --dataset PATH_OR_URL`.",
        )
    config = _read_config(path)
    try:
        before = from_dict(config["training"])
    except (UserError, TypeError) as error:
        raise UserError(
            f"{path} has settings of another version of laser-jnd. {error}",
            hint="Start a new run. It can reuse the backbones: --init-from RUN.",
        ) from error
    dataset = config["dataset"]
    return to_dict(override(before, changes)), dataset["dir"], dataset["splits"]


def holds_run(folder: Path) -> bool:
    """Return whether a folder is a run, finished or not: whether it has a run's configuration."""
    try:
        return bool(_read_config(folder / CONFIG_FILE))
    except UserError:
        return False


def read_dataset_card(dataset: str | Path) -> dict[str, Any]:
    """Return the location and the metadata of a dataset, as a run records them.

    Args:
      dataset: location of the prepared dataset, path or URL.

    Raises:
      UserError: there is no prepared dataset, it cannot be read, or its scale is unknown.
    """
    try:
        info = json.loads(storage.read_bytes(storage.join(dataset, "dataset_info.json")))
        about = json.loads(storage.read_bytes(storage.join(dataset, "metadata.json")))
        card = {
            "dir": str(dataset) if storage.is_url(dataset) else str(Path(dataset).resolve()),
            "name": f"{info['name']}/{info['configName']}",
            "version": info["version"],
            "fingerprint": about["fingerprint"],
            "scale": about["scale"],
            "simulated": about["simulated"],
            "resolution": about.get("resolution"),
            "splits": about["splits"],
            "split_by": about.get("split_by") or "",
            "frames_per_second": about.get("frames_per_second"),
        }
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{dataset} is not a prepared dataset: dataset_info.json or metadata.json is missing "
            "or damaged.",
            hint="Build one with `laser-jnd build`.",
        ) from error
    scale_named(card["scale"], of=f"dataset {dataset}")
    return card


def load_run(run_dir: Path) -> Run:
    """Load a finished run.

    Raises:
      UserError: there is no run or no predictor in the folder, or its configuration is damaged.
    """
    path = _predictor_path(run_dir)
    config_path = run_dir / CONFIG_FILE
    if not config_path.exists():
        raise UserError(
            f"There is no run in {run_dir}.",
            hint="Train one with `laser-jnd train mj-lat --dataset PATH_OR_URL`.",
        )
    if not path.exists():
        raise UserError(
            f"{run_dir} has no finished model.",
            hint=f"Resume it with `laser-jnd train --resume {run_dir}`.",
        )
    return Run(run_dir, _read_config(config_path), path)


def _predictor_path(run_dir: Path) -> Path:
    return run_dir / "models" / "predictor.keras"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not CONFIG_PARTS <= config.keys():
            raise ValueError(f"it has no {', '.join(sorted(CONFIG_PARTS))}")
        return config
    except (OSError, ValueError) as error:  # also for text that is not JSON or UTF-8
        raise UserError(
            f"{path} is not the configuration of a run: {error}.",
            hint="Restore the file, or train into another folder.",
        ) from error


def _check_free(store: RunFiles) -> None:
    """Check that a new run would find no folder in which it removes or replaces files."""
    found = {"checkpoints", "features", "models"}.intersection(store.names(store.local))
    if found:
        raise UserError(
            f"{store.location} has a folder {min(found)}, but no {CONFIG_FILE} of a run.",
            hint="Choose another folder with --output, or move the files away.",
        )


def _check_same(location: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Check that a run keeps the settings and the data that it was started with."""
    for part, name in (("training", "different settings"), ("dataset", "a different dataset")):
        before, now = (
            {key: value for key, value in each[part].items() if key not in MAY_CHANGE}
            for each in (old, new)
        )
        names = before.keys() | now.keys()
        differing = sorted(key for key in names if before.get(key) != now.get(key))
        if differing:
            raise UserError(
                f"{location} holds a run with {name}: {', '.join(differing)}.",
                hint="Choose another folder with --output, or remove this one.",
            )
