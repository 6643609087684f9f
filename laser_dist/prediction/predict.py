"""Predict the JND levels of frames, and combine those of a scene and of a clip.

With a model that predicts a spread for each level, also the quantizers for any other satisfied-user
ratio (SUR).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laser_dist.errors import UserError
from laser_dist.jnd.calibration import COVERAGE
from laser_dist.jnd.normal_sur import normal_level
from laser_dist.jnd.scale import LEVEL_SUR, Scale
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.predictor import Predictor, run_in_batches, unusable

SCHEMA = 1
"""Version of `ClipPrediction.to_dict`."""


SHARE = 0.9
"""Share of a clip's time for which `ClipPrediction.quantizers_p10` are fine enough."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScenePrediction:
    """The levels of one scene.

    Attributes:
      start_s: start in seconds from the first frame of the clip.
      end_s: end; None if the frames have no times.
      frames: positions of its frames in the clip.
      levels: [L] float32, mean over the sampled frames, on the scale of the training data; neither
        rounded nor forced to ascend.
      spreads: [L] float32, mean over the sampled frames of the standard deviation of the viewers'
        samples; None if the model does not predict it.
      levels_per_frame: [N, L] float32, the levels of each sampled frame.
      timestamps_s: [N] time of each sampled frame in the clip; empty for frames without times.
      levels_at_sur: [L] float64, where the SUR is the targeted one; at 0.75 these are `levels`.
    """

    start_s: float
    end_s: float | None
    frames: range
    levels: NDArray[np.float32]
    spreads: NDArray[np.float32] | None
    levels_per_frame: NDArray[np.float32]
    timestamps_s: tuple[float, ...]
    levels_at_sur: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class ClipPrediction:
    """The levels of one clip: for each level those of its strictest scene.

    Attributes:
      clip: name of the clip.
      spec: meaning of the model's output; `spec.levels` are the L levels of all arrays.
      scale: scale of the levels.
      scenes: the scenes of the clip, in order; at least one.
      sur: targeted satisfied-user ratio.
      model: origin of the model.
      runtime: what ran the model.
      warnings: how the clip differs from what the model has learned from; see `notes`.
      interval: share of clips whose level is in the interval of `half_widths`, in (0, 1).
    """

    clip: str
    spec: PredictorSpec
    scale: Scale
    scenes: tuple[ScenePrediction, ...]
    sur: float
    model: str
    runtime: str
    warnings: tuple[str, ...] = ()
    interval: float = COVERAGE

    @property
    def half_widths(self) -> NDArray[np.float64] | None:
        """[L] half-width of the interval of each level; None if the model has none for the share.

        It is for a satisfied-user ratio of 0.75.
        """
        if self.spec.residuals is None:
            return None
        found = self.spec.residuals.half_widths(self.interval)
        return found if np.isfinite(found).all() else None

    @property
    def levels(self) -> NDArray[np.float32]:
        """[L] levels of the strictest scene, which may be another one for each level."""
        return self._of_strictest(np.stack([each.levels for each in self.scenes]))

    @property
    def spreads(self) -> NDArray[np.float32] | None:
        """[L] spreads of the strictest scene; None if the model does not predict them."""
        found = [each.spreads for each in self.scenes if each.spreads is not None]
        return self._of_strictest(np.stack(found)) if found else None

    @property
    def levels_at_sur(self) -> NDArray[np.float64]:
        """[L] levels of the strictest scene, where the SUR is `sur`."""
        return self._of_strictest(np.stack([each.levels_at_sur for each in self.scenes]))

    @property
    def quantizers(self) -> dict[str, int]:
        """`levels_at_sur` for an encoder, rounded by `Scale.quantizer_at`: "jnd1" to a number."""
        return self._quantizers(self.levels_at_sur)

    @property
    def quantizers_p10(self) -> dict[str, int]:
        """The coarsest quantizers that scenes of `SHARE` of the clip's time allow.

        The others need finer ones: see `quantizers`. Frames without times count as one scene.
        """
        levels = np.stack([each.levels_at_sur for each in self.scenes]) * self.scale.sign
        seconds = np.array([(each.end_s or 1) - each.start_s for each in self.scenes])
        found = []
        for column in levels.T:
            order = np.argsort(column)
            # Of the scenes that are stricter than this one, at most 1 - SHARE of the time.
            before = np.cumsum(seconds[order]) - seconds[order]
            allowed = before <= (1 - SHARE) * seconds.sum() + 1e-9
            found.append(column[order[np.flatnonzero(allowed)[-1]]])
        return self._quantizers(np.array(found) * self.scale.sign)

    def scene_quantizers(self, scene: ScenePrediction) -> dict[str, int]:
        """Return the quantizers of one scene, as `quantizers` are for the clip."""
        return self._quantizers(scene.levels_at_sur)

    def ffmpeg_args(self, level: str = "jnd1") -> list[str]:
        """Return the options with which FFmpeg encodes at a level, such as "-c:v libx264 -qp 27".

        Args:
          level: "jnd1", "jnd2" or "jnd3".

        Raises:
          UserError: the model does not predict the level, or predicts it for JPEG.
        """
        if level not in self.quantizers:
            raise UserError(
                f"The model does not predict {level}.", hint=f"Name {', '.join(self.quantizers)}."
            )
        if self.scale.name != "QP":
            raise UserError(f"A level in {self.scale.name} is for JPEG, not for FFmpeg's x264.")
        return ["-c:v", "libx264", "-qp", str(self.quantizers[level])]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; see "JSON output of predict" in the reference of file formats."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "clip": self.clip,
            "scale": self.scale.name,
            "sur": self.sur,
            "quantizers": self.quantizers,
            "quantizers_p10": self.quantizers_p10,
            "levels": self._named(self.levels),
            "scenes": [self._scene_dict(each) for each in self.scenes],
            "model": self.model,
            "runtime": self.runtime,
            "variant": self.spec.variant,
            "simulated": self.spec.simulated,
            "warnings": list(self.warnings),
        }
        if self.spreads is not None:
            document["spreads"] = self._named(self.spreads)
        if self.half_widths is not None:
            document |= {"interval": self.interval, "half_widths": self._named(self.half_widths)}
        return document

    def _scene_dict(self, scene: ScenePrediction) -> dict[str, Any]:
        document: dict[str, Any] = {
            "start_s": scene.start_s,
            "end_s": scene.end_s,
            "first_frame": scene.frames.start,
            "end_frame": scene.frames.stop,
            "quantizers": self.scene_quantizers(scene),
            "levels": self._named(scene.levels),
            "timestamps_s": list(scene.timestamps_s),
            "levels_per_frame": self._named(scene.levels_per_frame.T),
        }
        if scene.spreads is not None:
            document["spreads"] = self._named(scene.spreads)
        return document

    def _of_strictest(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return of values [scenes, L] those of the strictest scene for each level."""
        at_sur = np.stack([each.levels_at_sur for each in self.scenes]) * self.scale.sign
        return values[at_sur.argmin(axis=0), np.arange(values.shape[1])]

    def _quantizers(self, levels: NDArray[np.float64]) -> dict[str, int]:
        return {name: self.scale.quantizer_at(each) for name, each in self._named(levels).items()}

    def _named(self, values: NDArray[Any]) -> dict[str, Any]:
        """Return values [L, ...] by the names of the levels."""
        pairs = zip(self.spec.levels, values.tolist(), strict=True)
        return {f"jnd{level}": value for level, value in pairs}


def check_sur(predictor: Predictor, sur: float) -> None:
    """Raise UserError if the predictor cannot target a satisfied-user ratio."""
    if sur != LEVEL_SUR and not predictor.spec.spread:
        raise UserError(
            f"This model only supports --sur {LEVEL_SUR}: it does not predict the spread of the"
            " viewers.",
            hint="Train one with `laser-jnd train --set head.spread=true`.",
        )


def check_interval(predictor: Predictor, interval: float | None) -> float:
    """Return the share of clips for which intervals are computed: as asked, or `COVERAGE`.

    Raises:
      UserError: the predictor has no intervals for the share that was asked for.
      ValueError: the share is not in (0, 1).
    """
    if interval is None:
        return COVERAGE
    if not 0 < interval < 1:
        raise ValueError(f"interval must be in (0, 1), got {interval}")
    residuals = predictor.spec.residuals
    if residuals is None:
        raise UserError(
            "This model has no intervals: it has not been calibrated.",
            hint="Calibrate it with `laser-jnd evaluate --calibrate`.",
        )
    if not np.isfinite(residuals.half_widths(interval)).all():
        raise UserError(
            f"This model has no interval for {interval * 100:g}% of clips: it was calibrated with"
            f" {len(residuals.errors)}, which are too few.",
            hint=f"Use --interval {COVERAGE}, or less.",
        )
    return interval


def predict_frames(predictor: Predictor, frames: np.ndarray, *, batch_size: int = 16) -> np.ndarray:
    """Predict the levels of single frames.

    Args:
      predictor: a loaded predictor.
      frames: uint8 [N, H, W, 3], RGB, of the predictor's size.
      batch_size: frames per call of the model; affects memory, not the result.

    Returns:
      float32 [N, L], or [N, L, 2] of levels and spreads.

    Raises:
      ValueError: the frames have another shape or dtype.
      UserError: the model predicts NaN or infinity, or a spread that is not above 0.
    """
    expected = (predictor.height, predictor.width, 3)
    if frames.dtype != np.uint8 or frames.shape[1:] != expected:
        raise ValueError(
            f"frames must be uint8 [N, {predictor.height}, {predictor.width}, 3],"
            f" got {frames.dtype} {frames.shape}"
        )
    if len(frames) == 0:
        return np.zeros((0, *predictor.spec.output_shape), np.float32)
    predicted = run_in_batches(predictor.forward, frames, batch_size, predictor.origin)
    if predictor.spec.spread and predicted[..., 1].min() <= 0:
        raise unusable(predictor.origin, "a spread that is not above 0")
    return predicted


def combined_scene(
    predictor: Predictor,
    outputs: NDArray[np.float32],
    *,
    frames: range,
    start_s: float = 0.0,
    end_s: float | None = None,
    timestamps_s: Sequence[float] = (),
    sur: float = LEVEL_SUR,
) -> ScenePrediction:
    """Combine the predictions of the frames of a scene.

    Args:
      predictor: what predicted them.
      outputs: from `predict_frames`, of one frame or more.
      frames: positions of the frames of the scene in the clip, of which `outputs` are samples.
      start_s: start of the scene in seconds.
      end_s: end of the scene, if known.
      timestamps_s: time of each frame, if known.
      sur: satisfied-user ratio to target, in (0, 1); see `check_sur`.
    """
    has_spread = predictor.spec.spread
    per_frame = outputs[..., 0] if has_spread else outputs
    levels = per_frame.mean(axis=0)
    spreads = outputs[..., 1].mean(axis=0) if has_spread else None
    at_sur = normal_level(levels, 0.0 if spreads is None else spreads, sur, scale=predictor.scale)
    return ScenePrediction(
        start_s=start_s,
        end_s=end_s,
        frames=frames,
        levels=levels,
        spreads=spreads,
        levels_per_frame=per_frame,
        timestamps_s=tuple(timestamps_s),
        levels_at_sur=at_sur,
    )


def combined_clip(
    predictor: Predictor,
    scenes: Sequence[ScenePrediction],
    *,
    clip: str,
    sur: float = LEVEL_SUR,
    warnings: tuple[str, ...] = (),
    interval: float = COVERAGE,
) -> ClipPrediction:
    """Combine the scenes of a clip, at least one, predicted for the same `sur`."""
    return ClipPrediction(
        clip=clip,
        spec=predictor.spec,
        scale=predictor.scale,
        scenes=tuple(scenes),
        sur=sur,
        model=predictor.origin,
        runtime=predictor.runtime,
        warnings=warnings,
        interval=interval,
    )
