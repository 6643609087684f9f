"""`laser-jnd predict`: the quantizers at which clips stop looking like their source."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from laser_dist.commands.clips import (
    LEVEL_NAMES,
    add_model,
    add_sur,
    check_model,
    clips_of,
    clock_text,
    loaded_predictor,
    open_model,
)
from laser_dist.commands.options import add_workers, ratio, whole_number
from laser_dist.commands.prediction_job import run_job
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.jnd.scale import LEVEL_SUR, Scale
from laser_dist.prediction import NUM_FRAMES

if TYPE_CHECKING:
    from laser_dist.prediction.clips import FailedClip, HdrHandling
    from laser_dist.prediction.predict import ClipPrediction, ScenePrediction

HELP = "predict the JND levels of videos or images"
EXAMPLE = """\
examples:
  laser-jnd predict clip.mp4 --model runs/first
  laser-jnd predict clip.mp4 --model runs/first --sur 0.9
  laser-jnd predict *.mkv --model mj-lat.onnx --format json > levels.json
  laser-jnd predict clips --recursive --model mj-lat.onnx --format csv --output levels.csv
  laser-jnd predict @list.txt --model mj-lat.onnx --format ndjson --output levels.ndjson
  laser-jnd predict 'clips/**/*.mp4' --model mj-lat.onnx --runner DirectRunner --output levels
"""
FORMATS = ("table", "json", "ndjson", "csv")

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "clips",
        nargs="+",
        metavar="CLIP",
        help="video or image; a pattern such as 'clips/**/*.mp4'; a folder with --recursive; or"
        " @FILE with a path per line; with --runner also URLs (gs://, s3://)",
    )
    add_model(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="table or a JSON list, at the end; or a JSON object per line, or CSV, as each clip is"
        " done (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file to write (default: standard output); with --runner the folder or URL of the"
        " tables",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the --output of --format ndjson: leave out the clips that are predicted "
        "there",
    )
    parser.add_argument(
        "--recursive", action="store_true", help="predict all videos and images below folders"
    )
    parser.add_argument(
        "--frames",
        type=whole_number(1),
        default=NUM_FRAMES,
        metavar="N",
        help="number of frames to sample evenly over each scene; fewer in one of several that is"
        " shorter than 5 s (default: %(default)s)",
    )
    parser.add_argument(
        "--scenes",
        action="store_true",
        help="find the scenes of clips of up to 10 s, too; the strictest scene counts",
    )
    parser.add_argument(
        "--isolate",
        action=argparse.BooleanOptionalAction,
        help="read files in a child process with limits, so that one that crashes a decoder, hangs"
        " or takes all memory costs that file only (default: for folders and several clips)",
    )
    parser.add_argument(
        "--runner",
        metavar="NAME",
        help="predict with Apache Beam, into Parquet tables: DirectRunner uses the cores of this"
        " machine, DataflowRunner those of Google Cloud; all Beam options are accepted too",
    )
    add_workers(parser, "with --runner DirectRunner, one per core, if memory allows")
    add_sur(parser)
    parser.add_argument(
        "--interval",
        type=ratio,
        metavar="SHARE",
        help="share of clips whose level is in the interval that is shown, for a calibrated model"
        " (default: 0.9)",
    )
    parser.add_argument(
        "--hdr",
        choices=("tonemap", "refuse"),
        default="tonemap",
        help="map clips in HDR (PQ or HLG) to SDR, or refuse them (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Predict each clip; those that fail are named, and do not stop the others."""
    from laser_dist.prediction.load import EXPORTED_SUFFIXES, origin_of
    from laser_dist.storage.local_copies import naming_locations
    from laser_dist.storage.locations import is_url
    from laser_dist.video.facts import clip_facts

    # Check all input before anything is downloaded or slow to import.
    if not is_url(arguments.model):
        check_model(Path(arguments.model))
    clips = clips_of(arguments.clips, recursive=arguments.recursive)
    if arguments.runner:
        with naming_locations(arguments.model):
            run_job(arguments, clips, partial(loaded_predictor, arguments.model))
        return
    check_plain(arguments, clips)
    isolate = arguments.isolate
    if isolate is None:
        isolate = len(clips) > 1 or arguments.recursive
    if len(clips) == 1 and not isolate and not arguments.model.endswith(EXPORTED_SUFFIXES):
        clip_facts(Path(clips[0]))  # Keras takes seconds to load
    output = Path(arguments.output) if arguments.output else None
    streamed = output if arguments.format == "ndjson" else None
    if arguments.resume:
        if streamed is None:
            raise UserError("--resume needs --format ndjson and --output.")
        done = kept_lines(streamed, origin_of(arguments.model), arguments.sur)
        clips = [clip for clip in clips if clip not in done]
        logger.info("%d clips are already predicted in %s", len(done), streamed)
        if not clips:
            return
    opened = _appended(streamed, resume=arguments.resume) if streamed else _opened(output)
    with naming_locations(arguments.model), opened as file:
        terminal = Terminal(file)
        results = predict_clips(
            terminal, clips, arguments.model, arguments.frames, arguments.sur, arguments.scenes,
            interval=arguments.interval, hdr=arguments.hdr, isolate=isolate,
            each=_writer(file or sys.stdout, arguments.format, len(clips)),
        )  # fmt: skip
        failed = [each for each in results if not is_prediction(each)]
        if len(results) == len(failed) == 1:
            raise UserError(failed[0].message, hint=failed[0].hint)
        if arguments.format == "json":
            terminal.say_json([each.to_dict() for each in results])
        elif arguments.format == "csv" and len(clips) == 1:
            csv_writer(file or sys.stdout)(results[0])
        elif arguments.format == "table" and len(failed) < len(results):
            say_predictions(terminal, [each for each in results if is_prediction(each)])
    if failed:
        raise UserError(
            f"{len(failed)} of {len(results)} clips could not be predicted.",
            hint="The messages above name them.",
        )


def predict_clips(
    terminal: Terminal,
    clips: Sequence[str],
    model: str,
    num_frames: int = NUM_FRAMES,
    sur: float = LEVEL_SUR,
    scenes: bool = False,
    *,
    interval: float | None = None,
    hdr: HdrHandling = "tonemap",
    isolate: bool = False,
    each: Callable[[ClipPrediction | FailedClip], None] | None = None,
) -> list[Any]:
    """Predict clips with one model.

    Args:
      terminal: shows the progress.
      clips: paths.
      model: path or URL of a run or model file.
      num_frames: number of frames to sample from each scene of 5 s or more.
      sur: satisfied-user ratio to target.
      scenes: find the scenes of short clips, too.
      interval: share of clips for the intervals; None for 0.9 if the model is calibrated.
      hdr: what to do with HDR.
      isolate: read files in a child process.
      each: called with each result when it is there.

    Returns:
      The prediction of each clip, or its failure, which is also logged if there are other clips.
    """
    found: list[ClipPrediction | FailedClip] = []
    with terminal.progress() as show:
        show("loading the model")
        loaded = open_model(model, isolate=isolate)

        def show_share(share: float) -> None:
            if len(clips) == 1:
                show(f"predicting {clips[0]}", round(100 * share), 100)
            else:
                show(f"predicting {clips[len(found)]} {share:.0%}", len(found), len(clips))

        for result in loaded.predict_many(
            _shown(clips, show),
            sur=sur,
            interval=interval,
            num_frames=num_frames,
            scenes=scenes,
            hdr=hdr,
            progress=show_share,
        ):
            found.append(result)
            if each is not None:
                each(result)
            if not is_prediction(result) and len(clips) > 1:
                hint = f" {result.hint}" if result.hint else ""
                logger.error("%s%s", result.message, hint)
    return found


def is_prediction(result: Any) -> bool:
    """Return whether a result is a prediction, not a failure."""
    from laser_dist.prediction.predict import ClipPrediction

    return isinstance(result, ClipPrediction)


def check_plain(arguments: argparse.Namespace, clips: Sequence[str]) -> None:
    """Check what only `--runner` takes.

    Raises:
      UserError: it is given without.
    """
    from laser_dist.storage import is_url

    hint = "Add --runner DirectRunner and --output FOLDER."
    if url := next(filter(is_url, clips), None):
        raise UserError(f"{url} is in a bucket.", hint=hint)
    if arguments.workers is not None:
        raise UserError("--workers needs --runner.", hint=hint)


def kept_lines(output: Path, model: str, sur: float) -> set[str]:
    """Return the clips that are predicted in an NDJSON file, and remove all other lines from it.

    These are failures, which are tried again, and a last line that was cut.

    Args:
      output: the file.
      model: origin of the predictor.
      sur: satisfied-user ratio of the predictions.

    Raises:
      UserError: the file cannot be read, or has predictions of another model or satisfied-user
        ratio.
    """
    from laser_dist.storage import write_text

    if not output.exists():
        return set()
    kept: dict[str, str] = {}
    try:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{output} cannot be read.", hint="Name another --output.") from error
    for line in lines:
        try:
            document = json.loads(line)
            if "quantizers" not in document:
                continue
            clip, found = document["clip"], (document["model"], document["sur"])
        except (ValueError, TypeError, KeyError):
            continue
        if found != (model, sur):
            raise UserError(
                f"{output} has predictions of the model {found[0]} for --sur {found[1]}.",
                hint="Name another --output.",
            )
        kept[clip] = line
    write_text(output, "".join(f"{line}\n" for line in kept.values()))
    return set(kept)


def say_predictions(terminal: Terminal, predictions: Sequence[ClipPrediction]) -> None:
    """Print a row per clip, a legend, and how to encode the first clip."""
    from laser_dist.prediction.predict import SHARE

    first = predictions[0]
    scale, spec = first.scale, first.spec
    sections = [[[each.clip, *level_texts(each, each)], *scene_rows(each)] for each in predictions]
    is_short = all(len(section) == 1 for section in sections)
    terminal.table(
        ["clip", *(f"JND{level}" for level in spec.levels)],
        [[row for section in sections for row in section]] if is_short else sections,
    )
    terminal.say()
    terminal.say(legend_text(scale, first))
    for each in predictions:
        if len(each.scenes) > 1:
            allowed = ", ".join(map(str, each.quantizers_p10.values()))
            terminal.say(
                f"{each.clip} needs the levels of its strictest scene; scenes of {SHARE:.0%} of its"
                f" time allow {scale.name} {allowed}."
            )
    if first.half_widths is not None and first.sur == LEVEL_SUR:
        widths = ", ".join(f"± {width:.1f}" for width in first.half_widths)
        terminal.say(f"Intervals for {first.interval * 100:g}% of clips: {widths} {scale.name}.")
    if spec.simulated:
        terminal.say("The model was trained with SIMULATED viewers.")
    for each in predictions:
        if each.warnings:
            terminal.say(f"note: {each.clip}: {'; '.join(each.warnings)}.")
    terminal.say(f"Computed by {first.runtime}.")
    if scale.name == "QP":
        name = f"jnd{spec.levels[0]}"
        words = shlex.join(["ffmpeg", "-i", first.clip, *first.ffmpeg_args(name), "out.mp4"])
        terminal.say(f"Encode at {name.upper()}: {words}")


def csv_writer(file: IO[str]) -> Callable[[ClipPrediction | FailedClip], None]:
    """Write the names of the columns, and return a function that writes the row of a clip.

    A row has quantizers and levels, empty where there is none, and the error.
    """
    columns = ["clip", "scale", "sur"]
    columns += [f"{name}_{what}" for what in ("quantizer", "level") for name in LEVEL_NAMES]
    columns += ["simulated", "warnings", "error"]
    rows = csv.DictWriter(file, columns, lineterminator="\n")
    rows.writeheader()

    def write(result: ClipPrediction | FailedClip) -> None:
        values = result.to_dict()
        row = {name: values.get(name) for name in ("clip", "scale", "sur", "simulated", "error")}
        row["warnings"] = "; ".join(values.get("warnings", ()))
        for what in ("quantizer", "level"):
            named = values.get(f"{what}s", {})
            row |= {f"{name}_{what}": named.get(name) for name in LEVEL_NAMES}
        rows.writerow(row)
        file.flush()

    return write


def legend_text(scale: Scale, prediction: ClipPrediction) -> str:
    """Return what the numbers of the table mean."""
    parts = ["as predicted, before rounding to the finer side"]
    if prediction.spreads is not None:
        parts.append("± the viewers' standard deviation")
    target = ""
    if prediction.sur != LEVEL_SUR:
        target = f" at which {prediction.sur * 100:g}% of the viewers are satisfied"
    return f"{scale.name}{target} ({', '.join(parts)}); {scale.direction_text}."


def scene_rows(prediction: ClipPrediction) -> list[list[str]]:
    """Return a row per scene; none for a clip of one scene."""
    if len(prediction.scenes) == 1:
        return []
    return [
        [f"  {clock_text(each.start_s)} – {clock_text(each.end_s)}", *level_texts(prediction, each)]
        for each in prediction.scenes
    ]


def level_texts(prediction: ClipPrediction, part: ClipPrediction | ScenePrediction) -> list[str]:
    """Return a text per level of a clip or scene, such as "27 (27.3)" or "27 (27.3 ± 2.1)"."""
    spreads = [""] * len(part.levels)
    if part.spreads is not None:
        spreads = [f" ± {spread:.1f}" for spread in part.spreads.tolist()]
    return [
        f"{prediction.scale.quantizer_at(level)} ({level:.1f}{spread})"
        for level, spread in zip(part.levels_at_sur.tolist(), spreads, strict=True)
    ]


def _shown(clips: Sequence[str], show: Callable[[str, float, float], None]) -> Iterator[str]:
    """Yield the clips, and show which one is being predicted."""
    for index, clip in enumerate(clips):
        show(f"predicting {clip}", index, len(clips))
        yield clip


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str] | None]:
    """Open the output file, which is complete or absent; None for standard output."""
    if output is None:
        yield None
        return
    from laser_dist.storage.temporary import output_path

    with output_path(output) as path, path.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def _appended(output: Path, *, resume: bool) -> Iterator[IO[str]]:
    """Open a file to which each line is added when it is there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a" if resume else "w", encoding="utf-8") as file:
        yield file


def _writer(
    file: IO[str], form: str, num_clips: int
) -> Callable[[ClipPrediction | FailedClip], None] | None:
    """Return what writes each result when it is there; None if they are written at the end."""
    if form == "csv" and num_clips > 1:  # a single clip that fails has no row
        return csv_writer(file)
    return _ndjson_writer(file) if form == "ndjson" else None


def _ndjson_writer(file: IO[str]) -> Callable[[ClipPrediction | FailedClip], None]:
    def write(result: ClipPrediction | FailedClip) -> None:
        line = json.dumps(result.to_dict(), allow_nan=False)
        print(line, file=file, flush=True)

    return write
