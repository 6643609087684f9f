"""`laser-jnd predict`: at which quantisers a clip stops looking like its source."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import whole_number
from laser_dist.commands.quiet import quiet
from laser_dist.jnd.scale import SCALES

if TYPE_CHECKING:
    from laser_dist.commands.terminal import Terminal
    from laser_dist.jnd.scale import Scale
    from laser_dist.prediction.predict import ClipPrediction, Predictor

HELP = "tell the three levels of any video or image"
EXAMPLE = """\
examples:
  laser-jnd predict clip.mp4 --model runs/first
  laser-jnd predict *.mkv --model runs/first --json > levels.json
  laser-jnd predict clip.mp4 --model mj-lat.keras
"""
NUM_FRAMES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP", help="video or image")
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="MODEL",
        help="folder of a finished run, or a predictor's file (.keras)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list on standard output")
    parser.add_argument(
        "--frames",
        type=whole_number(1),
        default=NUM_FRAMES,
        metavar="N",
        help="frames to look at, evenly over each clip (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Predicts each clip; prints only when all have been."""
    from laser_dist.training.runs import load_run
    from laser_dist.video.codec import probe

    # All for their errors, before anything heavy is loaded.
    trained = None if arguments.model.is_file() else load_run(arguments.model)
    scale = None if trained is None else trained.scale
    for clip in arguments.clips:
        probe(clip)
    with quiet(None, debug=arguments.debug) as terminal:
        predictor, predictions = predict_clips(
            terminal, arguments.clips, arguments.model, scale, arguments.frames
        )
        config = facts_of(predictor) if trained is None else trained.config
        if arguments.json:
            terminal.say(to_json(arguments.clips, predictions, config, arguments.model))
        else:
            say_predictions(terminal, arguments.clips, predictions, config)


def predict_clips(
    terminal: Terminal,
    clips: Sequence[Path],
    model: Path,
    scale: Scale | None,
    num_frames: int,
) -> tuple[Predictor, list[ClipPrediction]]:
    """Predicts each clip with one model, a run's or a file, which itself says its scale."""
    with terminal.live_line() as show:
        show("loading the model")
        from laser_dist.prediction.predict import load_predictor, predict_clip

        predictor = load_predictor(model, scale)
        predictions: list[ClipPrediction] = []
        for clip in clips:
            show(f"looking at {clip}")
            predictions.append(predict_clip(predictor, clip, num_frames))
    return predictor, predictions


def facts_of(predictor: Predictor) -> dict[str, Any]:
    """What a model's file says of itself, as a run's configuration would."""
    from laser_dist.models.answer import answer_of

    answer = answer_of(predictor.model)
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
    """Prints a row for each clip."""
    rows = [
        [str(clip), *level_texts(prediction.quantisers.tolist(), prediction.levels.tolist())]
        for clip, prediction in zip(clips, predictions, strict=True)
    ]
    terminal.table(["clip", "JND1", "JND2", "JND3"], [rows])
    terminal.say()
    scale = SCALES[config["dataset"]["scale"]]
    terminal.say(f"{scale.name} (as predicted, before rounding); {scale.direction_text}.")
    if config["dataset"]["simulated"]:
        terminal.say("The model has learnt from SIMULATED viewers.")


def level_texts(quantisers: Sequence[int], levels: Sequence[float]) -> list[str]:
    """Such as "27 (27.3)" for each level."""
    return [
        f"{quantiser} ({level:.1f})" for quantiser, level in zip(quantisers, levels, strict=True)
    ]


def to_json(
    clips: Sequence[Path],
    predictions: Sequence[ClipPrediction],
    config: dict[str, Any],
    run_dir: Path,
) -> str:
    """A JSON list, an object for each clip."""
    documents = [
        {
            "clip": str(clip),
            "scale": config["dataset"]["scale"],
            "quantisers": prediction.quantisers.tolist(),
            "levels": prediction.levels.tolist(),
            "timestamps_s": list(prediction.timestamps_s),
            "levels_per_frame": prediction.per_frame.tolist(),
            "model": str(run_dir),
            "variant": config["variant"],
            "simulated": config["dataset"]["simulated"],
        }
        for clip, prediction in zip(clips, predictions, strict=True)
    ]
    return json.dumps(documents, indent=2, allow_nan=False)
