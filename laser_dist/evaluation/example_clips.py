"""Example clips of the report, chosen by their error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from laser_dist.evaluation.dataset import LevelFrames
from laser_dist.evaluation.metrics import mean_of_present
from laser_dist.evaluation.plots import rate_curve
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.evaluation.results import EvaluationResults
from laser_dist.evaluation.trained_run import FramesToFrames
from laser_dist.video.frames import resize_rgb
from laser_dist.video.quality import psnr_rgb_db


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleLevel:
    """One level of an example clip; values that do not exist are NaN, frames None.

    Attributes:
      level: from 1.
      is_predicted: whether the network predicts this level.
      true: the viewers' level, on the dataset's scale.
      predicted: the predicted level.
      true_psnr_db: dB, of the clip encoded at the true level.
      abs_psnr_error_db: dB, difference to the clip encoded at the predicted level.
      quantizer: quantizer of `encoded`.
      encoded: uint8 [H, W, 3], RGB, the frame encoded at the true level.
      encoded_psnr_db: dB, of `encoded`.
      backbone: uint8 [H, W, 3], RGB, the backbone's frame for this level.
      backbone_psnr_db: dB, of `backbone`.
    """

    level: int
    is_predicted: bool
    true: float
    predicted: float
    true_psnr_db: float
    abs_psnr_error_db: float
    quantizer: int | None
    encoded: np.ndarray | None
    encoded_psnr_db: float
    backbone: np.ndarray | None
    backbone_psnr_db: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleClip:
    """One frame of a test clip, with its levels.

    Attributes:
      rank: `lowest`, `median` or `highest` error among the test clips.
      source_id: the clip.
      frame_index: position of the frame in the clip.
      mean_abs_error: mean error of the network over the clip's levels, on the dataset's scale.
      raw: uint8 [H, W, 3], RGB.
      levels: JND1..3.
      rate_curve: SVG of PSNR over bit rate or size; empty if it cannot be drawn.
    """

    rank: str
    source_id: str
    frame_index: int
    mean_abs_error: float
    raw: np.ndarray
    levels: tuple[ExampleLevel, ...]
    rate_curve: str = ""

    @property
    def has_one_level(self) -> bool:
        """Return whether the network predicts only one level."""
        return sum(level.is_predicted for level in self.levels) == 1

    @property
    def has_backbones(self) -> bool:
        """Return whether there is any frame of a backbone."""
        return any(level.backbone is not None for level in self.levels)


def choose_examples(mean_abs_errors: np.ndarray) -> dict[str, int]:
    """Choose the clips of lowest, median and highest error.

    Args:
      mean_abs_errors: [N]; a clip with NaN is not chosen.

    Returns:
      Rank to row, no row twice; fewer than three if there are fewer clips. Of clips with equal
      errors the first has the lower rank.
    """
    order = np.argsort(mean_abs_errors, kind="stable")  # NaN last
    order = order[: np.count_nonzero(~np.isnan(mean_abs_errors))]
    chosen: dict[str, int] = {}
    if len(order) > 0:
        chosen["lowest"] = int(order[0])
    if len(order) > 2:
        chosen["median"] = int(order[(len(order) - 1) // 2])
    if len(order) > 1:
        chosen["highest"] = int(order[-1])
    return chosen


def thumbnails(
    frames: Iterable[tuple[str, np.ndarray]], *, height: int = 54
) -> dict[str, np.ndarray]:
    """Return a small picture of each frame.

    Args:
      frames: source ids and uint8 [H, W, 3] raw frames.
      height: of the pictures, pixels.

    Returns:
      Source id to uint8 [height, W', 3].
    """
    found: dict[str, np.ndarray] = {}
    for source_id, frame in frames:
        width = max(1, round(frame.shape[1] * height / frame.shape[0]))
        found[source_id] = resize_rgb(frame, width=width, height=height)
    return found


def example_clip(
    results: EvaluationResults,
    rank: str,
    row: int,
    frames: LevelFrames,
    backbones: Mapping[int, FramesToFrames],
    quality: QualityCurve | None = None,
) -> ExampleClip:
    """Collect the frames and errors of an example clip.

    Args:
      results: results of the evaluation.
      rank: `lowest`, `median` or `highest`.
      row: row of the clip among the test sources.
      frames: the clip's frame, of the backbones' input size.
      backbones: level, from 1, to a function from raw frames to frames of the same shape.
      quality: quality curve of the clip; None to leave out its plot.
    """
    network = results.network
    levels: list[ExampleLevel] = []
    for column, encoded in enumerate(frames.encoded):
        level, true = column + 1, float(results.test.levels[row, column])
        is_predicted = level in results.levels
        has_encoded = is_predicted and not np.isnan(true)
        has_backbone = is_predicted and level in backbones
        backbone = backbones[level](frames.raw[None])[0] if has_backbone else None
        levels.append(
            ExampleLevel(
                level=level,
                is_predicted=is_predicted,
                true=true,
                predicted=float(network.predicted[row, column]),
                true_psnr_db=float(results.true_psnr_db[row, column]),
                abs_psnr_error_db=float(network.psnr_errors_db[row, column]),
                quantizer=results.dataset.scale.quantizer_at(true) if has_encoded else None,
                encoded=encoded if has_encoded else None,
                encoded_psnr_db=psnr_rgb_db(frames.raw, encoded) if has_encoded else np.nan,
                backbone=backbone,
                backbone_psnr_db=np.nan if backbone is None else psnr_rgb_db(frames.raw, backbone),
            )
        )
    return ExampleClip(
        rank=rank,
        source_id=frames.source_id,
        frame_index=frames.frame_index,
        mean_abs_error=float(mean_of_present(network.abs_errors[row])),
        raw=frames.raw,
        levels=tuple(levels),
        rate_curve="" if quality is None else rate_curve(results, row, quality),
    )
