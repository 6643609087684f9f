"""Predict the levels of a clip, encode it at one of them, and compare the result once."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from laser_dist.encoding.encoders import CODECS, QP, EncoderSettings
from laser_dist.encoding.matching import Match, codec_map, crf_at_qp, excerpts_of, matching_crf
from laser_dist.encoding.plan import Plan, SatisfiedShare, plan_of, satisfied_share
from laser_dist.encoding.segments import EncodedSegment, Values
from laser_dist.encoding.transcode import FORMATS, Transcoded, checked_facts, transcode
from laser_dist.encoding.verify import Quality, Verified, verify
from laser_dist.errors import UserError
from laser_dist.jnd.scale import LEVEL_SUR
from laser_dist.prediction.model import Model
from laser_dist.prediction.predict import ClipPrediction
from laser_dist.storage.temporary import output_path
from laser_dist.video.coded_qps import coded_qps
from laser_dist.video.vmaf import MIN_SIDE as VMAF_MIN_SIDE

SCHEMA = 1
"""Version of `Encoded.to_dict`."""

FINEST = 1.0
"""Finest QP or CRF that a search for a quality uses."""

MAX_ENCODES = 6
"""Most encodes of a search for a quality."""

_MIN_SLOPE = 0.03  # of `Minimum.per_step`; noise gains next to nothing from step to step

_FRAMES_OF_QPS = 200  # enough for the mean of a clip, which is not decoded once more


class CoarseClip(UserError):
    """A clip that is itself encoded more coarsely than it is planned to be."""


Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done."""

Call = Callable[..., Any]
"""Calls a function that reads or writes video, here or in a child process, as `Isolated.call`."""

Planned = tuple[ClipPrediction, Plan, Values, Match | None]
"""What is known before a clip is encoded: levels, plan, quantizers, and trial encodes."""


@dataclass(frozen=True)
class Minimum:
    """Minimum of a quality metric of a result.

    Attributes:
      metric: "xpsnr_db" or "vmaf", an attribute of `Quality`.
      value: the quality; higher is better.
    """

    metric: Literal["xpsnr_db", "vmaf"]
    value: float

    @property
    def option(self) -> str:
        """Option of the command that asks for it."""
        return f"--min-{self.metric.removesuffix('_db')}"

    @property
    def per_step(self) -> float:
        """What a step of a quantizer gains at first; later ones follow from those before.

        A QP is about 12% of the step size, so that fine encodes gain a dB per QP, and coarse ones
        less.
        """
        return 0.7 if self.metric == "xpsnr_db" else 1.0

    def of(self, quality: Quality) -> float:
        """Return the metric of a result."""
        value = getattr(quality, self.metric)
        assert value is not None, self.metric
        return value

    def text(self, quality: Quality) -> str:
        """Return the metric of a result as text."""
        value = self.of(quality)
        return (
            f"an XPSNR of {value:.1f} dB" if self.metric == "xpsnr_db" else f"a VMAF of {value:.1f}"
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
      level: "jnd1", "jnd2" or "jnd3".
      sur: satisfied-user ratio, in (0, 1).
      margin: QP to subtract from the predicted levels; None for `plan.default_margin`.
      constant: give all scenes the quantizer of the strictest one.
      settings: encoder.
      verify: whether the result is compared with the source.
      minimums: of the quality of the result; they need `verify`.
      overwrite: whether an existing output is replaced.
      allow_hdr: whether HDR is encoded, although the levels are of SDR.
      even_if_coarser: whether a clip is encoded that is itself coarser than planned.
    """

    level: str = "jnd1"
    sur: float = LEVEL_SUR
    margin: float | None = None
    constant: bool = False
    settings: EncoderSettings
    verify: bool = True
    minimums: tuple[Minimum, ...] = ()
    overwrite: bool = False
    allow_hdr: bool = False
    even_if_coarser: bool = False

    @property
    def needs_vmaf(self) -> bool:
        """Whether VMAF has a minimum."""
        return any(each.metric == "vmaf" for each in self.minimums)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An encoded file, and how it came about.

    Attributes:
      source: path of the clip.
      output: path of the encoded file.
      prediction: predicted levels.
      plan: QP of each scene.
      values: frames and quantizer of each scene: QP, or CRF of another encoder.
      settings: encoder.
      match: trial encodes for another encoder; None without.
      result: what was encoded.
      verified: comparison with the source; None if not asked for.
      num_encodes: how often the clip was encoded, until it had the minimum quality.
      source_bytes: size of the source.
      output_bytes: size of the output.
      duration_s: length of the clip in seconds.
    """

    source: Path
    output: Path
    prediction: ClipPrediction
    plan: Plan
    values: Values
    settings: EncoderSettings
    match: Match | None
    result: Transcoded
    verified: Verified | None
    num_encodes: int
    source_bytes: int
    output_bytes: int
    duration_s: float

    @property
    def bitrate_kbps(self) -> float:
        """Bit rate of the video."""
        return 8 * self.result.video_bytes / self.duration_s / 1000

    @property
    def saving(self) -> float:
        """Share of the source file's size that is saved; below 0 if the output is larger."""
        return 1 - self.output_bytes / self.source_bytes

    @property
    def satisfied(self) -> SatisfiedShare | None:
        """Predicted share of satisfied viewers at the planned QPs; None without spreads."""
        return satisfied_share(self.prediction, self.plan)

    @property
    def ffmpeg_command(self) -> str | None:
        """FFmpeg command that encodes the clip with its quantizer; None if scenes differ."""
        codec, result = CODECS[self.settings.codec], self.result
        if len({value for _, value in self.values}) > 1:
            return None
        options = self.settings.encoder_options(self.values[0][1], is_deep=result.is_deep)
        if codec.tag and self.output.suffix.lower() != ".mkv":
            options["tag:v"] = codec.tag
        words = [part for name, text in options.items() for part in (f"-{name}", text)]
        kinds = "ast" if self.output.suffix.lower() == ".mkv" else "as"  # sound, subtitles, files
        others = [word for kind in kinds for word in ("-map", f"0:{kind}?")]
        streams = ["-map", f"0:{result.source_index}", *others]
        filters = ["-vf", result.filters] if result.filters else []
        return shlex.join(
            ["ffmpeg", "-i", str(self.source), *streams, "-c", "copy", *filters]
            + ["-fps_mode", "passthrough", "-c:v", codec.library, *words, str(self.output)]
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know of the prediction, and of the encoder."""
        found = list(self.prediction.warnings)
        if self.settings.rate == QP and self.settings.options:
            names = ", ".join(self.settings.options)
            found.append(
                f"the levels were measured with x264 at VideoSet's settings, without {names}"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; see "JSON output of encode" in the reference of file formats."""
        verified = self.verified
        return {
            "schema": SCHEMA,
            "clip": str(self.source),
            "output": str(self.output),
            "target": self.plan.level,
            "sur": self.plan.sur,
            "margin": self.plan.margin,
            "overshoot": self.plan.overshoot,
            "simulated": self.plan.simulated,
            "codec": self.settings.codec,
            "preset": self.settings.preset,
            "rate": self.settings.rate,
            "scenes": [
                {
                    "first_frame": frames.start,
                    "end_frame": frames.stop,
                    "start_s": scene.start_s,
                    "end_s": scene.end_s,
                    "qp": scene.qp,
                    "quantizer": value,
                    "quality": _values(verified and verified.scenes[index]),
                }
                for index, ((frames, value), scene) in enumerate(
                    zip(self.values, self.plan.scenes, strict=True)
                )
            ],
            "match": self.match and asdict(self.match),
            "satisfied": self.satisfied and asdict(self.satisfied),
            "num_encodes": self.num_encodes,
            "num_frames": self.result.num_frames,
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "video_bitrate_kbps": self.bitrate_kbps,
            "saving": self.saving,
            "quality": _values(verified and verified.total),
            "ffmpeg": self.ffmpeg_command,
            "left_out": list(self.result.left_out),
            "warnings": list(self.warnings),
        }


def _values(quality: Quality | None) -> dict[str, Any] | None:
    return quality and asdict(quality)


def check_request(source: Path, output: Path, request: Request) -> None:
    """Check what can be checked before a model is loaded.

    Raises:
      UserError: the output exists, is the source, or has no known suffix; or as `check_source`.
    """
    if output.suffix.lower() not in FORMATS:
        raise UserError(
            f"{output} has no suffix of a container.", hint=f"Use {', '.join(FORMATS)}."
        )
    if output.suffix.lower() == ".webm" and not request.settings.fits_webm:
        raise UserError(
            f"A .webm file cannot hold what {request.settings.codec} encodes.",
            hint="Write a .mkv file, or add --codec svtav1.",
        )
    if output.exists():
        if source.exists() and os.path.samefile(source, output):
            raise UserError("The output is the clip itself.", hint="Name another --output.")
        if not request.overwrite:
            raise UserError(f"{output} exists.", hint="Add --overwrite to replace it.")
    check_source(source, request)


def check_source(source: Path, request: Request) -> None:
    """Check that a clip can be encoded as asked for.

    Raises:
      UserError: frames are too small for VMAF, which has a minimum; or as `checked_facts`.
    """
    facts = checked_facts(source, request.settings, allow_hdr=request.allow_hdr)
    if request.needs_vmaf and min(facts.width, facts.height) < VMAF_MIN_SIDE:
        raise UserError(
            f"{source} has {facts.width}x{facts.height} pixels, and VMAF needs sides of"
            f" {VMAF_MIN_SIDE} or more.",
            hint="Omit --min-vmaf.",
        )


def call_here(function: Callable[..., Any], *arguments: Any, on_step: Callable[[Any], None]) -> Any:
    """Call a function in this process, with what it reports its steps to."""
    return function(*arguments, on_step)


def encode(
    model: Model,
    source: Path,
    output: Path,
    request: Request,
    *,
    progress: Progress,
    call: Call = call_here,
) -> Encoded:
    """Predict, plan, encode and compare; the output appears when it is complete.

    Args:
      model: a model that predicts QPs.
      source: path of a video.
      output: path to write.
      request: what is asked for.
      progress: is called with what is being done.
      call: calls all that reads or writes video, but `model`.

    Raises:
      UserError: as `check_request`, `planned` and `transcode`; or no quantizer gives the quality
        that is asked for.
      OSError: the output cannot be written.
    """
    call(_check, source, output, request, on_step=lambda step: progress(*step))
    before = planned(model, source, request, progress=progress, call=call)
    return encode_planned(source, output, request, before, progress=progress, call=call)


def _check(source: Path, output: Path, request: Request, report: Callable[[Any], None]) -> None:
    check_request(source, output, request)


def encode_planned(
    source: Path,
    output: Path,
    request: Request,
    before: Planned,
    *,
    segments: Iterable[EncodedSegment] | None = None,
    progress: Progress = lambda what, share: None,
    call: Call = call_here,
) -> Encoded:
    """Encode and compare; the output appears when it is complete.

    Args:
      source: path of a video.
      output: path to write.
      request: what is asked for.
      before: from `planned`.
      segments: the encoded frames, as for `transcode`; None to encode them.
      progress: is called with what is being done.
      call: as for `encode`.

    Raises:
      UserError: as `transcode`; or no quantizer gives the quality that is asked for.
      OSError: the output cannot be written.
    """
    prediction, plan, values, match = before
    num_frames = plan.scenes[-1].frames.stop
    with output_path(output) as path:
        result, used, verified, num_encodes = call(
            _encoded, source, path, request, values, num_frames, segments,
            on_step=lambda step: progress(*step),
        )  # fmt: skip
        if output.exists() and not request.overwrite:  # since `check_request`
            raise UserError(f"{output} exists.", hint="Add --overwrite to replace it.")
    return Encoded(
        source=source,
        output=output,
        prediction=prediction,
        plan=plan,
        values=used,
        settings=request.settings,
        match=match,
        result=result,
        verified=verified,
        num_encodes=num_encodes,
        source_bytes=source.stat().st_size,
        output_bytes=output.stat().st_size,
        duration_s=plan.scenes[-1].end_s,
    )


def _encoded(
    source: Path,
    path: Path,
    request: Request,
    values: Values,
    num_frames: int,
    segments: Iterable[EncodedSegment] | None,
    report: Callable[[tuple[str, float]], None],
) -> tuple[Transcoded, Values, Verified | None, int]:
    """Encode at quantizers, or finer ones if the quality is too low.

    Returns:
      What was encoded, the quantizers, the comparison with the source, and the number of encodes.
    """

    def show(what: str) -> Callable[[int], None]:
        started = time.monotonic()

        def shown(done: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-3)
            report((f"{what} at {rate:.0f} frames/s", min(1.0, done / num_frames)))

        return shown

    tried: list[tuple[float, Quality]] = []
    lowered = 0.0
    while True:
        used = [(frames, max(FINEST, value - lowered)) for frames, value in values]
        result = transcode(
            source, path, request.settings, used, segments=segments, progress=show("encoding")
        )
        segments = None  # at other quantizers
        if not request.verify:
            return result, used, None, 1
        verified = verify(
            source, path, used, needs_vmaf=request.needs_vmaf, progress=show("comparing")
        )
        tried.append((lowered, verified.total))
        low = [each for each in request.minimums if each.of(verified.total) < each.value]
        if not low:
            return result, used, verified, len(tried)
        if len(tried) == MAX_ENCODES or all(value == FINEST for _, value in used):
            raise UserError(
                f"{source} has {low[0].text(verified.total)} after {len(tried)} encodes, the last"
                f" one {lowered:g} {request.settings.rate} finer than planned.",
                hint=f"Lower {low[0].option}.",
            )
        most = max(value for _, value in values) - FINEST
        lowered = max(
            next_lowering([(step, each.of(found)) for step, found in tried], each, most)
            for each in low
        )


def next_lowering(tried: Sequence[tuple[float, float]], minimum: Minimum, most: float) -> float:
    """Return by how many whole steps to lower the quantizers next, to reach a quality.

    Args:
      tried: steps and quality of each encode before, the last one below the minimum.
      minimum: of the quality.
      most: steps that make the coarsest quantizer the finest one. A step goes no more than half of
        the way there, as coarse encodes of noise gain nothing from step to step.
    """
    steps, reached = tried[-1]
    slope = minimum.per_step
    if len(tried) > 1:
        before, reached_before = tried[-2]
        slope = max(_MIN_SLOPE * slope, (reached - reached_before) / (steps - before))
    step = min((minimum.value - reached) / slope, (most - steps) / 2)
    return steps + max(1, math.ceil(step))


def planned(
    model: Model,
    source: Path,
    request: Request,
    *,
    progress: Progress = lambda what, share: None,
    call: Call = call_here,
) -> Planned:
    """Return what is known before a clip is encoded: levels, plan, and quantizers.

    Arguments are those of `encode`.

    Raises:
      UserError: as `Model.predict`, `plan_of` and `check_finer`.
    """
    prediction = model.predict(
        source,
        sur=request.sur,
        scenes=True,
        progress=lambda share: progress("predicting", share),
    )
    plan = plan_of(prediction, request.level, margin=request.margin, constant=request.constant)
    values, match = call(
        _finer_quantizers, source, plan, request, on_step=lambda step: progress(*step)
    )
    return prediction, plan, values, match


def _finer_quantizers(
    source: Path, plan: Plan, request: Request, report: Callable[[tuple[str, float]], None]
) -> tuple[Values, Match | None]:
    if not request.even_if_coarser:
        report(("reading the QPs of the clip", 0.0))
        check_finer(source, plan)
    return quantizers(
        source, plan, request.settings, progress=lambda what, share: report((what, share))
    )


def own_mean_qp(source: Path) -> float | None:
    """Return the mean QP at which a clip is itself encoded; None if it is not 8-bit H.264."""
    own = coded_qps(source, num_frames=_FRAMES_OF_QPS)
    return None if own is None else float(own.mean())


def check_finer(source: Path, plan: Plan) -> None:
    """Check that a clip is not itself encoded more coarsely than it is planned to be.

    Its own QPs are known for 8-bit H.264 only. Anything else passes.

    Raises:
      CoarseClip: the mean QP of its frames is not below the mean of the planned ones.
    """
    own = own_mean_qp(source)
    if own is None:
        return
    frames = sum(len(each.frames) for each in plan.scenes)
    planned = sum(each.qp * len(each.frames) for each in plan.scenes) / frames
    if own >= planned:
        raise CoarseClip(
            f"{source} is itself encoded at QP {own:.1f} on average, which is not finer than"
            f" the planned {planned:.1f}.",
            hint="Keep it as it is, or add --even-if-coarser.",
        )


def quantizers(
    source: Path,
    plan: Plan,
    settings: EncoderSettings,
    *,
    size: tuple[int, int] | None = None,
    progress: Progress,
) -> tuple[Values, Match | None]:
    """Return the quantizer of each scene for an encoder.

    For x264 at VideoSet's settings these are the planned QPs. For any other encoder, the CRF that
    matches excerpts at the mean QP is searched; its drop differs from `CodecMap.drop_at_qp` by an
    offset, which all scenes have. It is matched at `size`, (width, height), if frames are scaled.
    """
    if settings.rate == QP:
        return [(each.frames, float(each.qp)) for each in plan.scenes], None
    frames = [each.frames for each in plan.scenes]
    mean_qp = fmean([each.qp for each in plan.scenes], [len(each) for each in frames])
    prior = codec_map(settings.codec)
    progress("matching the encoder", 0)
    codec = CODECS[settings.codec]
    excerpts = excerpts_of(source, frames, codec.num_excerpts, size=size)
    match = matching_crf(excerpts, round(mean_qp), settings, prior)
    values = [
        (each.frames, crf_at_qp(each.qp, match, prior, codec.coarsest)) for each in plan.scenes
    ]
    return values, match
