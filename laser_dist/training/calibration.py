"""Calibration of a trained predictor: its errors, and what it has learned from.

The errors are those of the validation split, from which no weight has learned. It has chosen the
checkpoint, so the intervals are a little too narrow; cross-validation does not have this fault.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from laser_dist.examples.example_codec import LEVELS, RAW, decode_frame, encoded_images
from laser_dist.examples.records import open_examples
from laser_dist.jnd.calibration import COVERAGE, Residuals, half_widths
from laser_dist.models.domain import Domain, frame_features
from laser_dist.models.predictors import change_spec, predictor_spec_of

_MAX_FRAMES = 8  # of a clip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Clip:
    """Some frames of a source, evenly over its examples.

    Attributes:
      group_id: its group.
      levels: [3], NaN where there is none.
      frames: uint8 [N, H, W, 3], RGB.
    """

    group_id: str
    levels: NDArray[np.float64]
    frames: NDArray[np.uint8]


def calibrate(
    predictor: keras.Model, dataset: str | Path, splits: Mapping[str, Collection[str]]
) -> None:
    """Store the errors of a predictor and the domain of its training clips in its spec.

    There are no errors if the validation split has too few clips or groups with one of the levels
    for an interval, as `half_widths` says, or a prediction is not finite. There is no domain if the
    split has too few clips.

    Args:
      predictor: from `build_predictor`.
      dataset: location of the prepared dataset, path or URL.
      splits: split to the ids of its sources; "train" and "validation" are used.
    """
    spec = predictor_spec_of(predictor)
    height, width = predictor.input_shape[1:3]
    groups: list[str] = []
    errors: list[NDArray[np.float64]] = []
    held_out: list[NDArray[np.float64]] = []
    for clip in _clips(dataset, splits["validation"], height, width):
        outputs = np.asarray(predictor.predict_on_batch(clip.frames.astype(np.float32)), np.float64)
        levels = outputs[..., 0] if spec.spread else outputs
        groups.append(clip.group_id)
        errors.append(levels.mean(axis=0) - clip.levels[[level - 1 for level in spec.levels]])
        held_out.append(frame_features(clip.frames).mean(axis=0))
    learned = [
        frame_features(clip.frames).mean(axis=0)
        for clip in _clips(dataset, splits["train"], height, width, max_frames=1)
    ]
    change_spec(
        predictor,
        residuals=_residuals(np.array(errors), groups, spec.levels),
        domain=Domain.of_clips(np.array(learned), np.array(held_out), groups),
    )


def _residuals(
    errors: NDArray[np.float64], groups: list[str], levels: tuple[int, ...]
) -> Residuals | None:
    widths = half_widths(errors, groups)
    if np.isinf(errors).any() or not np.isfinite(widths).all():
        logger.info("Not calibrated: the validation split has too few clips or groups with a level")
        return None
    text = ", ".join(
        f"JND{level} ± {width:.2f}" for level, width in zip(levels, widths, strict=True)
    )
    logger.info("%d%% intervals: %s", round(COVERAGE * 100), text)
    return Residuals.of_clips(errors, groups)


def _clips(
    dataset: str | Path,
    source_ids: Collection[str],
    height: int,
    width: int,
    *,
    max_frames: int = _MAX_FRAMES,
) -> Iterator[_Clip]:
    """Yield each source of a split, with some of its frames in the given size."""
    records, labels = open_examples(dataset, source_ids, ("source_id", "group_id", LEVELS))
    table = labels.to_pydict()
    rows_of: dict[str, list[int]] = {}
    for row, source_id in enumerate(table["source_id"]):
        rows_of.setdefault(source_id, []).append(row)
    for rows in rows_of.values():
        some = rows[:: -(-len(rows) // max_frames)]
        images = (encoded_images(record, [RAW])[0] for record in records.read(some))
        yield _Clip(
            group_id=table["group_id"][rows[0]],
            levels=np.array(table[LEVELS][rows[0]], np.float64),
            frames=np.stack([decode_frame(image, height, width) for image in images]),
        )
