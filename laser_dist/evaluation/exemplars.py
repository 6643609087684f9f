"""Three test clips to look at, chosen by rule and not by taste."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from laser_dist.evaluation.dataset import FramePair
from laser_dist.evaluation.metrics import mean_of_present
from laser_dist.evaluation.results import EvaluationResults
from laser_dist.video.quality import psnr_rgb_db


@dataclass(frozen=True, eq=False)
class Exemplar:
    """One frame of one test clip with all that is said about it.

    Attributes:
      standing: `lowest`, `median` or `highest`, of the error among the test clips.
      source_id: the clip.
      frame_index: which frame of it.
      mean_abs_error: of the network on this clip, over its levels, on the dataset's scale.
      true_levels: [3], as the viewers judged; NaN, as all that needs one, where a level is missing.
      predicted_levels: [3], as the network says; NaN, as all that needs one, of a level that it
        does not predict.
      true_psnr_db: [3], of the clip coded at the true levels.
      abs_psnr_error_db: [3], distance to the PSNR at the predicted levels.
      raw: uint8 [H, W, 3], RGB.
      coded: uint8 [3, H, W, 3], at the true levels; black where one is missing.
      predicted: level, from 1, to uint8 [H, W, 3], what its backbone makes of `raw`.
      coded_psnr_db: [3], of `coded` against `raw`.
      predicted_psnr_db: [3], of `predicted` against `raw`; NaN where there is none.
    """

    standing: str
    source_id: str
    frame_index: int
    mean_abs_error: float
    true_levels: np.ndarray
    predicted_levels: np.ndarray
    true_psnr_db: np.ndarray
    abs_psnr_error_db: np.ndarray
    raw: np.ndarray
    coded: np.ndarray
    predicted: Mapping[int, np.ndarray]
    coded_psnr_db: np.ndarray
    predicted_psnr_db: np.ndarray


def choose(mean_abs_errors: np.ndarray) -> dict[str, int]:
    """Clips of lowest, median and highest error.

    Args:
      mean_abs_errors: [N]; NaN for a clip without any level, which is not chosen.

    Returns:
      Standing to position; fewer than three where N < 3, and no position twice. Among equal errors
      the first stands lower.
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


def make_exemplars(
    results: EvaluationResults,
    chosen: Mapping[str, int],
    pairs: Mapping[str, FramePair],
    backbones: Mapping[int, Callable[[np.ndarray], np.ndarray]],
) -> tuple[Exemplar, ...]:
    """Put the chosen clips' frames beside what is known of them.

    Args:
      results: of the evaluation.
      chosen: standing to position among the test sources, as `choose` gives it.
      pairs: source id to its frame.
      backbones: level, from 1, to what makes raw uint8 [N, H, W, 3] to predicted frames of the
        same shape; not every level need have one.
    """
    return tuple(
        _exemplar(results, standing, row, pairs[results.test.source_ids[row]], backbones)
        for standing, row in chosen.items()
    )


def _exemplar(
    results: EvaluationResults,
    standing: str,
    row: int,
    pair: FramePair,
    backbones: Mapping[int, Callable[[np.ndarray], np.ndarray]],
) -> Exemplar:
    network = results.predictors[results.model]
    predicted = {level: backbone(pair.raw[None])[0] for level, backbone in backbones.items()}
    return Exemplar(
        standing=standing,
        source_id=pair.source_id,
        frame_index=pair.frame_index,
        mean_abs_error=float(mean_of_present(network.errors.levels[row])),
        true_levels=results.test.levels[row],
        predicted_levels=network.predicted[row],
        true_psnr_db=results.true_psnr_db[row],
        abs_psnr_error_db=network.errors.psnr_db[row],
        raw=pair.raw,
        coded=pair.coded,
        predicted=predicted,
        coded_psnr_db=np.array(
            [
                np.nan if np.isnan(level) else psnr_rgb_db(pair.raw, frame)
                for level, frame in zip(results.test.levels[row], pair.coded, strict=True)
            ]
        ),
        predicted_psnr_db=np.array(
            [
                psnr_rgb_db(pair.raw, predicted[level]) if level in predicted else np.nan
                for level in range(1, len(pair.coded) + 1)
            ]
        ),
    )
