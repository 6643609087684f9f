"""Build the ladder of a clip: encode the rungs that are worth it, and package them for players."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser_dist.encoding.encode import Progress, own_mean_qp, quantizers
from laser_dist.encoding.encoders import MIN_SIDE, EncoderSettings
from laser_dist.encoding.ladder import (
    Candidate,
    Limits,
    Rung,
    default_heights,
    segment_starts,
    select_rungs,
    shortest_segment,
    size_at,
    split_at,
)
from laser_dist.encoding.packaging import DASH_MANIFEST, HLS_PLAYLIST, Track, package
from laser_dist.encoding.plan import plan_of
from laser_dist.encoding.sound import Sound
from laser_dist.encoding.transcode import checked_facts, transcode
from laser_dist.errors import UserError
from laser_dist.prediction.predict import ClipPrediction
from laser_dist.storage.temporary import temporary_folder
from laser_dist.video.containers import Damage, frame_rate, open_video
from laser_dist.video.facts import ClipFacts, clip_facts
from laser_dist.video.packets import scan_packets

SCHEMA = 1
"""Version of `Ladder.to_dict`."""

REPORT = "ladder.json"


@dataclass(frozen=True, kw_only=True)
class LadderRequest:
    """What is asked for.

    Attributes:
      levels: JND levels, from 1 to 3; None for all that the model predicts.
      margin: QP to subtract from the predicted levels; None for `plan.default_margin`.
      limits: what the rungs may be.
      segment_s: length of a segment in seconds.
      settings: encoder.
      allow_hdr: whether HDR is encoded, although the levels are of SDR.
    """

    levels: tuple[int, ...] | None = None
    margin: float | None = None
    limits: Limits = Limits()
    segment_s: float = 4.0
    settings: EncoderSettings
    allow_hdr: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Ladder:
    """A ladder that was built.

    Attributes:
      source: path of the clip.
      request: what was asked for.
      sur: targeted satisfied-user ratio.
      rungs: all candidates, in the order of `select_rungs`.
      values: per rung that was encoded, by its name, the quantizer of each scene: QP, or CRF of
        another encoder.
      tracks: the segments, by the name of a rung or sound.
      sounds: streams of sound.
      left_out: what was not copied of the clip.
      warnings: what to know of the levels.
    """

    source: Path
    request: LadderRequest
    sur: float
    rungs: tuple[Rung, ...]
    values: Mapping[str, tuple[float, ...]]
    tracks: Mapping[str, Track]
    sounds: tuple[Sound, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def simulated(self) -> bool:
        """Whether a model learned from simulated viewers."""
        return any(rung.candidate.plan.simulated for rung in self.rungs)

    @property
    def num_bytes(self) -> int:
        """Size of all segments."""
        return sum(sum(track.sizes) for track in self.tracks.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; see "ladder.json" in the reference of file formats."""
        settings = self.request.settings
        return {
            "schema": SCHEMA,
            "clip": str(self.source),
            "hls": HLS_PLAYLIST,
            "dash": DASH_MANIFEST,
            "sur": self.sur,
            "simulated": self.simulated,
            "heights_compared_by_viewers": False,
            "codec": settings.codec,
            "preset": settings.preset,
            "rate": settings.rate,
            "segment_s": self.request.segment_s,
            "num_bytes": self.num_bytes,
            "rungs": [self._rung_dict(rung) for rung in self.rungs],
            "sounds": [
                {"stream": each.index, "codec": each.codec, "is_converted": not each.is_copied}
                for each in self.sounds
            ],
            "left_out": list(self.left_out),
            "warnings": list(self.warnings),
        }

    def _rung_dict(self, rung: Rung) -> dict[str, Any]:
        candidate, track = rung.candidate, self.tracks.get(rung.candidate.name)
        plan = candidate.plan
        values = self.values.get(candidate.name)
        return {
            "name": candidate.name,
            "width": candidate.width,
            "height": candidate.height,
            "level": plan.level,
            "model": candidate.prediction.model,
            "margin": plan.margin,
            "kept": rung.dropped is None,
            "reason": rung.dropped or rung.kept,
            "share_who_see": rung.share,
            "video_bitrate_kbps": rung.bitrate_kbps,
            "codecs": track and track.codec,
            "num_bytes": track and sum(track.sizes),
            "scenes": [
                {
                    "first_frame": scene.frames.start,
                    "end_frame": scene.frames.stop,
                    "start_s": scene.start_s,
                    "end_s": scene.end_s,
                    "qp": scene.qp,
                    "quantizer": values and values[index],
                }
                for index, scene in enumerate(plan.scenes)
            ],
        }


def check_ladder(
    source: Path, output: Path, heights: tuple[int, ...] | None, request: LadderRequest
) -> tuple[int, ...]:
    """Check what can be checked before a model is loaded, and return the heights.

    Args:
      source: path of a video.
      output: folder to write.
      heights: rows of the renditions; None for `ladder.default_heights`.
      request: what is asked for.

    Raises:
      UserError: the output is a file or a folder with files; the clip is a still image, HDR, or too
        small for a height; or the limits contradict each other.
    """
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty.", hint="Name a new folder.")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file.", hint="Name a new folder.")
    if request.limits.min_kbps > request.limits.max_kbps:
        raise UserError("--min-bitrate is above --max-bitrate.", hint="Swap them.")
    facts = checked_facts(source, request.settings, allow_hdr=request.allow_hdr)
    found = heights or default_heights(facts.height)
    for height in found:
        if height > facts.height:
            raise UserError(
                f"{source} has {facts.height} rows, and --heights names {height}.",
                hint="Name heights that are not above those of the clip.",
            )
        if height % 2 or min(_size(facts, height)) < MIN_SIDE:
            raise UserError(
                f"Frames cannot have {height} rows: --heights takes even numbers that give at"
                f" least {MIN_SIDE}x{MIN_SIDE} pixels.",
                hint=f"Name {', '.join(map(str, default_heights(facts.height)))}.",
            )
    return found


def build_ladder(
    source: Path,
    output: Path,
    predictions: Mapping[int, ClipPrediction],
    request: LadderRequest,
    *,
    progress: Progress,
) -> Ladder:
    """Encode the rungs of a clip and package those that stay; the folder appears when complete.

    Args:
      source: path of a video.
      output: folder to write, new or empty.
      predictions: of the clip by height, each from the model for that height.
      request: what is asked for.
      progress: is called with what is being done.

    Raises:
      UserError: as `check_ladder`, `plan_of`, `transcode` and `package`.
      OSError: the output cannot be written.
    """
    facts = clip_facts(source)
    candidates = [
        candidate
        for height, prediction in predictions.items()
        for candidate in _candidates(_size(facts, height), prediction, request)
    ]
    name, damage = str(source), Damage()
    with open_video(source, name, damage) as (container, stream):
        fps = frame_rate(stream)
        times = scan_packets(container, stream, name, damage).times
    starts = segment_starts(times, request.segment_s, fps)
    values: dict[str, tuple[float, ...]] = {}
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output.parent} is no folder.", hint="Name another --output.") from error
    # On the disk of the output, to which the finished folder is moved.
    with temporary_folder(output.parent) as folder:

        def bitrate_of(candidate: Candidate) -> float:
            def show(what: str, share: float) -> None:
                progress(f"{candidate.name}: {what}", share)

            size = (candidate.width, candidate.height)
            scenes, _ = quantizers(
                source, candidate.plan, request.settings, size=size, progress=show
            )
            values[candidate.name] = tuple(value for _, value in scenes)
            result = transcode(
                source,
                folder / f"{candidate.name}.mp4",
                request.settings,
                split_at(scenes, starts),
                size=size,
                video_only=True,
                progress=lambda done: show("encoding", min(1.0, done / len(times))),
            )
            return 8 * result.video_bytes / candidate.plan.scenes[-1].end_s / 1000

        rungs = select_rungs(candidates, bitrate_of, request.limits)
        kept = [rung.candidate.name for rung in rungs if rung.dropped is None]
        progress("packaging", 0)
        finished = folder / "ladder"
        finished.mkdir()
        tracks, sounds, left_out = package(
            {each: folder / f"{each}.mp4" for each in kept},
            source,
            finished,
            shortest_s=shortest_segment(request.segment_s, fps),
            hdr=facts.hdr,
        )
        first = next(iter(predictions.values()))
        ladder = Ladder(
            source=source,
            request=request,
            sur=first.sur,
            rungs=rungs,
            values=values,
            tracks={track.name: track for track in tracks},
            sounds=sounds,
            left_out=left_out,
            warnings=(*_warnings(source, facts, predictions, rungs), *first.warnings),
        )
        text = json.dumps(ladder.to_dict(), indent=2, allow_nan=False)
        (finished / REPORT).write_text(f"{text}\n", encoding="utf-8")
        finished.replace(output)
    return ladder


def _candidates(
    size: tuple[int, int], prediction: ClipPrediction, request: LadderRequest
) -> list[Candidate]:
    return [
        Candidate(
            width=size[0],
            height=size[1],
            plan=plan_of(prediction, f"jnd{level}", margin=request.margin),
            prediction=prediction,
        )
        for level in request.levels or prediction.spec.levels
    ]


def _size(facts: ClipFacts, height: int) -> tuple[int, int]:
    return size_at(facts.width, facts.height, height)


def _warnings(
    source: Path, facts: ClipFacts, predictions: Mapping[int, ClipPrediction], rungs: Iterable[Rung]
) -> list[str]:
    found: list[str] = []
    own = own_mean_qp(source)
    finer = [
        rung.candidate.name
        for rung in rungs
        if own is not None
        and rung.candidate.height >= facts.height - 1
        and rung.candidate.mean_qp <= own
    ]
    if own is not None and finer:
        found.append(
            f"the clip is itself encoded at QP {own:.1f} on average, not finer than"
            f" {', '.join(finer)}"
        )
    if len(predictions) > len({each.model for each in predictions.values()}):
        found.append("one model for several heights, but levels hold for the height of the labels")
    if any(each.spreads is None for each in predictions.values()):
        found.append("no spreads of viewers, so that only rungs of equal quantizers are dropped")
    return found
