"""Which stages of a training are done already: here, or in another run of the same inputs."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser_dist.errors import UserError
from laser_dist.training.plan import StagePlan, inputs_of, key_of

MODELS = "models"
AS_GIVEN = "as given"
_RECORD = {"key", "inputs", "needs"}


@dataclass(frozen=True)
class Decision:
    """What is done about a stage, and why.

    Attributes:
      stage: its name.
      key: of its inputs.
      trains: whether it is trained now.
      why: for people.
    """

    stage: str
    key: str
    trains: bool
    why: str


def model_path(run_dir: Path, name: str) -> Path:
    """Where a finished model of a run lies."""
    return run_dir / MODELS / f"{name}.keras"


def model_names(stage: StagePlan) -> tuple[str, ...]:
    """Of a stage's models: of an end-to-end one, first the backbone, then the head."""
    return (stage.name, f"{stage.name}-head") if stage.kind == "joint" else (stage.name,)


def write_record(run_dir: Path, stage: StagePlan, key: str, inputs: Mapping[str, Any]) -> Path:
    """Says that a stage's models are there; written last, so where it stands they are whole.

    With the key stand the hashes of the models that it started from: two trainings of one key may
    differ, and a head fits only the backbone that it was trained on.

    Returns:
      The record's file.
    """
    path = record_path(run_dir, stage.name)
    record = {"key": key, "inputs": inputs, "needs": _hashes(run_dir, stage.needs)}
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(unfinished, path)
    return path


def file_hash(path: Path) -> str:
    """A hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(run_dir: Path, stage: StagePlan) -> dict[str, Any] | None:
    """What `write_record` wrote, if the stage's models are there too."""
    try:
        record = json.loads(record_path(run_dir, stage.name).read_text())
    except (OSError, ValueError):
        return None
    there = all(model_path(run_dir, name).exists() for name in model_names(stage))
    return record if there and isinstance(record, dict) and _RECORD <= record.keys() else None


def take_over(
    stages: Sequence[StagePlan],
    training: Mapping[str, Any],
    fingerprint: str,
    run_dir: Path,
    *,
    beside: Iterable[Path] = (),
    given: Path | None = None,
) -> list[Decision]:
    """Decides for each stage, and copies models that other runs have.

    Args:
      stages: of `plan_stages`, or some of them with all that they need.
      training: `TrainingConfig` as plain values.
      fingerprint: of the dataset.
      run_dir: of this run.
      beside: other runs; a stage of one is taken where its inputs are the same.
      given: a run, or a folder of models, whose backbones are taken however they were trained.

    Raises:
      UserError: `given` has none of the backbones.
    """
    others = [folder for folder in sorted(beside) if folder != run_dir]
    keys: dict[str, str] = {}
    decisions: list[Decision] = []
    for stage in stages:
        file = (
            None if given is None or stage.kind not in ("image", "jnd") else _model_in(given, stage)
        )
        inputs = inputs_of(stage, training, fingerprint, keys)
        own = read_record(run_dir, stage)
        if given is None and own is not None and "file" in own["inputs"]:
            inputs = own["inputs"]  # given when the run was started
        if file is not None:
            inputs = {"file": file_hash(file)}
        key = keys[stage.name] = key_of(inputs)
        trained = {each.stage for each in decisions if each.trains}
        decisions.append(_decide(stage, key, inputs, run_dir, others, file, trained))
    if given is not None and not any(each.why == AS_GIVEN for each in decisions):
        names = ", ".join(f"{s.name}.keras" for s in stages if s.kind in ("image", "jnd"))
        raise UserError(
            f"Models of {given}", f"one of {names}", "none", "Name a run, or a folder of models."
        )
    return decisions


def _decide(
    stage: StagePlan,
    key: str,
    inputs: Mapping[str, Any],
    run_dir: Path,
    others: Sequence[Path],
    file: Path | None,
    trained: Collection[str],
) -> Decision:
    """What is done about one stage; copies its models where another run has them.

    `trained` are the stages that will be trained now: what starts from one of them is as well.
    """

    def fits(record: Mapping[str, Any]) -> bool:
        return not trained.intersection(stage.needs) and record["needs"] == _hashes(
            run_dir, stage.needs
        )

    own = read_record(run_dir, stage)
    if own is not None and own["key"] == key and ("file" in inputs or fits(own)):
        return Decision(stage.name, key, False, AS_GIVEN if file else "trained here before")
    if file is not None:
        _copy(file, model_path(run_dir, stage.name))
        write_record(run_dir, stage, key, inputs)
        return Decision(stage.name, key, False, AS_GIVEN)
    why = "none of its kind beside it" if others else "nothing to take over"
    for other in others:
        record = read_record(other, stage)
        if record is None:
            continue
        if record["key"] == key and fits(record):
            for name in model_names(stage):
                _copy(model_path(other, name), model_path(run_dir, name))
            write_record(run_dir, stage, key, inputs)
            return Decision(stage.name, key, False, f"of {other}, same settings and data")
        why = f"the one of {other} {_difference(record['inputs'], inputs)}"
    return Decision(stage.name, key, True, why)


def needed(
    stages: Sequence[StagePlan], decisions: Sequence[Decision], goals: Collection[str]
) -> list[Decision]:
    """The decisions about stages that anything is made of.

    A stage that others start from is of no use where they are there already: but for backbones,
    which a predictor holds.

    Args:
      stages: as decided about.
      decisions: one for each.
      goals: names of the stages that are wanted.
    """
    wanted = set(goals)
    for stage, decision in zip(reversed(stages), reversed(decisions), strict=True):
        if stage.name in wanted and (decision.trains or stage.kind == "head"):
            wanted.update(stage.needs)
    return [each for each in decisions if each.stage in wanted]


def given_files(folder: Path, stages: Iterable[StagePlan]) -> list[Path]:
    """The files of a run, or of a folder of models, that are backbones of these stages."""
    backbones = [stage for stage in stages if stage.kind in ("image", "jnd")]
    return [file for stage in backbones if (file := _model_in(folder, stage)) is not None]


def _model_in(folder: Path, stage: StagePlan) -> Path | None:
    places = (model_path(folder, stage.name), folder / f"{stage.name}.keras")
    return next((place for place in places if place.exists()), None)


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first setting in which two stages' inputs differ: "has another image.epochs"."""
    if "file" in theirs:
        return "was given, not trained"
    for name in ours:
        one, other = ours[name], theirs.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            inner = next(k for k in {**other, **one} if one.get(k) != other.get(k))
            return f"has another {name}.{inner}"
        return f"has another {name}"
    return "starts from other models"


def _hashes(run_dir: Path, stages: Iterable[str]) -> dict[str, str | None]:
    """Of the stages' models, where they are there."""
    paths = {name: model_path(run_dir, name) for name in stages}
    return {name: file_hash(path) if path.exists() else None for name, path in paths.items()}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.copyfile(source, unfinished)
    os.replace(unfinished, target)


def record_path(run_dir: Path, stage: str) -> Path:
    """Where the record of a stage lies."""
    return run_dir / MODELS / f"{stage}.json"
