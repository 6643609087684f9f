"""What can be had without a network: predictors that every result is shown beside.

Both are fitted on the training sources alone. The validation sources are left out, as the network
uses them only to choose its checkpoint; the ridge chooses its penalty by cross-validation instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

RIDGE_ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(-2, 4, 13))
_MAX_FOLDS = 5
_ALPHA_WITHOUT_FOLDS = 1.0


@dataclass(frozen=True, eq=False)
class SourceTable:
    """What is known of N sources without looking at their frames.

    Attributes:
      source_ids: [N], each once.
      group_ids: [N]; clips cut from one recording or photograph share a group.
      levels: [N, 3] float64, JND1..3 on the dataset's scale; NaN where one is missing.
      activity: [N, 2] float64, spatial and temporal information (ITU-T P.910) of the whole clip.
    """

    source_ids: tuple[str, ...]
    group_ids: tuple[str, ...]
    levels: np.ndarray
    activity: np.ndarray


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
        model = _fit_ridge(_part(train, rows, together))
        predicted[:, together] = model.predict(activity).reshape(len(activity), -1)
    return predicted


def _part(table: SourceTable, rows: np.ndarray, levels: np.ndarray) -> SourceTable:
    """Some sources ([N] bool) and some of their levels ([3] bool)."""
    return SourceTable(
        source_ids=tuple(compress(table.source_ids, rows)),
        group_ids=tuple(compress(table.group_ids, rows)),
        levels=table.levels[np.ix_(rows, levels)],
        activity=table.activity[rows],
    )


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


def _group_folds(train: SourceTable, num_folds: int) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """Folds that never part a group: else a clip would vouch for its own sibling."""
    folds = GroupKFold(num_folds)
    return list(folds.split(train.activity, train.levels, groups=np.array(train.group_ids)))
