"""Trains runs to their end, in one Ray session: decides what to train, and follows it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.errors import UserError, nearest
from laser_dist.keras_import import import_keras
from laser_dist.models.variants import variant_named
from laser_dist.storage.lease import leased
from laser_dist.storage.local_copies import local_models, naming_locations
from laser_dist.storage.run_files import RunFiles
from laser_dist.training import ray_entry
from laser_dist.training.config import from_dict
from laser_dist.training.plan import StagePlan, plan_stages, waves, with_needs
from laser_dist.training.ray_entry import Job
from laser_dist.training.reuse import (
    MODELS,
    Decision,
    decide,
    model_path,
    needed,
    pretrained_backbones,
)
from laser_dist.training.storage.logs import EventReader, progress_text
from laser_dist.wording import count_text

if TYPE_CHECKING:
    from laser_dist.training.learning.callbacks import Callback

SECONDS_BETWEEN_LOOKS = 0.2
FEW_STEPS = 10  # of an epoch
_SOURCES = {
    "training": "training",
    "this run": "reused from this run",
    "init-from": "reused from --init-from",
}

logger = logging.getLogger(__name__)


class Follower:
    """Follows runs while they are trained, in the thread that called `train_runs`.

    This one logs what has happened.
    """

    def following(self, runs: Sequence[tuple[str, Sequence[str]]]) -> AbstractContextManager[Any]:
        """Return a context around the training.

        Args:
          runs: location of each run that is trained, and the names of its stages.
        """
        self._names = [location.rpartition("/")[2] for location, _ in runs]
        return nullcontext()

    def take(self, index: int, event: Mapping[str, Any]) -> None:
        """Process an event of the log of a run, by its position in `following`."""
        if text := progress_text(event["kind"], event):
            logger.info("%s: %s", self._names[index], text)

    def preparing(self) -> AbstractContextManager[Callable[[str], None]]:
        """Return a function that shows what is being done before the training, for a block."""
        return nullcontext(logger.info)

    def look(self) -> None:
        """Do what is to be done several times a second."""


def is_finished(store: RunFiles) -> bool:
    """Return whether a run has its predictor."""
    return store.fetch(store.local / "models" / "predictor.keras")


def check_stages(names: Sequence[str] | None, training: Mapping[str, Any]) -> None:
    """Check the names of stages.

    Args:
      names: names that the user gave; None for all stages.
      training: `TrainingConfig` as plain values.

    Raises:
      UserError: the variant has no such stage.
    """
    known = [plan.name for plan in stages_of(training)]
    for name in names or ():
        if name not in known:
            variant = training["variant"]
            raise UserError(
                f'{variant} has no stage "{name}"; its stages are {", ".join(known)}.',
                hint=nearest(name, known),
            )


def load_pretrained(
    location: str, training: Mapping[str, Any], show: Callable[[str], None] = lambda _: None
) -> Path:
    """Return the local folder of pretrained models, after a check that the backbones fit.

    Args:
      location: path or URL of a run, or of a folder of models.
      training: `TrainingConfig` as plain values.
      show: called with what is being done.

    Raises:
      UserError: there is no backbone that the variant needs, or one of another size.
    """
    import_keras()
    from laser_dist.training.saving import check_fits

    with naming_locations(location):
        models = local_models(location, show)
        for file in pretrained_backbones(models, location, stages_of(training)):
            check_fits(file, from_dict(training).backbone)
    return models


def train_runs(
    runs: Sequence[tuple[dict[str, Any], RunFiles]],
    *,
    pretrained: Path | None = None,
    only: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
    follower: Follower | None = None,
) -> None:
    """Train started runs to their end, in one Ray session.

    Args:
      runs: configuration of `start_run` and storage of each.
      pretrained: folder of `load_pretrained`, whose backbones are reused.
      only: names of the stages to train, with those that they need; None for all.
      callbacks: called by the chief worker of each run.
      follower: follows the runs; None to log what has happened.

    Raises:
      UserError: another process trains one of the runs.
    """
    with ExitStack() as stack:
        jobs: list[Job] = []
        checks: list[Callable[[], None]] = []
        for config, store in runs:
            if is_finished(store):
                logger.info("%s is finished, with the same settings and data.", store.location)
                continue
            checks.append(stack.enter_context(leased(store)))
            plans, decisions = _decide(config, store, pretrained, only)
            workers = workers_text(config["training"]["cluster"])
            stages = count_text(len(plans), "stage")
            logger.info("  %s in %s, %s", config["variant"], stages, workers)
            for each in decisions:
                logger.info("  %s: %s", each.stage, _SOURCES[each.source])
            work = {d.stage: {"key": d.key, "inputs": d.inputs} for d in decisions if d.trains}
            if work:
                groups = waves(plans, [each.stage for each in decisions if not each.trains])
                jobs.append(Job({**config, "work": work}, groups, callbacks))
            elif only is None:
                _finish(config, store)
        if jobs:
            warn_of_few_steps(jobs[0].config)  # the others have the same settings
            _train_and_follow(jobs, checks, follower or Follower())


def _decide(
    config: Mapping[str, Any],
    store: RunFiles,
    pretrained: Path | None,
    only: Sequence[str] | None,
) -> tuple[list[StagePlan], list[Decision]]:
    """Return the needed stages, and for each whether it is trained or reused."""
    training, run_dir = config["training"], store.local
    plans = stages_of(training)
    if only is not None:
        plans = with_needs(plans, only)
    store.fetch_all(run_dir / MODELS, exactly=True)
    decisions = decide(plans, training, config["dataset"]["fingerprint"], run_dir, pretrained)
    if store.is_remote and (run_dir / MODELS).is_dir():
        store.push(run_dir / MODELS)
    goals = only or [plan.name for plan in plans if plan.kind in ("head", "joint")]
    decisions = needed(plans, decisions, goals)
    names = {each.stage for each in decisions}
    return [plan for plan in plans if plan.name in names], decisions


def warn_of_few_steps(config: Mapping[str, Any]) -> None:
    """Warn if batches are enlarged for many devices, but an epoch then has few steps.

    Args:
      config: configuration of a run, of `check_run`.
    """
    from laser_dist.examples.records import num_examples

    card, training = config["dataset"], from_dict(config["training"])
    stages = [getattr(training, plan.settings) for plan in stages_of(config["training"])]
    enlarged = [each.batch_size for each in stages if each.batch_size > each.base_batch_size]
    if not enlarged:
        return
    sizes = {split: len(source_ids) for split, source_ids in card["splits"].items()}
    about = num_examples(card["dir"]) * sizes["train"] // sum(sizes.values())
    if about < FEW_STEPS * max(enlarged):
        logger.warning(
            "%s has about %d examples to train on, so an epoch in batches of %d has few steps. "
            "Set a smaller batch_size, or use a dataset with more frames.",
            card["name"],
            about,
            max(enlarged),
        )


def stages_of(training: Mapping[str, Any]) -> tuple[StagePlan, ...]:
    """Return the stages of a training, each after those that it needs."""
    return plan_stages(variant_named(training["variant"]), training["levels"])


def _finish(config: Mapping[str, Any], store: RunFiles) -> None:
    """Make the predictor of a run of which every stage is trained."""
    import_keras()
    from laser_dist.training.saving import PREDICTOR, finish_predictor

    finish_predictor(from_dict(config["training"]), store.local, config["dataset"])
    store.push(model_path(store.local, PREDICTOR))


def workers_text(cluster: Mapping[str, Any]) -> str:
    """Describe the workers, such as "4 to 8 workers with 2 GPUs each"."""
    most, least, gpus = (cluster[n] for n in ("num_workers", "min_workers", "gpus_per_worker"))
    text = count_text(most, "worker") if least in (None, most) else f"{least} to {most} workers"
    if cluster["cpu_devices"] > 1:
        return f"{text} with {cluster['cpu_devices']} CPU devices"
    return f"{text} with {count_text(gpus, 'GPU')} each" if gpus else text


def _train_and_follow(
    jobs: Sequence[Job], checks: Sequence[Callable[[], None]], follower: Follower
) -> None:
    """Train in another thread, so that this one receives Ctrl-C, and follow the events.

    In the main thread, Ray would handle SIGINT and SIGTERM itself, and then exit with status 0 or
    leave its workers running.
    """
    failures: list[BaseException] = []

    def work() -> None:
        try:
            ray_entry.train(jobs)
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failures.append(error)

    thread = threading.Thread(target=work, name="training", daemon=True)
    # In this thread, so that a stopped command removes the session's folder.
    with (
        ray_entry.ray_session(),
        follower.following([(job.config["run_dir"].rstrip("/"), job.stages) for job in jobs]),
    ):
        is_followed = not ray_entry.workers_print_progress(jobs[0].config)
        stores = [RunFiles(job.config["run_dir"]) for job in jobs if is_followed]
        readers = [EventReader(store.local) for store in stores]
        thread.start()
        is_over = False
        while not is_over:
            thread.join(SECONDS_BETWEEN_LOOKS)
            is_over = not thread.is_alive()  # before the last look at the events
            follower.look()
            for check in checks:
                check()
            for index, reader in enumerate(readers):
                for event in reader.read():
                    follower.take(index, event)
    for error in failures:
        raise error
