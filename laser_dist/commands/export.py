"""`laser-jnd export`: write a model for ONNX Runtime, OpenVINO or TensorFlow."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import add_dataset
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.keras_import import import_keras

if TYPE_CHECKING:
    import numpy as np

HELP = "export a model for ONNX Runtime, OpenVINO or TensorFlow"
EXAMPLE = """\
examples:
  laser-jnd export runs/first --format onnx --output mj-lat.onnx
  laser-jnd export mj-lat.keras --format onnx --precision int8 --dataset runs/data \\
      --output mj-lat-int8.onnx
  laser-jnd export runs/first --format openvino --precision bf16 --output mj-lat.xml
"""
FORMATS = ("onnx", "openvino", "saved_model", "keras")
PRECISIONS = ("float32", "bf16", "int8")
NUM_FRAMES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "model",
        metavar="PATH_OR_URL",
        help="folder or URL of a finished run, or a model file (.keras)",
    )
    parser.add_argument("--format", choices=FORMATS, required=True, help="format to write")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write: .onnx, .xml (with a .bin next to it) or .keras; a folder for "
        "saved_model. It is replaced. A model card is written next to it.",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="number format: int8 for onnx and openvino, bf16 for openvino (default: %(default)s)",
    )
    add_dataset(
        parser,
        "dataset whose frames the exported model is compared on, and calibrated with for int8 "
        "(default: the one that the run was trained on, if it is still there, or photographs)",
        required=False,
    )


def run(arguments: argparse.Namespace) -> None:
    """Export the model, and print how far it is from Keras."""
    from laser_dist.storage.local_copies import PREDICTOR, local_run, naming_locations
    from laser_dist.storage.locations import is_url
    from laser_dist.storage.prepared_datasets import find_dataset
    from laser_dist.training.runs import load_run

    source = Path(arguments.model)
    is_run = is_url(arguments.model) or not source.is_file()
    config = load_run(source).config if is_run and not is_url(arguments.model) else None
    dataset = arguments.dataset and find_dataset(arguments.dataset, arguments.data_dir)
    terminal = Terminal()
    with terminal.progress() as show, naming_locations(arguments.model):
        show("loading the model")
        import_keras()
        from laser_dist.prediction.export import card_path, check_request, export_model

        check_request(arguments.output, arguments.format, arguments.precision)
        noise = None
        if is_run:
            source = local_run(arguments.model, show, predictor_only=True)
            config = config or load_run(source).config
            noise = _label_noise(source / "results.json")
            dataset = dataset or _own_dataset(config)
            source = source / "models" / PREDICTOR
        show(f"exporting {arguments.model}")
        exported = export_model(
            source,
            arguments.output,
            partial(_frames, dataset, show),
            to=arguments.format,
            precision=arguments.precision,
            is_trusted=is_run,
            label_noise=noise,
        )
    spec = exported.metadata.spec
    terminal.say(f"Wrote {exported.path}: {exported.num_bytes:,} bytes, {arguments.precision}.")
    terminal.say(f"Wrote {card_path(exported.path)}, its model card.")
    where = dataset or "photographs"
    terminal.say(
        f"Largest difference from Keras: {exported.difference:.2g} {spec.scale}, on "
        f"{exported.num_frames} frames of {where}, with {exported.runtime}."
    )
    if spec.simulated:
        terminal.say("The model was trained with SIMULATED viewers.")


def _label_noise(results: Path) -> tuple[float, ...] | None:
    """Return the label noise that an evaluation of the run has written."""
    try:
        noise = json.loads(results.read_text(encoding="utf-8"))["label_noise"]
        return tuple(map(float, noise))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _own_dataset(config: dict[str, Any]) -> str | None:
    """Return the dataset that a run was trained on, if it is still there."""
    from laser_dist.storage.prepared_datasets import find_dataset

    try:
        return find_dataset(config["dataset"]["dir"])
    except (KeyError, UserError):
        return None


def _frames(
    dataset: str | None, show: Callable[[str], None], height: int, width: int
) -> np.ndarray:
    """Return frames uint8 [N, height, width, 3] of a dataset, or of photographs without one."""
    import numpy as np

    from laser_dist.evaluation.dataset import TfdsDataset, fit_frames
    from laser_dist.storage.local_copies import local_dataset
    from laser_dist.video.frames import resize_rgb

    if dataset is None:
        from beam_pipelines.synthetic.footage import load_photo, shipped_photographs

        photos = (load_photo(each.path) for each in shipped_photographs())
        return np.stack([resize_rgb(photo, width=width, height=height) for photo in photos])
    split = "validation"
    opened = TfdsDataset(local_dataset(dataset, [split], show))
    found: list[np.ndarray] = []
    for _, frames in opened.raw_batches(split):
        found += list(fit_frames(frames, width=width, height=height))
        if len(found) >= NUM_FRAMES:
            break
    if not found:
        raise UserError(f"{dataset} has no frames in its split {split}.", hint="Name another one.")
    return np.stack(found[:NUM_FRAMES])
