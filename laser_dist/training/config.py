"""Settings of a training run: nested frozen dataclasses, overridable by path, written beside it."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from laser_dist.errors import UserError
from laser_dist.models.specs import STRIDE, BackboneSpec, HeadSpec
from laser_dist.models.variants import variant_named

SCHEDULES = ("constant", "cosine", "plateau")
PRECISIONS = ("float32", "bfloat16")
_NOT_SET_BY_PATH = {"variant"}  # it decides which command and which stages: named, not overridden


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How one stage is trained.

    Attributes:
      epochs: passes over the training split.
      batch_size: examples of one step, over all workers and devices together.
      learning_rate: of Adam, at its highest.
      schedule: "constant"; "cosine" down to zero over the stage after 5 % of warm-up; or "plateau",
        which halves the rate whenever the validation loss has not fallen for five epochs.
      clip_norm: largest global norm of the gradient.
      weight_decay: share of each weight that a step takes away, times the learning rate (Loshchilov
        and Hutter 2019); biases and what belongs to norms are left alone.
      early_stopping: ends the stage after so many epochs without a lower validation loss; None
        trains all of them.
      flips: whether frames are also seen mirrored left to right.
      crop: side in pixels of random squares that a backbone learns from, a multiple of 16; None for
        whole frames, as published. Small squares make cheap steps, and many steps are what a
        backbone trained from scratch on few processors needs.
      crops_per_frame: squares cut from each frame of a batch, where `crop` is set.
      mixup: parameter of the Beta distribution by which a head's examples are blended in pairs,
        features and levels alike (Zhang et al. 2018); 0 for none.
    """

    epochs: int
    batch_size: int = 8
    learning_rate: float = 1e-5
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    early_stopping: int | None = None
    flips: bool = False
    crop: int | None = None
    crops_per_frame: int = 1
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "crops_per_frame"):
            _require(getattr(self, name) >= 1, f"Stage setting {name}", "1 or more", self, name)
        for name in ("learning_rate", "clip_norm"):
            in_range = 0 < getattr(self, name) < math.inf
            _require(in_range, f"Stage setting {name}", "above 0 and finite", self, name)
        known = "one of " + ", ".join(SCHEDULES)
        _require(self.schedule in SCHEDULES, "Stage setting schedule", known, self, "schedule")
        for name in ("mixup", "weight_decay"):
            in_range = 0 <= getattr(self, name) < math.inf
            _require(in_range, f"Stage setting {name}", "0 or more and finite", self, name)
        patient = self.early_stopping is None or self.early_stopping >= 1
        expected = "none or 1 or more"
        _require(patient, "Stage setting early_stopping", expected, self, "early_stopping")
        fits = self.crop is None or (self.crop > 0 and self.crop % STRIDE == 0)
        _require(fits, "Stage setting crop", f"none or a multiple of {STRIDE}", self, "crop")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Who does the work.

    Attributes:
      num_workers: processes, wherever the cluster has room for one.
      min_workers: how many are enough to begin with, where there is no room for all; None waits
        for all of them. With another number the global batch stays the same, and what is learnt
        is the same but for rounding.
      cpus_per_worker: cores that each is given; also its number of threads.
      gpus_per_worker: GPUs that each mirrors the model over; 0 trains on the processor.
      max_failures: how often lost workers are replaced before the run gives up.
      hang_timeout_s: after how many seconds without a step a worker is taken to hang, and all are
        started anew from the last checkpoint. Longer than a store may fail for a while.
      synchronized_norms: whether batch norms take the moments of the whole global batch, so that
        what is learnt does not depend on the number of devices, for a round trip a norm and step;
        or each of its own device's part. With one device it is the same.
    """

    num_workers: int = 2
    min_workers: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0
    max_failures: int = 20
    hang_timeout_s: int = 600
    synchronized_norms: bool = True

    def __post_init__(self) -> None:
        for name in ("num_workers", "cpus_per_worker"):
            _require(getattr(self, name) >= 1, f"Cluster setting {name}", "1 or more", self, name)
        for name in ("gpus_per_worker", "max_failures"):
            _require(getattr(self, name) >= 0, f"Cluster setting {name}", "0 or more", self, name)
        fits = self.min_workers is None or 1 <= self.min_workers <= self.num_workers
        expected = f"none, or 1 to {self.num_workers}"
        _require(fits, "Cluster setting min_workers", expected, self, "min_workers")
        long_enough = self.hang_timeout_s >= 5
        _require(long_enough, "Cluster setting hang_timeout_s", "5 or more", self, "hang_timeout_s")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All that decides a run, but for the data.

    Attributes:
      variant: the predictor to train.
      backbone: size of each autoencoder.
      head: size of each head.
      image: stage raw to raw.
      jnd: stages raw to JND1, JND2 and JND3, each from the image backbone.
      heads: stages features to levels, of frozen backbones.
      joint: stages of end-to-end variants, backbone and head together, from the image backbone.
      levels: which levels a single-level variant is trained for, each by a stage of its own;
        multi-level ones learn all three.
      cluster: who does the work.
      seed: of initial weights, order of examples and augmentation.
      precision: "float32", or "bfloat16" for what layers compute, while weights, losses, frames
        and levels stay in float32. Fast where the processor or GPU computes in it.
      xla: whether TensorFlow's compiler makes the steps; worth a try on GPUs.
      checkpoint_every_steps: of each stage, beside the checkpoint after each epoch; None for none.
      feature_cache: whether features of frozen backbones are computed once and kept beside the
        run, or anew in every epoch.
    """

    variant: str
    backbone: BackboneSpec
    head: HeadSpec
    image: StageConfig
    jnd: StageConfig
    heads: StageConfig
    joint: StageConfig
    levels: tuple[int, ...] = (1, 2, 3)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    xla: bool = False
    checkpoint_every_steps: int | None = None
    feature_cache: bool = True

    def __post_init__(self) -> None:
        known = "one of " + ", ".join(PRECISIONS)
        _require(self.precision in PRECISIONS, "Setting precision", known, self, "precision")
        ascending = self.levels == tuple(sorted({*self.levels} & {1, 2, 3})) != ()
        _require(ascending, "Setting levels", "some of 1,2,3, ascending", self, "levels")
        ordered = self.head.ordered and variant_named(self.variant).num_levels == 1
        expected = "false: heads of one level each know nothing of the others"
        _require(not ordered, "Setting head.ordered", expected, self.head, "ordered")
        parts = self.cluster.num_workers * max(self.cluster.gpus_per_worker, 1)
        for name in ("image", "jnd", "heads", "joint"):
            stage: StageConfig = getattr(self, name)
            what = f"Setting {name}.batch_size"
            expected = f"at least {parts}, the workers' devices in all"
            _require(stage.batch_size >= parts, what, expected, stage, "batch_size")
        compiled_apart = not (self.xla and parts > 1 and self.cluster.synchronized_norms)
        expected = "false with xla=true: a compiled step talks to no other device"
        what = "Setting cluster.synchronized_norms"
        _require(compiled_apart, what, expected, self.cluster, "synchronized_norms")
        side = min(self.backbone.height, self.backbone.width)
        for name in ("image", "jnd"):
            stage = getattr(self, name)
            fits = stage.crop is None or stage.crop <= side
            expected = f"at most {side}, the frame's shorter side"
            _require(fits, f"Setting {name}.crop", expected, stage, "crop")
        whole = "none: levels are those of whole frames"
        _require(self.heads.crop is None, "Setting heads.crop", whole, self.heads, "crop")
        _require(self.joint.crop is None, "Setting joint.crop", whole, self.joint, "crop")
        expected = "0: frames are not blended"
        _require(self.joint.mixup == 0, "Setting joint.mixup", expected, self.joint, "mixup")
        every = self.checkpoint_every_steps
        expected = "none or 1 or more"
        holds = every is None or every >= 1
        _require(holds, "Setting checkpoint_every_steps", expected, self, "checkpoint_every_steps")
        _require(0 <= self.seed < 2**31, "Setting seed", "from 0 to 2**31 - 1", self, "seed")


def _require(holds: bool, what: str, expected: str, config: object, name: str) -> None:
    if not holds:
        raise UserError(what, expected, str(getattr(config, name)), "Change it with --set.")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types."""
    return {
        field.name: to_dict(value)
        if dataclasses.is_dataclass(value := getattr(config, field.name))
        else list(value)
        if isinstance(value, tuple)
        else value
        for field in dataclasses.fields(config)
    }


def from_dict(values: Mapping[str, Any], kind: type = TrainingConfig) -> Any:
    """The configuration that `to_dict` wrote.

    Args:
      values: of a JSON file or another process.
      kind: the dataclass to make.

    Raises:
      UserError: a value that the configuration refuses, or an unknown key.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise _unknown_key(unknown[0], sorted(hints))
    return kind(**{name: _plain_to(hints[name], value) for name, value in values.items()})


def _plain_to(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(value, typing.cast(type, hint))
    return tuple(value) if isinstance(value, list) else value


def override(config: TrainingConfig, assignments: Sequence[str]) -> TrainingConfig:
    """Changes settings by path, such as `heads.epochs=20` or `head.filters=32,64`.

    Args:
      config: to start from.
      assignments: `path=value` each; a tuple's values are separated by commas.

    Raises:
      UserError: no `=`, an unknown path (the known ones are listed), or a value of another type.
    """
    values = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(
                f"--set {assignment}", "path=value", assignment, "Example: --set heads.epochs=20"
            )
        _assign(values, TrainingConfig, path.strip(), text.strip())
    # Checked together: a batch size and the workers that it fits can change at once.
    return from_dict(values)


def known_paths(kind: type = TrainingConfig, prefix: str = "") -> list[str]:
    """Every path that `override` knows."""
    paths: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            paths += known_paths(typing.cast(type, hint), f"{prefix}{name}.")
        elif prefix + name not in _NOT_SET_BY_PATH:
            paths.append(prefix + name)
    return paths


def _assign(values: dict[str, Any], kind: Any, path: str, text: str) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        kind = typing.get_type_hints(kind).get(parent)
        if not dataclasses.is_dataclass(kind):
            raise _unknown_key(path, known_paths())
        values = values[parent]
    hint = typing.get_type_hints(kind).get(name)
    if hint is None or dataclasses.is_dataclass(hint) or path in _NOT_SET_BY_PATH:
        raise _unknown_key(path, known_paths())
    values[name] = _parse(hint, text, path)


def _unknown_key(path: str, known: Sequence[str]) -> UserError:
    return UserError(f"Setting {path}", "one of " + ", ".join(known), path, "Correct the name.")


def _parse(hint: Any, text: str, path: str) -> Any:
    """A value of the hinted type from its text."""
    try:
        return _parser(hint)(text)
    except ValueError as error:
        expected = str(error) if typing.get_origin(hint) is Literal else _type_name(hint)
        raise UserError(f"Setting {path}", expected, text, "Correct the value.") from error


def _parser(hint: Any) -> Callable[[str], Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return lambda text: _choice(text, arguments)
    if origin is tuple:
        return lambda text: tuple(_parser(arguments[0])(part) for part in text.split(",") if part)
    if origin in (typing.Union, types.UnionType):
        return lambda text: None if text == "none" else _parser(arguments[0])(text)
    if hint is bool:
        return lambda text: _choice(text, ("true", "false")) == "true"
    return hint


def _choice(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise ValueError("one of " + ", ".join(choices))
    return text


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
