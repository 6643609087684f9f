"""`laser-jnd predict`: at which quantizers a clip stops looking like its source."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import ratio, whole_number
from laser_dist.commands.terminal import Terminal
from laser_dist.jnd.scale import SCALES, Scale, scale_named

if TYPE_CHECKING:
    import numpy as np

    from laser_dist.prediction.predict import ClipPrediction, Predictor

HELP = "tell the levels of any video or image"
EXAMPLE = """\
examples:
  laser-jnd predict clip.mp4 --model runs/first
  laser-jnd predict clip.mp4 --model runs/first --satisfied 0.9
  laser-jnd predict *.mkv --model runs/first --json > levels.json
  laser-jnd predict clip.mp4 --model mj-lat.keras
"""
NUM_FRAMES = 8
SATISFIED = (
    0.75  # of the viewers, where the levels lie; `normal_sur` loads SciPy, so not from there
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP", help="video or image")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="folder or bucket of a finished run, or a predictor's file (.keras) on this machine",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    parser.add_argument(
        "--frames",
        type=whole_number(1),
        default=NUM_FRAMES,
        metavar="N",
        help="frames to look at, evenly over each clip (default: %(default)s)",
    )
    parser.add_argument(
        "--satisfied",
        type=ratio,
        default=SATISFIED,
        metavar="SHARE",
        help="of the viewers, at the quantizers to tell; another than the default asks for a model"
        " that gives spreads (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Predicts each clip; prints only when all have been."""
    from laser_dist.storage.local_copies import local_run, naming_locations
    from laser_dist.storage.locations import is_url
    from laser_dist.video.codec import frame_size

    # All for their errors, before anything heavy is loaded or brought here.
    if not is_url(arguments.model):
        _settings_of(Path(arguments.model))
    for clip in arguments.clips:
        frame_size(clip)
    terminal = Terminal()
    with naming_locations(arguments.model):
        with terminal.progress() as show:
            model = local_run(arguments.model, show, predictor_only=True)
        config = _settings_of(model)
        predictor, predictions = predict_clips(
            terminal, arguments.clips, model, arguments.frames, arguments.satisfied
        )
        config = config or facts_of(predictor)
        if arguments.json:
            terminal.say(to_json(arguments.clips, predictions, config, arguments.model))
        else:
            say_predictions(terminal, arguments.clips, predictions, config)


def _settings_of(model: Path) -> dict[str, Any] | None:
    """The settings of a finished run; a file of a model has none beside it."""
    from laser_dist.training.runs import load_run

    if model.is_file():
        return None
    config = load_run(model).config
    scale_named(config["dataset"].get("scale"), of=f"run {model}")
    return config


def predict_clips(
    terminal: Terminal,
    clips: Sequence[Path],
    model: Path,
    num_frames: int = NUM_FRAMES,
    satisfied: float = SATISFIED,
) -> tuple[Predictor, list[ClipPrediction]]:
    """Predicts each clip with one model, a run's or a file."""
    with terminal.progress() as show:
        show("loading the model")
        from laser_dist.prediction.predict import load_predictor, predict_clip

        predictor = load_predictor(model)
        predictions: list[ClipPrediction] = []
        for clip in clips:
            show(f"looking at {clip}")
            predictions.append(predict_clip(predictor, clip, num_frames, satisfied=satisfied))
    return predictor, predictions


def facts_of(predictor: Predictor) -> dict[str, Any]:
    """What a model's file says of itself, as a run's configuration would."""
    answer = predictor.answer
    return {
        "variant": answer.variant,
        "dataset": {"scale": answer.scale, "simulated": answer.simulated},
    }


def say_predictions(
    terminal: Terminal,
    clips: Sequence[Path],
    predictions: Sequence[ClipPrediction],
    config: dict[str, Any],
) -> None:
    """Prints a row for each clip, of the levels that the model has."""
    first = predictions[0]
    rows = [
        [str(clip), *level_texts(prediction)]
        for clip, prediction in zip(clips, predictions, strict=True)
    ]
    names = [f"JND{level}" for level in first.answer.levels]
    terminal.table(["clip", *names], [rows])
    terminal.say()
    scale = SCALES[config["dataset"]["scale"]]
    terminal.say(legend_text(scale, first))
    if config["dataset"]["simulated"]:
        terminal.say("The model has learnt from SIMULATED viewers.")


def legend_text(scale: Scale, prediction: ClipPrediction) -> str:
    """What a table's figures are."""
    parts = ["as predicted, before rounding"]
    if prediction.spreads is not None:
        parts.append("± the viewers' standard deviation")
    share = ""
    if prediction.satisfied != SATISFIED:
        share = f" at which {prediction.satisfied * 100:g} % of the viewers are satisfied"
    return f"{scale.name}{share} ({', '.join(parts)}); {scale.direction_text}."


def level_texts(prediction: ClipPrediction) -> list[str]:
    """Such as "27 (27.3)" for each level, or "27 (27.3 ± 2.1)"."""
    spreads = [""] * len(prediction.levels)
    if prediction.spreads is not None:
        spreads = [f" ± {spread:.1f}" for spread in prediction.spreads.tolist()]
    return [
        f"{quantizer} ({value:.1f}{spread})"
        for quantizer, value, spread in zip(
            prediction.quantizers.tolist(), prediction.at_share.tolist(), spreads, strict=True
        )
    ]


def to_json(
    clips: Sequence[Path],
    predictions: Sequence[ClipPrediction],
    config: dict[str, Any],
    model: str,
) -> str:
    """A JSON list, an object for each clip; what is said of a level stands at "jnd1" to "jnd3"."""
    documents = [
        {
            "clip": str(clip),
            "scale": config["dataset"]["scale"],
            "satisfied": prediction.satisfied,
            "quantizers": _by_level(prediction, prediction.quantizers),
            "levels": _by_level(prediction, prediction.levels),
            **(
                {}
                if prediction.spreads is None
                else {"spreads": _by_level(prediction, prediction.spreads)}
            ),
            "timestamps_s": list(prediction.timestamps_s),
            "levels_per_frame": _by_level(prediction, prediction.per_frame.T),
            "model": model,
            "variant": config["variant"],
            "simulated": config["dataset"]["simulated"],
        }
        for clip, prediction in zip(clips, predictions, strict=True)
    ]
    return json.dumps(documents, indent=2, allow_nan=False)


def _by_level(prediction: ClipPrediction, values: np.ndarray) -> dict[str, Any]:
    """Values [L, ...] of the levels that the model has, by their names."""
    pairs = zip(prediction.answer.levels, values.tolist(), strict=True)
    return {f"jnd{level}": value for level, value in pairs}
