"""Load a predictor from a run or a model file of any kind."""

import os
from dataclasses import replace
from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.prediction.exported import load_onnx, load_openvino
from laser_dist.prediction.isolated import IsolatedReader
from laser_dist.prediction.model import Model
from laser_dist.prediction.predictor import Predictor
from laser_dist.storage import is_url, join, split
from laser_dist.storage.local_copies import local_run
from laser_dist.storage.run_files import RunFiles

EXPORTED_SUFFIXES = (".onnx", ".xml")
MODEL_SUFFIXES = (".keras", *EXPORTED_SUFFIXES)
_PREDICTOR = Path("models") / "predictor.keras"


def load(
    location: str | os.PathLike[str], *, isolate: bool = False, num_threads: int | None = None
) -> Model:
    """Load a model to predict with.

    Args:
      location: path or `gs://` or `s3://` URL of a finished run, of a `.keras` file, or of an
        exported `.onnx` or `.xml` file.
      isolate: as for `Model`.
      num_threads: as for `load_predictor`.

    Raises:
      UserError: there is no such model, the file is not one, or the library that runs it is not
        installed.
    """
    place = os.fspath(location)
    predictor = load_predictor(local_model(place), num_threads=num_threads)
    predictor = replace(predictor, origin=place) if is_url(place) else predictor
    return Model(predictor, reader=IsolatedReader() if isolate else None)


def origin_of(location: str) -> str:
    """Return the origin that `load` gives the predictor of a path or URL."""
    if is_url(location):
        return location
    path = Path(location)
    return str(path / _PREDICTOR if path.is_dir() else path)


def local_model(location: str) -> Path:
    """Return the path of a run or model file, downloaded if it is in a bucket.

    Raises:
      UserError: there is none in the bucket, or the bucket cannot be read.
    """
    if not is_url(location):
        return Path(location)
    folder, name = split(location)
    suffix = os.path.splitext(name)[1]
    if suffix not in MODEL_SUFFIXES:
        return local_run(location, predictor_only=True)
    files = RunFiles(folder)
    parts = [name] if suffix != ".xml" else [name, f"{name.removesuffix(suffix)}.bin"]
    for each in parts:
        if not files.fetch(files.local / each, reuse=True):
            raise UserError(f"There is no {join(folder, each)}.", hint="Check its name.")
    return files.local / name


def load_predictor(path: str | Path, *, num_threads: int | None = None) -> Predictor:
    """Load the predictor of a finished run, or of a model file.

    Args:
      path: a run folder with `models/predictor.keras`, a `.keras` file, or an exported `.onnx` or
        `.xml` file.
      num_threads: threads of each call of an exported model, for a process that makes several calls
        at a time; None for one per core.

    Raises:
      UserError: there is no finished model, the file is not a predictor, or the library that runs
        it is not installed.
    """
    path = Path(path)
    if path.suffix in EXPORTED_SUFFIXES:
        load_exported = load_onnx if path.suffix == ".onnx" else load_openvino
        return load_exported(path, num_threads=num_threads)
    file = path / _PREDICTOR if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UserError(
            f"{path} has no finished model ({_PREDICTOR}).",
            hint=f"Resume its training with `laser-jnd train --resume {path}`.",
        )
    from laser_dist.prediction.keras_models import load_keras

    return load_keras(file, is_trusted=path.is_dir())
