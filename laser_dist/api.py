"""The library: train, cross-validate and evaluate, as the commands of `laser-jnd` do.

    import laser_dist

    run = laser_dist.train("mj-lat", "runs/data", "runs/first", config="tiny")
    results = laser_dist.evaluate([run.dir], "runs/data", "runs/first")
    print(results.network.score.mean_abs_error)

A training runs on Ray: on the cluster that `RAY_ADDRESS` names or that this process is connected
to, otherwise on a Ray that is started on this machine until the training ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.errors import UserError
from laser_dist.jnd.splits import cross_validation
from laser_dist.keras_import import import_keras
from laser_dist.models.variants import variant_named
from laser_dist.storage import is_url, join
from laser_dist.storage.local_copies import local_dataset, local_run, naming_locations
from laser_dist.storage.prepared_datasets import find_dataset
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.config import (
    PRESETS,
    TrainingConfig,
    from_dict,
    override,
    read_settings,
    setting_text,
    to_dict,
)
from laser_dist.training.runs import Run, load_run, read_dataset_card, start_run
from laser_dist.training.session import (
    Follower,
    check_stages,
    is_finished,
    load_pretrained,
    train_runs,
)

if TYPE_CHECKING:
    from laser_dist.evaluation.results import EvaluationResults
    from laser_dist.training.learning.callbacks import Callback

Show = Callable[[str], None]
Config = TrainingConfig | str | Path

logger = logging.getLogger(__name__)


def train(
    variant: str,
    dataset: str | Path,
    output: str | Path,
    *,
    config: Config = "paper",
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    init_from: str | Path | None = None,
    stages: Sequence[str] | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    follower: Follower | None = None,
) -> Run | None:
    """Train a predictor, backbones first, or what is missing of it.

    Args:
      variant: `lat`, `rec`, `e2e-lat`, `e2e-rec`, `mj-lat` or `mj-rec`.
      dataset: location of a prepared dataset, path or URL: the folder of its version, or a folder
        on this machine that holds only this dataset.
      output: folder of the run, or its location in a bucket. An unfinished run with the same
        settings and data is resumed; a finished one is returned.
      config: settings, the name of a preset, or a file as `laser-jnd train --print-config` prints.
      settings: changes to it, path to value, such as `{"heads.epochs": 20}`.
      callbacks: called by the chief worker; see `Callback`.
      init_from: run or folder of models whose backbones are used as they are.
      stages: names of the stages to train, with those that they need; None for all.
      splits: ids of the sources of each split; None for the dataset's own.
      follower: follows the training in this thread; None to log its progress.

    Returns:
      The finished run; None if only some stages were trained. Of a run in a bucket, a local copy.

    Raises:
      UserError: a setting, the dataset or the output is not usable; nothing has been written.
      TrainingFailedError: of Ray: workers failed more often than the run allows.
    """
    training = to_dict(resolve_config(variant, config, settings))
    check_stages(stages, training)
    store = run_store(output)
    if init_from is not None and is_finished(store):
        raise UserError(
            f"{store.location} is a finished run, so its backbones cannot be replaced.",
            hint="Choose another folder for the new run.",
        )
    follower = follower or Follower()
    location, pretrained = find_dataset(dataset), None
    if init_from is not None:
        from laser_dist.training.ray_entry import check_gpus_here

        check_gpus_here(from_dict(training).cluster)  # before models are downloaded
        with follower.preparing() as show:
            pretrained = load_pretrained(str(init_from), training, show)
    started = start_run(store, training, location, splits)  # creates the folder
    logger.info("Follow the metrics with: tensorboard --logdir %s/logs/tensorboard", store.location)
    train_runs(
        [(started, store)],
        pretrained=pretrained,
        only=stages,
        callbacks=callbacks,
        follower=follower,
    )
    return finished_run(store) if is_finished(store) else None


def evaluate(
    models: Sequence[str | Path],
    dataset: str | Path,
    output: str | Path,
    *,
    show: Show = lambda _: None,
) -> EvaluationResults:
    """Evaluate models on the test sources of a dataset, and write the results and the report.

    Args:
      models: locations of finished runs, paths or URLs, or paths of model files. The report shows
        the first one; the tables compare all.
      dataset: location of a prepared dataset, as for `train`.
      output: folder for `results.json`, `predictions.csv` and `report/index.html`, path or URL.
      show: called with what is being done.

    Raises:
      UserError: a model or the dataset is not usable, or a model was trained on test sources.
    """
    names, location = [str(model) for model in models], find_dataset(dataset)
    with naming_locations(*names, location):
        paths = {name: local_run(name, show) for name in names}
        folder = local_dataset(location, ("test",), show)
        show("Predicting the test sources")
        import_keras(gpus="shared")
        from laser_dist.evaluation.evaluate import evaluate as evaluate_models

        return evaluate_models(folder, paths, str(output))


def cross_validate(
    variant: str,
    dataset: str | Path,
    output: str | Path,
    *,
    num_folds: int = 4,
    config: Config = "paper",
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    follower: Follower | None = None,
    show: Show = lambda _: None,
) -> EvaluationResults:
    """Train a predictor for each fold of groups, and evaluate the predictions of all together.

    Args:
      variant: as for `train`.
      dataset: as for `train`.
      output: folder of the results, with a run `fold-N` for each fold, path or URL. What is
        finished there is reused.
      num_folds: number of folds, from 2.
      config: as for `train`; each fold has the same settings.
      settings: as for `train`.
      callbacks: called by the chief worker of each fold.
      follower: as for `train`.
      show: called with what is being done after the training.

    Raises:
      UserError: as for `train`, or the dataset has too few groups.
      TrainingFailedError: of Ray: workers failed more often than the runs allow.
    """
    from laser_dist.examples.records import read_groups

    training, location = to_dict(resolve_config(variant, config, settings)), find_dataset(dataset)
    groups, kept = read_groups(location), "groups"
    if read_dataset_card(location)["split_by"] == "source":  # folds share groups, like the splits
        groups, kept = {source_id: source_id for source_id in groups}, "sources"
    try:
        splits = cross_validation(groups, num_folds)
    except ValueError as error:
        raise UserError(
            f"{location} has too few {kept} for {num_folds} folds: {len(set(groups.values()))}.",
            hint=f"Use fewer folds (--folds), or build a dataset with more {kept}.",
        ) from error
    stores = [run_store(join(output, f"fold-{fold + 1}")) for fold in range(num_folds)]
    runs = [
        (start_run(store, training, location, own), store)
        for store, own in zip(stores, splits, strict=True)
    ]
    train_runs(runs, callbacks=callbacks, follower=follower)
    locations = [store.location for store in stores]
    with naming_locations(*locations, location):
        folders = {each: local_run(each, show) for each in locations}
        folder = local_dataset(location, ("train", "validation", "test"), show)
        show("Predicting the sources of each fold")
        import_keras(gpus="shared")
        from laser_dist.evaluation.evaluate import evaluate_folds

        results = evaluate_folds(folder, folders, str(output), run=str(output))
    for store in stores:
        store.push(store.local / "models" / "predictor.keras")  # calibrated
    return results


def resolve_config(
    variant: str, config: Config, settings: Mapping[str, Any] | None = None, preset: str = "paper"
) -> TrainingConfig:
    """Return settings for a variant.

    Args:
      variant: name of the variant.
      config: as for `train`.
      settings: as for `train`.
      preset: preset that a file changes.

    Raises:
      UserError: there is no such variant, preset or file, or the settings are of another variant.
    """
    found = variant_named(variant)
    changes = [f"{path}={setting_text(value)}" for path, value in (settings or {}).items()]
    if isinstance(config, TrainingConfig):
        if config.variant != found.name:
            raise UserError(f"The settings are for {config.variant}, not for {found.name}.")
        return override(config, changes)
    if config in PRESETS:
        return override(PRESETS[str(config)](found), changes)
    of_file, named = read_settings(Path(config)), f"variant={found.name}"
    if other := [each for each in of_file if each.startswith("variant=") and each != named]:
        raise UserError(
            f"{config} has settings for {other[0].partition('=')[2]}, not for {found.name}.",
            hint="Give the variant of the file, or remove `variant` from it.",
        )
    base = override(PRESETS[preset](found), [each for each in of_file if each != named])
    return override(base, changes)


def run_store(location: str | Path) -> RunFiles:
    """Return the storage of a run, in a folder or a bucket."""
    return RunFiles(str(location) if is_url(location) else str(Path(location)))


def finished_run(store: RunFiles) -> Run:
    """Return a finished run; of one in a bucket, a local copy."""
    return load_run(local_run(store.location))
