"""Trains a started run to its end: what can be taken over, what is trained, and what is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from laser_dist.commands.processes import claim_signals
from laser_dist.commands.training_progress import TrainingProgress
from laser_dist.commands.wording import count_text
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from laser_dist.commands.terminal import Terminal
    from laser_dist.training.plan import StagePlan
    from laser_dist.training.storage.run_store import RunStore

SECONDS_BETWEEN_LOOKS = 0.2

logger = logging.getLogger(__name__)


def is_finished(store: RunStore) -> bool:
    """Whether a run has its predictor."""
    return store.fetch(store.local / "models" / "predictor.keras")


def train_or_reuse(
    terminal: Terminal,
    config: dict[str, Any],
    store: RunStore,
    *,
    beside: Sequence[Path] = (),
    given: str | None = None,
    only: Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """Trains a started run to its end and tells about it as it goes.

    Args:
      terminal: to speak to.
      config: of `start_run`.
      store: of the run.
      beside: other runs, whose stages are taken over where they are the same.
      given: place of a run, or of models, whose backbones are taken in any case.
      only: names of the stages to train, with those that they need; None for all.

    Returns:
      What there is to say of how fast it went, as names and values.

    Raises:
      UserError: an unknown stage, or nothing to take from `given`.
    """
    from laser_dist.models.variants import variant_named
    from laser_dist.training.plan import inputs_of, plan_stages, waves, with_needs
    from laser_dist.training.reuse import MODELS, needed, take_over
    from laser_dist.training.storage.copies import named_by_place

    run_dir = store.local
    if is_finished(store):
        if given is not None:
            raise UserError(
                f"Run folder {store.place}",
                "a run that is not finished, to take other backbones",
                "a finished one",
                "Name another folder with --output.",
            )
        terminal.say(f"  Reused: {store.place} is there, a finished run of the same settings.")
        return []
    training, fingerprint = config["training"], config["dataset"]["fingerprint"]
    plans = plan_stages(variant_named(config["variant"]), training["levels"])
    known = [plan.name for plan in plans]
    for name in only or ():
        if name not in known:
            raise UserError(
                "Option --stages-only", f"some of {', '.join(known)}", name, "Correct the name."
            )
    plans = with_needs(plans, known if only is None else only)
    models = None if given is None else _given_models(terminal, given, training, plans)
    store.fetch_all(run_dir / MODELS, exactly=True)
    with named_by_place(given or ""):
        decisions = take_over(plans, training, fingerprint, run_dir, beside=beside, given=models)
    goals = only or [plan.name for plan in plans if plan.kind in ("head", "joint")]
    decisions = needed(plans, decisions, goals)
    if store.is_remote and (run_dir / MODELS).is_dir():
        store.push(run_dir / MODELS)
    plans = [plan for plan in plans if plan.name in {each.stage for each in decisions}]
    workers = _workers_text(training["cluster"])
    terminal.say(f"  {config['variant']} in {count_text(len(plans), 'stage')}, {workers}")
    for each in decisions:
        terminal.say(f"  {each.stage}: {'trained now' if each.trains else 'reused'}, {each.why}")
    keys = {each.stage: each.key for each in decisions}
    done = [each.stage for each in decisions if not each.trains]
    work = {
        plan.name: {
            "key": keys[plan.name],
            "inputs": inputs_of(plan, training, fingerprint, keys),
        }
        for plan in plans
        if plan.name not in done
    }
    if work:
        return train_watched(terminal, {**config, "work": work}, waves(plans, done))
    if only is None:
        from laser_dist.training.config import from_dict
        from laser_dist.training.saving import finish_predictor

        finish_predictor(from_dict(training), run_dir, config["dataset"])
        store.push(run_dir / MODELS / "predictor.keras")
    return []


def _given_models(
    terminal: Terminal, place: str, training: dict[str, Any], plans: Sequence[StagePlan]
) -> Path:
    """The folder of the models that are given, of which the backbones fit."""
    from laser_dist.training.config import from_dict
    from laser_dist.training.reuse import given_files
    from laser_dist.training.saving import check_fits
    from laser_dist.training.storage.copies import local_models, named_by_place

    with named_by_place(place), terminal.progress() as show:
        models = local_models(place, show)
        for file in given_files(models, plans):
            check_fits(file, from_dict(training).backbone)
    return models


def _workers_text(cluster: dict[str, Any]) -> str:
    """Who does the work, such as "4 to 8 workers of 2 GPUs"."""
    most, least, gpus = (cluster[n] for n in ("num_workers", "min_workers", "gpus_per_worker"))
    text = count_text(most, "worker") if least in (None, most) else f"{least} to {most} workers"
    return f"{text} of {count_text(gpus, 'GPU')}" if gpus else text


def train_watched(
    terminal: Terminal, config: dict[str, Any], groups: Sequence[Sequence[str]]
) -> list[tuple[str, str]]:
    """Trains in another thread, so that this one hears Ctrl-C, and shows the events.

    Returns what there is to say of how fast it went.

    Ray takes SIGINT and SIGTERM over in the thread it runs in, if that is the main one, and then
    ends with status 0 or without ending its workers.
    """
    events: SimpleQueue[dict[str, Any]] = SimpleQueue()
    ending: list[BaseException | None] = []

    def work() -> None:
        from laser_dist.training.ray_entry import train

        try:
            train(config, groups, events.put)
        except BaseException as error:  # noqa: BLE001 - handed on to the main thread
            ending.append(error)
        else:
            ending.append(None)

    thread = threading.Thread(target=work, name="training", daemon=True)
    stages = [name for group in groups for name in group]
    progress = TrainingProgress(stages, each_epoch=not terminal.is_live)
    with terminal.progress() as show:
        thread.start()
        while not ending or not events.empty():
            claim_signals()
            try:
                lines = progress.take(events.get(timeout=SECONDS_BETWEEN_LOOKS))
            except Empty:
                lines = []
            for line in lines:
                logger.info(line)
            show(progress.line)
    thread.join()
    if ending[0] is not None:
        raise ending[0]
    return progress.pace()
