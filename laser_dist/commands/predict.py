"""`laser-jnd predict`: the quantizers at which clips stop looking like their source."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from laser_dist.commands.options import ratio, whole_number
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.jnd.scale import LEVEL_SUR, SCALES, Scale, scale_named
from laser_dist.keras_import import import_keras

if TYPE_CHECKING:
    import numpy as np

    from laser_dist.prediction.predict import ClipPrediction
    from laser_dist.prediction.predictor import Predictor

HELP = "predict the JND levels of videos or images"
EXAMPLE = """\
examples:
  laser-jnd predict clip.mp4 --model runs/first
  laser-jnd predict clip.mp4 --model runs/first --sur 0.9
  laser-jnd predict *.mkv --model runs/first --json > levels.json
  laser-jnd predict clip.mp4 --model mj-lat.onnx
"""
NUM_FRAMES = 8
EXPORTED = (".onnx", ".xml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP", help="video or image")
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH_OR_URL",
        help="folder or URL of a finished run, or a model file (.keras, or exported: .onnx, .xml)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument(
        "--frames",
        type=whole_number(1),
        default=NUM_FRAMES,
        metavar="N",
        help="number of frames to sample evenly over each clip (default: %(default)s)",
    )
    parser.add_argument(
        "--sur",
        type=ratio,
        default=LEVEL_SUR,
        metavar="R",
        help="satisfied-user ratio to target; values other than %(default)s need a model trained"
        " with head.spread=true (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Predict each clip, and print the results when all are done."""
    from laser_dist.storage.local_copies import local_run, naming_locations
    from laser_dist.storage.locations import is_url
    from laser_dist.video.codec import frame_size

    # Check all input before anything is downloaded or slow to import.
    if not is_url(arguments.model):
        _run_config(Path(arguments.model))
    for clip in arguments.clips:
        frame_size(clip)
    terminal = Terminal()
    with naming_locations(arguments.model):
        with terminal.progress() as show:
            model = local_run(arguments.model, show, predictor_only=True)
        config = _run_config(model)
        predictor, predictions = predict_clips(
            terminal, arguments.clips, model, arguments.frames, arguments.sur
        )
        config = config or _config_of(predictor)
        if arguments.json:
            model_name, runtime = arguments.model, predictor.runtime
            terminal.say(to_json(arguments.clips, predictions, config, model_name, runtime))
        else:
            say_predictions(terminal, arguments.clips, predictions, config)
            terminal.say(f"Computed by {predictor.runtime}.")


def predict_clips(
    terminal: Terminal,
    clips: Sequence[Path],
    model: Path,
    num_frames: int = NUM_FRAMES,
    sur: float = LEVEL_SUR,
) -> tuple[Predictor, list[ClipPrediction]]:
    """Predict each clip with one model, a run folder or a model file."""
    with terminal.progress() as show:
        show("loading the model")
        if model.suffix not in EXPORTED:
            import_keras(gpus="shared")
        from laser_dist.prediction.load import load_predictor
        from laser_dist.prediction.predict import predict_clip

        predictor = load_predictor(model)
        predictions: list[ClipPrediction] = []
        for index, clip in enumerate(clips):
            show(f"predicting {clip}", index, len(clips))
            predictions.append(predict_clip(predictor, clip, num_frames, sur=sur))
    return predictor, predictions


def say_predictions(
    terminal: Terminal,
    clips: Sequence[Path],
    predictions: Sequence[ClipPrediction],
    config: dict[str, Any],
) -> None:
    """Print a row per clip, a legend, and how to encode the first clip."""
    from laser_dist.jnd.calibration import COVERAGE

    first, scale = predictions[0], SCALES[config["dataset"]["scale"]]
    rows = [
        [str(clip), *level_texts(prediction)]
        for clip, prediction in zip(clips, predictions, strict=True)
    ]
    terminal.table(["clip", *(f"JND{level}" for level in first.spec.levels)], [rows])
    terminal.say()
    terminal.say(legend_text(scale, first))
    if first.spec.half_widths and first.sur == LEVEL_SUR:
        widths = ", ".join(f"± {width:.1f}" for width in first.spec.half_widths)
        terminal.say(f"Intervals for {COVERAGE:.0%} of clips: {widths} {scale.name}.")
    if config["dataset"]["simulated"]:
        terminal.say("The model was trained with SIMULATED viewers.")
    if scale.name == "QP":
        clip, qp = shlex.quote(str(clips[0])), first.quantizers[0]
        terminal.say(
            f"Encode at JND{first.spec.levels[0]}: ffmpeg -i {clip} -c:v libx264 -qp {qp} out.mp4"
        )


def legend_text(scale: Scale, prediction: ClipPrediction) -> str:
    """Return what the numbers of the table mean."""
    parts = ["as predicted, before rounding to the finer side"]
    if prediction.spreads is not None:
        parts.append("± the viewers' standard deviation")
    target = ""
    if prediction.sur != LEVEL_SUR:
        target = f" at which {prediction.sur * 100:g}% of the viewers are satisfied"
    return f"{scale.name}{target} ({', '.join(parts)}); {scale.direction_text}."


def level_texts(prediction: ClipPrediction) -> list[str]:
    """Return a text per level, such as "27 (27.3)" or "27 (27.3 ± 2.1)"."""
    spreads = [""] * len(prediction.levels)
    if prediction.spreads is not None:
        spreads = [f" ± {spread:.1f}" for spread in prediction.spreads.tolist()]
    return [
        f"{quantizer} ({level:.1f}{spread})"
        for quantizer, level, spread in zip(
            prediction.quantizers.tolist(), prediction.levels_at_sur.tolist(), spreads, strict=True
        )
    ]


def to_json(
    clips: Sequence[Path],
    predictions: Sequence[ClipPrediction],
    config: dict[str, Any],
    model: str,
    runtime: str,
) -> str:
    """Return a JSON list with an object per clip; levels have the keys "jnd1" to "jnd3"."""
    documents = []
    for clip, prediction in zip(clips, predictions, strict=True):
        document = {
            "clip": str(clip),
            "scale": config["dataset"]["scale"],
            "sur": prediction.sur,
            "quantizers": _by_level(prediction, prediction.quantizers),
            "levels": _by_level(prediction, prediction.levels),
            "timestamps_s": list(prediction.timestamps_s),
            "levels_per_frame": _by_level(prediction, prediction.levels_per_frame.T),
            "model": model,
            "runtime": runtime,
            "variant": config["variant"],
            "simulated": config["dataset"]["simulated"],
        }
        if prediction.spreads is not None:
            document["spreads"] = _by_level(prediction, prediction.spreads)
        if prediction.spec.half_widths is not None:
            pairs = zip(prediction.spec.levels, prediction.spec.half_widths, strict=True)
            document["half_widths"] = {f"jnd{level}": width for level, width in pairs}
        documents.append(document)
    return json.dumps(documents, indent=2, allow_nan=False)


def _run_config(model: Path) -> dict[str, Any] | None:
    """Return the configuration of a finished run; None for a model file, which has none."""
    from laser_dist.training.runs import load_run

    if model.is_file():
        if model.suffix not in EXPORTED and not is_zipfile(
            model
        ):  # here, before Keras takes seconds to load
            raise UserError(
                f"{model} is not a .keras model, or is damaged.",
                hint="Name a model file (.keras, .onnx or .xml).",
            )
        return None
    config = load_run(model).config
    scale_named(config["dataset"].get("scale"), of=f"run {model}")
    return config


def _config_of(predictor: Predictor) -> dict[str, Any]:
    """Return the spec of a model file in the form of a run's configuration."""
    spec = predictor.spec
    return {
        "variant": spec.variant,
        "dataset": {"scale": spec.scale, "simulated": spec.simulated},
    }


def _by_level(prediction: ClipPrediction, values: np.ndarray) -> dict[str, Any]:
    """Return values [L, ...] of the model's levels by their names."""
    pairs = zip(prediction.spec.levels, values.tolist(), strict=True)
    return {f"jnd{level}": value for level, value in pairs}
