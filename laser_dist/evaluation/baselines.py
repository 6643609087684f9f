"""Baselines without a neural network, for comparison with every result.

All are fitted on the training sources only. The network uses the validation sources to choose its
checkpoint; ridge and trees choose their hyperparameters by cross-validation instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from laser_dist.evaluation.dataset import SourceTable
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.jnd.calibration import half_widths
from laser_dist.jnd.scale import Scale

CONSTANT = "constant"
RIDGE = "si-ti-ridge"
TREES = "si-ti-trees"
ONE_ENCODE = "one-encode"

RIDGE_ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(-2, 4, 13))
TREE_DEPTHS = (1, 2)
MAX_TREES = 60
_MAX_FOLDS = 5
# For a single group, where there is no cross-validation.
_DEFAULT_ALPHA = 1.0
_DEFAULT_TREES = 20


def baseline_predictions(
    train: SourceTable, test: SourceTable, curves: Mapping[str, QualityCurve], scale: Scale
) -> dict[str, np.ndarray]:
    """Fit every baseline and predict.

    Args:
      train: training sources.
      test: N sources to predict.
      curves: source id to its quality curve, of all these sources.
      scale: scale of the levels.

    Returns:
      Baseline's name to [N, L] float64; NaN for a level that no training source has.
    """
    has_level = np.any(np.isfinite(train.levels), axis=0)
    train = train.select(np.ones(len(train.levels), bool), has_level)
    quantizer = scale.quantizer_at(float(np.nanmedian(train.levels)))
    train_bits, test_bits = one_encode_bits(train, test, curves, quantizer)
    predictions = {
        CONSTANT: constant_predictions(train, len(test.levels)),
        RIDGE: ridge_predictions(train, test.activity),
        TREES: tree_predictions(train, test.activity),
        ONE_ENCODE: tree_predictions(replace(train, activity=train_bits), test_bits),
    }
    all_levels = {name: np.full(test.levels.shape, np.nan) for name in predictions}
    for name, predicted in predictions.items():
        all_levels[name][:, has_level] = predicted
    return all_levels


def one_encode_bits(
    train: SourceTable, test: SourceTable, curves: Mapping[str, QualityCurve], quantizer: int
) -> list[np.ndarray]:
    """Return what one encode of each source shows: the binary logarithm of its size.

    Args:
      train: training sources.
      test: sources to predict.
      curves: source id to its quality curve, of all these sources.
      quantizer: the one that all are encoded with.

    Returns:
      [N, 1] float64 of each table; a source of unknown size has the median of the training ones.
    """
    found = [
        np.array(
            [
                np.log2(curves[source_id].bits_at(np.array(quantizer)))
                for source_id in table.source_ids
            ]
        )
        for table in (train, test)
    ]
    known = found[0][np.isfinite(found[0])]
    median = np.median(known) if len(known) else 0.0
    return [np.where(np.isfinite(bits), bits, median)[:, None] for bits in found]


def constant_predictions(train: SourceTable, num_sources: int) -> np.ndarray:
    """Predict the training median, which minimizes the absolute error, for every source.

    Args:
      train: at least one source that has each level.
      num_sources: number of sources to predict.

    Returns:
      [num_sources, L] float64, all rows equal.
    """
    return np.tile(np.nanmedian(train.levels, axis=0), (num_sources, 1))


def constant_half_widths(train: SourceTable) -> np.ndarray:
    """Return the half-width of the calibrated interval of each level of the constant baseline.

    Each training group is predicted by the median of the others.

    Returns:
      [L] float64; NaN for a level of fewer than two groups or nine clips.
    """
    groups = np.array(train.group_ids)
    errors = np.full_like(train.levels, np.nan)
    for column, levels in enumerate(train.levels.T):
        present = np.isfinite(levels)
        for group in np.unique(groups[present]):
            others = levels[present & (groups != group)]
            if len(others):
                own = groups == group
                errors[own, column] = np.median(others) - levels[own]
    return half_widths(errors, train.group_ids)


def ridge_predictions(train: SourceTable, activity: np.ndarray) -> np.ndarray:
    """Predict by ridge regression on spatial and temporal information.

    Levels that the same sources have are fitted together, with one penalty.

    Args:
      train: at least one source that has each level.
      activity: [N, 2], SI and TI of the sources to predict.

    Returns:
      [N, L] float64.
    """
    predicted = np.empty((len(activity), train.levels.shape[1]))
    present = np.isfinite(train.levels)
    for rows in np.unique(present, axis=1).T:
        levels = (present == rows[:, None]).all(axis=0)
        model = _fit_ridge(train.select(rows, levels))
        predicted[:, levels] = model.predict(activity).reshape(len(activity), -1)
    return predicted


def tree_predictions(train: SourceTable, activity: np.ndarray) -> np.ndarray:
    """Predict each level by gradient-boosted regression trees on spatial and temporal information.

    Cross-validation chooses the depth and the number of trees with the lowest absolute error. The
    smallest model, a single tree, is close to the mean: the right answer where SI and TI carry no
    information.

    Args:
      train: at least one source that has each level.
      activity: [N, 2], SI and TI of the sources to predict.

    Returns:
      [N, L] float64.
    """
    present = np.isfinite(train.levels)
    one_level = np.eye(train.levels.shape[1], dtype=bool)
    models = [
        _fit_trees(train.select(rows, level))
        for rows, level in zip(present.T, one_level, strict=True)
    ]
    return np.stack([model.predict(activity) for model in models], axis=1)


def _fit_ridge(train: SourceTable) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), Ridge(alpha=_DEFAULT_ALPHA))
    folds = _group_folds(train)
    if not folds:
        return pipeline.fit(train.activity, train.levels)
    search = GridSearchCV(
        pipeline,
        {"ridge__alpha": RIDGE_ALPHAS},
        scoring="neg_mean_absolute_error",
        cv=folds,
    )
    return search.fit(train.activity, train.levels).best_estimator_


def _fit_trees(train: SourceTable) -> GradientBoostingRegressor:
    """Fit trees on sources that all have the one level of the table."""
    activity, levels = train.activity, train.levels[:, 0]
    folds = _group_folds(train)
    if not folds:
        return _trees(TREE_DEPTHS[0], _DEFAULT_TREES).fit(activity, levels)
    errors = np.zeros((len(TREE_DEPTHS), MAX_TREES))
    for depth_index, depth in enumerate(TREE_DEPTHS):
        for fitted, held_out in folds:
            # One fit gives the predictions for every number of trees, because boosting only adds.
            model = _trees(depth, MAX_TREES).fit(activity[fitted], levels[fitted])
            predicted = np.stack(list(model.staged_predict(activity[held_out])))
            errors[depth_index] += np.abs(predicted - levels[held_out]).sum(axis=1)
    best_depth, best_stage = np.unravel_index(errors.argmin(), errors.shape)
    return _trees(TREE_DEPTHS[int(best_depth)], int(best_stage) + 1).fit(activity, levels)


def _trees(depth: int, num_trees: int) -> GradientBoostingRegressor:
    """Return unfitted trees; shallow, with large leaves, as there are only about 100 sources."""
    return GradientBoostingRegressor(
        n_estimators=num_trees,
        max_depth=depth,
        learning_rate=0.1,
        min_samples_leaf=5,
        random_state=0,
    )


def _group_folds(train: SourceTable) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Return (training, held-out) rows of each fold; none if there is only one group.

    Folds never split a group, because clips of one group have similar levels.
    """
    num_groups = len(set(train.group_ids))
    if num_groups < 2:
        return []
    folds = GroupKFold(min(_MAX_FOLDS, num_groups))
    return list(folds.split(train.activity, train.levels, groups=np.array(train.group_ids)))
