"""`laser-jnd encode`: encode clips at a JND level."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.clips import (
    add_encoder,
    add_format,
    add_model,
    add_target,
    check_model,
    clips_of,
    clock_text,
    open_model,
)
from laser_dist.commands.options import positive_number, whole_number
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.wording import NO_VALUE, count_text, share_text, size_text

if TYPE_CHECKING:
    from laser_dist.encoding.encode import Encoded, Request
    from laser_dist.encoding.folder import Job

HELP = "encode clips at a JND level"
EXAMPLE = """\
examples:
  laser-jnd encode clip.mp4 --output small.mp4 --model mj-lat.onnx
  laser-jnd encode clip.mp4 --output small.mkv --model mj-lat.onnx --codec svtav1 --target jnd2
  laser-jnd encode clip.mp4 --output small.mp4 --model mj-lat.onnx --codec x265 --preset slow
  laser-jnd encode clips --recursive --output encoded --model mj-lat.onnx
  laser-jnd encode gs://bucket/films --recursive --output gs://bucket/encoded \\
    --model gs://bucket/mj-lat.onnx --runner DataflowRunner --project example --region us-central1
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "clips",
        nargs="+",
        metavar="CLIP",
        help="video; a folder with --recursive; or @FILE with a path per line; with --runner also"
        " URLs (gs://, s3://)",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="file to write: .mp4, .mov, .mkv or, with svtav1, .webm; or a folder for several"
        " clips, with --runner also its URL. A file appears when it is complete",
    )
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="encode all videos below folders; those that are encoded already are left out",
    )
    add_model(parser)
    add_target(parser)
    add_encoder(parser)
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the result with the clip"
    )
    parser.add_argument(
        "--min-xpsnr",
        type=positive_number,
        metavar="DB",
        help="minimum XPSNR of the result: while it is lower, encode again with finer quantizers",
    )
    parser.add_argument(
        "--min-vmaf",
        type=_vmaf_score,
        metavar="SCORE",
        help="minimum VMAF of the result, up to 100: while it is lower, encode again with finer"
        " quantizers; needs an ffmpeg with libvmaf",
    )
    parser.add_argument(
        "--even-if-coarser",
        action="store_true",
        help="encode a clip that is itself encoded at a QP that is not finer",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_format(parser, "ndjson")
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help="clips to encode at a time, without --runner (default: one per four cores, if memory"
        " allows)",
    )
    parser.add_argument(
        "--runner",
        metavar="NAME",
        help="encode with Apache Beam, long clips in segments: DataflowRunner uses the machines of"
        " Google Cloud; all Beam options are accepted too",
    )


def run(arguments: argparse.Namespace) -> None:
    """Encode the clips, and print the quantizers, the sizes and the quality."""
    from laser_dist.commands.encoding_job import run_job
    from laser_dist.encoding.encode import check_request
    from laser_dist.storage import exists, is_url

    request = request_of(arguments)
    if not is_url(arguments.model):
        check_model(Path(arguments.model))
    is_one, jobs = jobs_of(
        arguments.clips,
        arguments.output,
        recursive=arguments.recursive,
        fits_webm=request.settings.fits_webm,
    )
    if not arguments.runner:
        check_plain(jobs)
    elif is_one:
        raise UserError(
            f"With --runner, --output is a folder, and {arguments.output} has a suffix.",
            hint="Name a folder.",
        )
    if is_one:
        (job,) = jobs
        check_request(Path(job.source), Path(job.output), request)
        encode_one(job, request, arguments.model, arguments.format)
        return
    reused = [] if arguments.overwrite else [job for job in jobs if exists(job.output)]
    if reused:
        logger.info("Reused: %s in %s", count_text(len(reused), "clip"), arguments.output)
        known = {*reused}
        jobs = [job for job in jobs if job not in known]
    if not jobs:  # a model of Keras takes seconds to load
        if arguments.format == "json":
            Terminal().say("[]")
        return
    if arguments.runner:
        documents = run_job(arguments, jobs, request)
        for document in documents:
            report(Terminal(), document, arguments.format)
    else:
        documents = encode_many(
            jobs, request, arguments.model, arguments.format, workers=arguments.workers
        )
    if arguments.format == "json":
        Terminal().say_json(documents)
    if arguments.format == "table":
        say_all(Terminal(), [each for each in documents if "error" not in each], reused)
    failed = [each for each in documents if "error" in each and not each["is_coarse"]]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} clips could not be encoded.",
            hint="The messages above name them.",
        )


def request_of(arguments: argparse.Namespace) -> Request:
    """Return what is asked for.

    Raises:
      UserError: options contradict each other, or the encoder has no such preset.
    """
    from laser_dist.encoding.encode import Minimum, Request
    from laser_dist.encoding.encoders import EncoderSettings
    from laser_dist.video.vmaf import vmaf_program

    minimums: list[Minimum] = []
    if arguments.min_xpsnr is not None:
        minimums.append(Minimum("xpsnr_db", arguments.min_xpsnr))
    if arguments.min_vmaf is not None:
        minimums.append(Minimum("vmaf", arguments.min_vmaf))
    if arguments.no_verify and minimums:
        raise UserError(
            f"{minimums[0].option} needs the comparison with the clip.", hint="Omit --no-verify."
        )
    if arguments.min_vmaf is not None and vmaf_program() is None:
        raise UserError(
            "--min-vmaf needs an ffmpeg with libvmaf in the search path (PATH).",
            hint="Install one, or use --min-xpsnr.",
        )
    return Request(
        level=arguments.target,
        sur=arguments.sur,
        margin=arguments.margin,
        constant=arguments.constant,
        settings=EncoderSettings(
            codec=arguments.codec, preset=arguments.preset, options=arguments.encoder_options
        ),
        verify=not arguments.no_verify,
        minimums=tuple(minimums),
        overwrite=arguments.overwrite,
        allow_hdr=arguments.hdr == "allow",
        even_if_coarser=arguments.even_if_coarser,
    )


def encode_one(job: Job, request: Request, model: str, form: str) -> None:
    """Encode a clip to a file, and print what it has become.

    Args:
      job: the clip.
      request: what is asked for.
      model: path or URL of a run or model file.
      form: format of the output.
    """
    from laser_dist.encoding.encode import encode
    from laser_dist.storage.local_copies import naming_locations

    terminal = Terminal()
    with terminal.progress() as show, naming_locations(model):
        show("loading the model")
        loaded = open_model(model)

        def progress(what: str, share: float) -> None:
            show(what, round(100 * share), 100)

        encoded = encode(loaded, Path(job.source), Path(job.output), request, progress=progress)
    if form == "table":
        say_encoded(terminal, encoded)
    elif form == "json":
        terminal.say_json(encoded.to_dict())
    else:
        terminal.say(json.dumps(encoded.to_dict(), allow_nan=False))


def encode_many(
    jobs: Sequence[Job], request: Request, model: str, form: str, *, workers: int | None
) -> list[dict[str, Any]]:
    """Encode clips, and report each as it is done.

    Args:
      jobs: the clips, at least one.
      request: as for `encode_one`.
      model: as for `encode_one`.
      form: as for `encode_one`.
      workers: number of clips to encode at a time; None for what the machine can.

    Returns:
      The document of each clip, in order.
    """
    from laser_dist.encoding.folder import CORES, encode_all
    from laser_dist.machine import free_memory, num_cores
    from laser_dist.storage.local_copies import naming_locations

    terminal = Terminal()
    documents: dict[Job, dict[str, Any]] = {}
    with terminal.progress() as show, naming_locations(model):

        def progress(text: str, num_done: int) -> None:
            show(text, num_done, len(jobs))

        show("loading the model")
        loaded = open_model(model)
        finished = encode_all(
            loaded,
            jobs,
            request,
            workers=workers or max(1, num_cores() // CORES),
            memory=sys.maxsize if workers else free_memory(),
            show=progress,
        )
        with closing(finished):
            for job, result in finished:
                documents[job] = result.to_dict()
                report(terminal, documents[job], form)
    return [documents[job] for job in jobs]


def report(terminal: Terminal, document: dict[str, Any], form: str) -> None:
    """Log why a clip was not encoded, if it was not, and print its line of NDJSON."""
    if "error" in document:
        level, hint = logging.ERROR, f" {document['hint']}" if document["hint"] else ""
        if document["is_coarse"]:  # what it is compared with is enough
            level, hint = logging.WARNING, ""
        logger.log(level, "%s%s", document["error"], hint)
    if form == "ndjson":
        terminal.say(json.dumps(document, allow_nan=False))


def jobs_of(
    words: Sequence[str], output: str, *, recursive: bool, fits_webm: bool
) -> tuple[bool, list[Job]]:
    """Return whether a single file is to be written, and what is to be encoded.

    Args:
      words: as for `clips_of`.
      output: file of a single clip; or a folder or its URL, in which each clip of a folder has the
        path that it has there, and any other clip its name. What cannot be written as it is read,
        such as .avi, gets .mkv in addition.
      recursive: as for `clips_of`.
      fits_webm: whether .webm files can be written.

    Raises:
      UserError: as `clips_of`; two clips have the same name, or the output is in a folder of clips.
    """
    from laser_dist.encoding.folder import Job
    from laser_dist.encoding.transcode import FORMATS
    from laser_dist.storage import is_url, join, split

    kept = {suffix for suffix in FORMATS if fits_webm or suffix != ".webm"}
    is_file = Path(output).suffix and not is_url(output) and not Path(output).is_dir()
    if len(words) == 1 and not recursive and is_file:
        clips = clips_of(words, recursive=False)
        if clips == [*words]:
            return True, [Job(clips[0], output)]
    jobs: dict[str, Job] = {}
    for word in words:
        clips = clips_of([word], recursive=recursive, images=False)
        is_folder = os.path.isdir(word) or (
            is_url(word) and all(_bare(clip).startswith(f"{_bare(word)}/") for clip in clips)
        )
        if is_folder and _is_in(output, word):
            raise UserError(
                f"The output {output} is in the folder of clips {word}.",
                hint="Name another --output.",
            )
        for clip in clips:
            name = split(clip)[1] if not is_folder else _below(clip, word)
            is_kept = os.path.splitext(name)[1].lower() in kept
            path = join(output, name if is_kept else f"{name}.mkv")
            if _is_same(clip, path):
                raise UserError(
                    f"The output {path} is the clip itself.", hint="Name another --output."
                )
            if path in jobs:
                raise UserError(
                    f"{jobs[path].source} and {clip} would both become {path}.",
                    hint="Encode them to different folders.",
                )
            jobs[path] = Job(clip, path)
    return False, [*jobs.values()]


def _below(clip: str, folder: str) -> str:
    """Return the name that a clip has below a folder."""
    from laser_dist.storage import is_url

    if is_url(clip):
        return _bare(clip).removeprefix(f"{_bare(folder)}/")
    return os.path.relpath(clip, folder)


def _is_same(clip: str, output: str) -> bool:
    from laser_dist.storage import is_url

    if is_url(clip) or is_url(output):
        return _bare(clip) == _bare(output)
    return os.path.exists(clip) and os.path.exists(output) and os.path.samefile(clip, output)


def _bare(location: str) -> str:
    """Return a location without the options of a URL, and without a slash at its end."""
    from laser_dist.storage import is_url

    return (location.partition("?")[0] if is_url(location) else location).rstrip("/")


def _is_in(output: str, folder: str) -> bool:
    from laser_dist.storage import is_url

    if is_url(output) or is_url(folder):
        return f"{_bare(output)}/".startswith(f"{_bare(folder)}/")
    return Path(output).resolve().is_relative_to(Path(folder).resolve())


def check_plain(jobs: Sequence[Job]) -> None:
    """Check that nothing is in a bucket, which only `--runner` takes.

    Raises:
      UserError: a clip or an output is.
    """
    from laser_dist.storage import is_url

    locations = (each for job in jobs for each in (job.source, job.output))
    if url := next(filter(is_url, locations), None):
        raise UserError(f"{url} is in a bucket.", hint="Add --runner DirectRunner.")


def say_all(
    terminal: Terminal, documents: Sequence[dict[str, Any]], reused: Sequence[Job] = ()
) -> None:
    """Print a row per encoded clip, and the sum of all sizes.

    Args:
      terminal: to print on.
      documents: of the clips that were encoded now.
      reused: clips that were encoded before; their sizes are added if they are files here.
    """
    if not documents:
        return
    rows = []
    for each in documents:
        values = [scene["quantizer"] for scene in each["scenes"]]
        low, high = f"{min(values):g}", f"{max(values):g}"
        row = [each["clip"], low if low == high else f"{low}–{high}"]
        row += [size_text(each["source_bytes"]), size_text(each["output_bytes"])]
        row.append(share_text(each["saving"]))
        rows.append([*row, *_quality_texts(each["quality"])])
    first = documents[0]
    header = ["clip", first["rate"], "before", "after", "saved"]
    terminal.table(header + _quality_titles(first["quality"]), [rows])
    terminal.say()
    sizes = [(each["source_bytes"], each["output_bytes"]) for each in documents]
    terminal.say(_total_text(sizes))
    files = [(Path(each.source), Path(each.output)) for each in reused]
    if files and all(path.is_file() for pair in files for path in pair):
        sizes += [(source.stat().st_size, output.stat().st_size) for source, output in files]
        terminal.say(f"Including clips encoded before: {_total_text(sizes)}")
    if first["simulated"]:
        terminal.say("The model was trained with SIMULATED viewers.")


def say_encoded(terminal: Terminal, encoded: Encoded) -> None:
    """Print a row per scene, and what the file has become."""
    settings, plan, verified = encoded.settings, encoded.plan, encoded.verified
    name = settings.codec if settings.preset is None else f"{settings.codec} {settings.preset}"
    document = encoded.to_dict()
    titles = _quality_titles(document["quality"])
    rows = []
    for index, (scene, (_, value)) in enumerate(zip(plan.scenes, encoded.values, strict=True)):
        row = [f"{clock_text(scene.start_s)} – {clock_text(scene.end_s)}", f"{scene.level:.1f}"]
        row.append(f"{value:g}")
        scores = _quality_texts(document["scenes"][index]["quality"])
        rows.append([*row, *(scores or [NO_VALUE] * len(titles))])
    header = ["scene", f"{plan.level.upper()} (QP)", f"{name} ({settings.rate})"]
    terminal.table(header + titles, [rows])
    terminal.say()
    terminal.say(
        f"Wrote {encoded.output}: {size_text(encoded.output_bytes)}, {encoded.bitrate_kbps:.0f}"
        f" kbit/s of video, {_saving_text(encoded.saving)} than the clip."
    )
    terminal.say(f"The levels are predicted ones less a margin of {plan.margin:.1f} QP.")
    if plan.overshoot is not None:
        terminal.say(
            f"With it, {share_text(plan.overshoot)} of the clips that the model was calibrated with"
            " would be coarser than their level."
        )
    if encoded.match is not None:
        match = encoded.match
        terminal.say(
            f"The CRF has the XPSNR of x264 at the QP: {match.target_db:.1f} dB in excerpts,"
            f" {match.reached_db:.1f} dB in the last of {match.num_probes} trial encodes."
        )
    if encoded.num_encodes > 1:
        terminal.say(
            f"It took {encoded.num_encodes} encodes to reach the minimum quality; the first one, as"
            " planned, was below it."
        )
    if (share := encoded.satisfied) is not None:
        terminal.say(
            "Predicted share of viewers who see no difference, at the planned QPs:"
            f" {share_text(share.expected)} ({share_text(share.low)} to {share_text(share.high)})."
        )
    if verified:
        total = verified.total
        terminal.say(
            f"All {verified.num_frames} frames, at their times: PSNR {total.psnr_db:.1f} dB, SSIM"
            f" {total.ssim:.4f}, XPSNR {total.xpsnr_db:.1f} dB"
            + (f", VMAF {total.vmaf:.1f}." if total.vmaf is not None else ".")
        )
    if encoded.result.left_out:
        terminal.say(f"note: not copied: {', '.join(encoded.result.left_out)}.")
    if encoded.warnings:
        terminal.say(f"note: {'; '.join(encoded.warnings)}.")
    if plan.simulated:
        terminal.say("The model was trained with SIMULATED viewers.")
    if encoded.ffmpeg_command:
        terminal.say(f"The same with FFmpeg: {encoded.ffmpeg_command}")
    else:
        terminal.say("FFmpeg takes one quantizer; `laser-jnd plan` writes zones for other tools.")


def _vmaf_score(text: str) -> float:
    score = positive_number(text)
    if score > 100:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 100, not {text!r}")
    return score


def _quality_titles(quality: Mapping[str, Any] | None) -> list[str]:
    """Return the titles of the columns with `_quality_texts`."""
    if quality is None:
        return []
    return ["XPSNR (dB)"] + (["VMAF"] if quality["vmaf"] is not None else [])


def _quality_texts(quality: Mapping[str, Any] | None) -> list[str]:
    """Return the cells of a `Quality` as plain values."""
    if quality is None:
        return []
    vmaf = [] if quality["vmaf"] is None else [f"{quality['vmaf']:.1f}"]
    return [f"{quality['xpsnr_db']:.1f}", *vmaf]


def _total_text(sizes: Sequence[tuple[int, int]]) -> str:
    before, after = map(sum, zip(*sizes, strict=True))
    clips = count_text(len(sizes), "clip")
    saving = _saving_text(1 - after / before)
    return f"{clips}: {size_text(before)} became {size_text(after)}, {saving}."


def _saving_text(saving: float) -> str:
    return f"{share_text(abs(saving))} {'more' if saving < 0 else 'less'}"
