"""Decides which stages of a run to train and which models to reuse, and records what was trained.

A stage is reused if this run has trained it before with the same inputs, or if a pretrained
backbone is given for it.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.storage.cache import file_hash
from laser_dist.training.plan import StagePlan, inputs_of, key_of

MODELS = "models"
_RECORD = {"key", "inputs", "needs"}


@dataclass(frozen=True)
class Decision:
    """What to do about a stage.

    Attributes:
      stage: name of the stage.
      key: key of its inputs.
      inputs: what its models follow from, as for `write_record`.
      source: "training" if it has to be trained; "this run" or "init-from" if it is reused.
    """

    stage: str
    key: str
    inputs: Mapping[str, Any]
    source: Literal["training", "this run", "init-from"]

    @property
    def trains(self) -> bool:
        """Whether the stage has to be trained."""
        return self.source == "training"


def model_path(run_dir: Path, name: str) -> Path:
    """Return the file of a finished model of a run."""
    return run_dir / MODELS / f"{name}.keras"


def record_path(run_dir: Path, stage: str) -> Path:
    """Return the file of a stage's record."""
    return run_dir / MODELS / f"{stage}.json"


def model_names(stage: StagePlan) -> tuple[str, ...]:
    """Return the names of a stage's models; an end-to-end stage has the backbone, then the head."""
    return (stage.name, f"{stage.name}-head") if stage.kind == "joint" else (stage.name,)


def write_record(run_dir: Path, stage: StagePlan, key: str, inputs: Mapping[str, Any]) -> Path:
    """Record that a stage is trained; written last, so its models are complete.

    The record also holds the hashes of the models that the stage started from: two trainings with
    one key may differ, and a head fits only the backbone that it was trained on.

    Returns:
      The record's file.
    """
    path = record_path(run_dir, stage.name)
    record = {"key": key, "inputs": inputs, "needs": _hashes(run_dir, stage.needs)}
    storage.write_text(path, json.dumps(record, indent=2) + "\n")
    return path


def read_record(run_dir: Path, stage: StagePlan) -> dict[str, Any] | None:
    """Return what `write_record` wrote; None if it or one of the stage's models is missing."""
    try:
        record = json.loads(record_path(run_dir, stage.name).read_text())
    except (OSError, ValueError):
        return None
    complete = all(model_path(run_dir, name).exists() for name in model_names(stage))
    return record if complete and isinstance(record, dict) and _RECORD <= record.keys() else None


def decide(
    stages: Sequence[StagePlan],
    training: Mapping[str, Any],
    fingerprint: str,
    run_dir: Path,
    pretrained: Path | None = None,
) -> list[Decision]:
    """Decide for each stage, and copy the pretrained backbones into the run.

    Args:
      stages: stages of `plan_stages`, or some of them with all that they need.
      training: `TrainingConfig` as plain values.
      fingerprint: fingerprint of the dataset.
      run_dir: folder of the run.
      pretrained: folder of another run, or of models, whose backbones are used as they are.
    """
    keys: dict[str, str] = {}
    decisions: list[Decision] = []
    for stage in stages:
        file = None if pretrained is None else backbone_in(pretrained, stage)
        inputs = inputs_of(stage, training, fingerprint, keys)
        own = read_record(run_dir, stage)
        if file is not None:
            inputs = {"file": file_hash(file)}
        elif own is not None and "file" in own["inputs"] and pretrained is None:
            inputs = own["inputs"]  # given when the run was started
        key = keys[stage.name] = key_of(inputs)
        is_given = "file" in inputs
        if file is not None and (own is None or own["key"] != key):
            storage.upload(file, model_path(run_dir, stage.name))
            write_record(run_dir, stage, key, inputs)
        elif not is_given and not _is_current(own, key, stage, run_dir, decisions):
            decisions.append(Decision(stage.name, key, inputs, "training"))
            continue
        source = "this run" if file is None else "init-from"
        decisions.append(Decision(stage.name, key, inputs, source))
    return decisions


def _is_current(
    record: Mapping[str, Any] | None,
    key: str,
    stage: StagePlan,
    run_dir: Path,
    decisions: Sequence[Decision],
) -> bool:
    """Return whether a stage was trained from these inputs and from the models that are here."""
    trained_now = {each.stage for each in decisions if each.trains}
    return (
        record is not None
        and record["key"] == key
        and not trained_now.intersection(stage.needs)
        and record["needs"] == _hashes(run_dir, stage.needs)
    )


def needed(
    stages: Sequence[StagePlan], decisions: Sequence[Decision], goals: Collection[str]
) -> list[Decision]:
    """Return the decisions about stages that the goals depend on.

    A stage is not needed if the stages that start from it are reused, except for backbones, which
    are part of the predictor.

    Args:
      stages: stages, as for `decide`.
      decisions: one for each stage.
      goals: names of the wanted stages.
    """
    wanted = set(goals)
    for stage, decision in zip(reversed(stages), reversed(decisions), strict=True):
        if stage.name in wanted and (decision.trains or stage.kind == "head"):
            wanted.update(stage.needs)
    return [each for each in decisions if each.stage in wanted]


def pretrained_backbones(folder: Path, location: str, stages: Iterable[StagePlan]) -> list[Path]:
    """Return the files of a run, or of a folder of models, that are backbones of these stages.

    Args:
      folder: the folder, or its local copy.
      location: path or URL that the user gave.
      stages: stages of `plan_stages`.

    Raises:
      UserError: there is none.
    """
    backbones = [stage for stage in stages if stage.kind in ("image", "jnd")]
    found = [file for stage in backbones if (file := backbone_in(folder, stage)) is not None]
    if not found:
        names = ", ".join(f"{stage.name}.keras" for stage in backbones)
        raise UserError(
            f"{location} has none of the backbones {names}.",
            hint="Give --init-from a run, or a folder of models.",
        )
    return found


def backbone_in(folder: Path, stage: StagePlan) -> Path | None:
    """Return the file of a stage's backbone in a run or a folder of models, if there is one."""
    if stage.kind not in ("image", "jnd"):
        return None
    paths = (model_path(folder, stage.name), folder / f"{stage.name}.keras")
    return next((path for path in paths if path.exists()), None)


def _hashes(run_dir: Path, stages: Iterable[str]) -> dict[str, str | None]:
    """Return the hashes of stages' models, None for missing ones."""
    paths = {name: model_path(run_dir, name) for name in stages}
    return {name: file_hash(path) if path.exists() else None for name, path in paths.items()}
