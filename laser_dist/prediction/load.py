"""Load a predictor from a run or a model file of any kind."""

from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.prediction.exported import load_onnx, load_openvino
from laser_dist.prediction.predictor import Predictor

EXPORTED_SUFFIXES = (".onnx", ".xml")
MODEL_SUFFIXES = (".keras", *EXPORTED_SUFFIXES)
_PREDICTOR = Path("models") / "predictor.keras"


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
