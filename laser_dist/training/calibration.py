"""Calibration of a trained predictor with the validation split, from which no weight has learned.

The split has chosen the checkpoint, so the intervals are a little too narrow; cross-validation
does not have this fault.
"""

import logging
from collections.abc import Collection
from pathlib import Path

import keras
import numpy as np

from laser_dist.jnd.calibration import COVERAGE, Residuals, half_widths
from laser_dist.models.predictors import predictor_spec_of
from laser_dist.training.examples.example_codec import LEVELS, RAW, decode_frame, encoded_images
from laser_dist.training.examples.records import open_examples

_MAX_FRAMES = 8  # of a clip, as in `laser-jnd predict`

logger = logging.getLogger(__name__)


def validation_residuals(
    predictor: keras.Model, dataset: str | Path, source_ids: Collection[str]
) -> Residuals | None:
    """Return the errors of each level that a predictor predicts.

    Args:
      predictor: from `build_predictor`.
      dataset: location of the prepared dataset, path or URL.
      source_ids: ids of the validation sources.

    Returns:
      Residuals; None if the split has too few clips or groups with one of the levels for an
      interval, as `half_widths` says, or a prediction is not finite.
    """
    spec = predictor_spec_of(predictor)
    records, labels = open_examples(dataset, source_ids, ("source_id", "group_id", LEVELS))
    table = labels.to_pydict()
    rows_of: dict[str, list[int]] = {}
    for row, source_id in enumerate(table["source_id"]):
        rows_of.setdefault(source_id, []).append(row)
    height, width = predictor.input_shape[1:3]
    errors: list[np.ndarray] = []
    for rows in rows_of.values():
        some = rows[:: -(-len(rows) // _MAX_FRAMES)]
        images = (encoded_images(record, [RAW])[0] for record in records.read(some))
        frames = np.stack([decode_frame(image, height, width) for image in images])
        outputs = np.asarray(predictor.predict_on_batch(frames.astype(np.float32)), np.float64)
        levels = outputs[..., 0] if spec.spread else outputs
        true = np.array(table[LEVELS][rows[0]], np.float64)[[level - 1 for level in spec.levels]]
        errors.append(levels.mean(axis=0) - true)
    groups = [table["group_id"][rows[0]] for rows in rows_of.values()]
    found = np.array(errors)
    widths = half_widths(found, groups)
    if np.isinf(found).any() or not np.isfinite(widths).all():
        logger.info("Not calibrated: the validation split has too few clips or groups with a level")
        return None
    text = ", ".join(
        f"JND{level} ± {width:.2f}" for level, width in zip(spec.levels, widths, strict=True)
    )
    logger.info("%d%% intervals: %s", round(COVERAGE * 100), text)
    return Residuals.of_clips(found, groups)
