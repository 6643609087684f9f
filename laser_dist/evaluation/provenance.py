"""Provenance of results: what is needed to make them again."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from laser_dist.machine import num_cores

_PACKAGES = ("laser-jnd", "tensorflow", "keras", "scikit-learn", "scipy", "numpy", "av")


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a model costs.

    Attributes:
      num_parameters: number of parameters, of the backbone and the head together.
      seconds_per_frame: time of a prediction, without reading the frame, on `hardware`; NaN if all
        frames fit in the first batch, in which the model is compiled.
    """

    num_parameters: int
    seconds_per_frame: float


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How results were made.

    Attributes:
      run: path or URL of the run, as the user named it; of several, name and location of each.
      notes: what a reader must know of the models: sentences, such as that one was trained on
        another dataset.
      command: command line.
      commit: Git commit of the source tree, with "-dirty" if it had changes; empty for an
        installed package.
      settings: resolved settings of the training; of several models, by name.
      models: name to cost of each evaluated network.
      packages: package name to version.
      hardware: processor, cores and GPUs.
      date: UTC, ISO 8601, to the second.
    """

    run: str = ""
    notes: tuple[str, ...] = ()
    command: str = ""
    commit: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, ModelCost] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    hardware: str = ""
    date: str = ""


UNKNOWN = Provenance()


def collect_provenance(
    run: str, settings: Mapping[str, Any], notes: tuple[str, ...] = ()
) -> Provenance:
    """Return the provenance of results of this process; see `Provenance` for the arguments."""
    return Provenance(
        run=run,
        notes=notes,
        command=" ".join(["laser-jnd", *sys.argv[1:]]),
        commit=_commit(),
        settings=settings,
        packages=package_versions(),
        hardware=_hardware(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "not installed"
    return found


def _commit() -> str:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # otherwise Git would name the commit of an outer folder
        return ""
    return _output(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"])


def _hardware() -> str:
    gpus = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    processor = platform.processor() or platform.machine()
    return f"{num_cores()} cores of {processor}, {', '.join(gpus.splitlines()) or 'no GPU'}"


def _output(command: list[str]) -> str:
    """Return the output of a program; empty if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
