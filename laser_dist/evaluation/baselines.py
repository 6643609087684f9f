"""What can be had without a network: predictors that every result is shown beside.

All are fitted on the training sources alone. The validation sources are left out, as the network
uses them only to choose its checkpoint; ridge and trees choose their settings by cross-validation
instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from laser_dist.evaluation.sources import SourceTable

CONSTANT = "constant"
RIDGE = "si-ti-ridge"
TREES = "si-ti-trees"

RIDGE_ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(-2, 4, 13))
TREE_DEPTHS = (1, 2)
MAX_TREES = 60
_MAX_FOLDS = 5
_ALPHA_WITHOUT_FOLDS = 1.0
_TREES_WITHOUT_FOLDS = 20


def baseline_predictions(train: SourceTable, activity: np.ndarray) -> dict[str, np.ndarray]:
    """What each baseline answers.

    Args:
      train: the training sources.
      activity: [N, 2], SI and TI of the sources asked about.

    Returns:
      Baseline's key to [N, L] float64; NaN of a level that no training source has.
    """
    taught = np.any(np.isfinite(train.levels), axis=0)
    known = train.part(np.ones(len(train.levels), bool), taught)
    answers = {
        CONSTANT: constant_predictions(known, len(activity)),
        RIDGE: ridge_predictions(known, activity),
        TREES: tree_predictions(known, activity),
    }
    full = {name: np.full((len(activity), len(taught)), np.nan) for name in answers}
    for name, answer in answers.items():
        full[name][:, taught] = answer
    return full


def constant_predictions(train: SourceTable, num_sources: int) -> np.ndarray:
    """Answer every source with the training median, which is what absolute error asks for.

    Args:
      train: at least one source that has each level.
      num_sources: how many answers.

    Returns:
      [num_sources, 3] float64, all rows alike.
    """
    medians = [np.median(column[~np.isnan(column)]) for column in train.levels.T]
    return np.tile(np.array(medians), (num_sources, 1))


def ridge_predictions(train: SourceTable, activity: np.ndarray) -> np.ndarray:
    """Ridge regression of the levels on spatial and temporal information.

    Args:
      train: at least one source that has each level. Levels that the same sources have are fitted
        together, with one penalty.
      activity: [N, 2], SI and TI of the sources asked about.

    Returns:
      [N, 3] float64.
    """
    predicted = np.empty((len(activity), train.levels.shape[1]))
    present = ~np.isnan(train.levels)
    for rows in np.unique(present, axis=1).T:
        together = (present == rows[:, None]).all(axis=0)
        model = _fit_ridge(train.part(rows, together))
        predicted[:, together] = model.predict(activity).reshape(len(activity), -1)
    return predicted


def tree_predictions(train: SourceTable, activity: np.ndarray) -> np.ndarray:
    """Gradient-boosted regression trees on spatial and temporal information, for each level alone.

    Depth and number of trees are those of least absolute error in cross-validation. The least
    number is one tree, whose answers hardly differ from the mean: where SI and TI tell nothing,
    the trees need not claim that they do.

    Args:
      train: at least one source that has each level.
      activity: [N, 2], SI and TI of the sources asked about.

    Returns:
      [N, L] float64.
    """
    there = np.isfinite(train.levels)
    each_level = np.eye(train.levels.shape[1], dtype=bool)
    models = [
        _fit_trees(train.part(rows, one)) for rows, one in zip(there.T, each_level, strict=True)
    ]
    return np.stack([model.predict(activity) for model in models], axis=1)


def _fit_ridge(train: SourceTable) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), Ridge(alpha=_ALPHA_WITHOUT_FOLDS))
    num_groups = len(set(train.group_ids))
    if num_groups < 2:
        return pipeline.fit(train.activity, train.levels)
    search = GridSearchCV(
        pipeline,
        {"ridge__alpha": RIDGE_ALPHAS},
        scoring="neg_mean_absolute_error",
        cv=_group_folds(train, min(_MAX_FOLDS, num_groups)),
    )
    return search.fit(train.activity, train.levels).best_estimator_


def _fit_trees(train: SourceTable) -> GradientBoostingRegressor:
    """Trees of one level, which each of these sources has."""
    activity, levels = train.activity, train.levels[:, 0]
    num_groups = len(set(train.group_ids))
    if num_groups < 2:
        return _trees(TREE_DEPTHS[0], _TREES_WITHOUT_FOLDS).fit(activity, levels)
    folds = _group_folds(train, min(_MAX_FOLDS, num_groups))
    errors = np.zeros((len(TREE_DEPTHS), MAX_TREES))
    for index, depth in enumerate(TREE_DEPTHS):
        for fitted, held_out in folds:
            # One fit tells of every number of trees: each tree only adds to those before it.
            model = _trees(depth, MAX_TREES).fit(activity[fitted], levels[fitted])
            answers = np.stack(list(model.staged_predict(activity[held_out])))
            errors[index] += np.abs(answers - levels[held_out]).sum(axis=1)
    best_depth, best_number = np.unravel_index(errors.argmin(), errors.shape)
    return _trees(TREE_DEPTHS[int(best_depth)], int(best_number) + 1).fit(activity, levels)


def _trees(depth: int, number: int) -> GradientBoostingRegressor:
    """Small trees and leaves of several sources: there are but a hundred sources to learn from."""
    return GradientBoostingRegressor(
        n_estimators=number,
        max_depth=depth,
        learning_rate=0.1,
        min_samples_leaf=5,
        random_state=0,
    )


def _group_folds(train: SourceTable, num_folds: int) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Folds that never part a group: else a clip would vouch for its own sibling."""
    folds = GroupKFold(num_folds)
    return list(folds.split(train.activity, train.levels, groups=np.array(train.group_ids)))
