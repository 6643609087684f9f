"""Read what a model needs of a clip, and predict it.

The two can run in different processes: FFmpeg reads any file in one that may crash, and the model
stays loaded in another. Memory does not grow with the length of a clip: each scene is predicted
when its frames are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from laser_dist.models.domain import frame_features
from laser_dist.prediction.notes import notes_on
from laser_dist.prediction.predict import (
    SCHEMA,
    ClipPrediction,
    ScenePrediction,
    combined_clip,
    combined_scene,
    predict_frames,
)
from laser_dist.prediction.predictor import Predictor
from laser_dist.video.containers import Damage, VideoError, name_of
from laser_dist.video.facts import ClipFacts, clip_facts
from laser_dist.video.sampling import sample_scenes
from laser_dist.video.scenes import LONGEST_S, find_scenes


@dataclass(frozen=True, eq=False, kw_only=True)
class SampledScene:
    """What a model needs of a scene.

    Attributes:
      frames: uint8 [N, H, W, 3], RGB, of the model's size.
      timestamps_s: [N] time of each frame in the clip.
      start_s: start in seconds from the first frame of the clip.
      end_s: end; None for a still image.
      numbers: numbers of all frames of the scene in the clip.
    """

    frames: NDArray[np.uint8]
    timestamps_s: tuple[float, ...]
    start_s: float
    end_s: float | None
    numbers: range


_SECONDS_BETWEEN_REPORTS = 0.5

Take = Callable[[float | SampledScene], None]
"""Takes each scene, in order, and from time to time the share of the clip that is read."""


HdrHandling = Literal["tonemap", "refuse"]
"""What is done with clips in HDR: they are mapped to SDR, or are an error."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a clip to read.

    Attributes:
      num_frames: most frames of each scene, see `sample_scenes`.
      width: columns of a frame.
      height: rows of a frame.
      scenes: find the scenes of a clip of up to 10 s, too.
      hdr: what to do with HDR.
    """

    num_frames: int
    width: int
    height: int
    scenes: bool = False
    hdr: HdrHandling = "tonemap"


@dataclass(frozen=True, kw_only=True)
class FailedClip:
    """A clip that could not be predicted.

    Attributes:
      clip: name of the clip.
      message: what is wrong, one sentence.
      hint: what to do about it; may be empty.
    """

    clip: str
    message: str
    hint: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema": SCHEMA, "clip": self.clip, "error": self.message, "hint": self.hint,
        }  # fmt: skip


def read_clip(source: bytes | Path, sampling: Sampling, take: Take) -> tuple[ClipFacts, Damage]:
    """Read what a model needs of a video or image.

    Args:
      source: content or path of a file.
      sampling: which frames to read.
      take: called with each scene and share.

    Returns:
      How the clip is coded, and damage that was concealed or left out.

    Raises:
      VideoError: the file is missing or not a readable video or image, or it is in HDR and that is
        refused.
    """
    facts = clip_facts(source)
    if facts.hdr and sampling.hdr == "refuse":
        raise VideoError(f"{name_of(source)} is in HDR ({facts.hdr}).", hint="Use --hdr tonemap.")
    found, damage, sampled_damage = None, Damage(), Damage()
    interlaced = facts.interlaced
    if sampling.scenes or facts.duration_s is None or facts.duration_s > LONGEST_S:
        length = max(facts.duration_s or 0, LONGEST_S)
        report = _now_and_then(take)
        found = find_scenes(
            source, damage=damage, progress=lambda done: report(float(min(done / length, 1) / 2))
        )
        if not sampling.scenes and found[-1].end <= LONGEST_S:  # a stream that states no length
            found = None
    parts = sample_scenes(
        source, found, num_frames=sampling.num_frames, width=sampling.width,
        height=sampling.height, damage=sampled_damage,
    )  # fmt: skip
    for number, (scene, sampled) in enumerate(parts, start=1):
        interlaced = interlaced or any(each.interlaced for each in sampled)
        take(
            SampledScene(
                frames=np.stack([each.rgb for each in sampled]),
                timestamps_s=tuple(each.timestamp_s for each in sampled),
                start_s=float(scene.start),
                end_s=float(scene.end) if facts.duration_s != 0 else None,
                numbers=range(scene.first_frame, scene.end_frame),
            )
        )
        take(0.5 + number / len(found or [scene]) / 2)
    # Where the scenes are found, all frames are decoded.
    return replace(facts, interlaced=interlaced), damage if found else sampled_damage


def _now_and_then(report: Callable[[float], None]) -> Callable[[float], None]:
    """Return a function that reports a share if the last report was some time ago."""
    last = time.monotonic()

    def pass_on(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            report(share)

    return pass_on


def predict_clip(
    predictor: Predictor,
    read: Callable[[Take], tuple[ClipFacts, Damage]],
    *,
    clip: str,
    sur: float,
    interval: float,
    progress: Callable[[float], None] = lambda share: None,
) -> ClipPrediction:
    """Predict a clip while it is read.

    Args:
      predictor: a loaded predictor.
      read: `read_clip`, here or in another process, with frames of the predictor's size.
      clip: name of the clip.
      sur: satisfied-user ratio to target, in (0, 1); see `check_sur`.
      interval: share of clips for the intervals, in (0, 1); see `check_interval`.
      progress: called with the share of the clip that is done.

    Raises:
      VideoError: as `read_clip`.
      UserError: as `predict_frames`.
    """
    predicted: list[ScenePrediction] = []
    features: list[NDArray[np.float64]] = []

    def take(part: float | SampledScene) -> None:
        if isinstance(part, float):
            progress(part)
            return
        if predictor.spec.domain is not None:
            features.append(frame_features(part.frames))
        scene = combined_scene(
            predictor,
            predict_frames(predictor, part.frames),
            frames=part.numbers,
            start_s=part.start_s,
            end_s=part.end_s,
            timestamps_s=part.timestamps_s,
            sur=sur,
        )
        predicted.append(scene)

    facts, damage = read(take)
    size = (predictor.width, predictor.height)
    content = np.concatenate(features).mean(axis=0) if features else None
    warnings = notes_on(facts, predictor.spec, frame_size=size, damage=damage, features=content)
    return combined_clip(
        predictor, predicted, clip=clip, sur=sur, warnings=warnings, interval=interval
    )
