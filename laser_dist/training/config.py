"""Settings of a training run: frozen dataclasses, presets, and changes by path.

The `Attributes` of each class say what its settings mean; the fields declare type, default and
range. `describe_settings` reads both.
"""

import dataclasses
import inspect
import json
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from laser_dist.errors import UserError, nearest
from laser_dist.models.specs import STRIDE, BackboneSpec, HeadSpec
from laser_dist.models.variants import Variant, variant_named

STAGE_SETTINGS = ("image", "jnd", "heads", "joint")
INTERVAL_UNITS = "steps, epochs or minutes, such as `10 minutes`"
_INTERVAL = re.compile(r"([1-9]\d*) *(step|epoch|minute)s?")
_FIXED = {"variant"}  # decides the command and the stages: an argument of `train`, not a setting
_LIMITS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (operator.ge, "{} or more"),
    "gt": (operator.gt, "more than {}"),
    "lt": (operator.lt, "below {}"),
    "multiple_of": (lambda value, of: value % of == 0, "a multiple of {}"),
    "interval": (lambda value, of: bool(of.fullmatch(value)), f"a number of {INTERVAL_UNITS}"),
}


def _limited(default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """Declare a field and the range of its values; `_LIMITS` lists the keywords."""
    return field(default=default, metadata=limits)


@dataclass(frozen=True, kw_only=True)
class CheckpointInterval:
    """When a checkpoint is due: at each of these, where given.

    Attributes:
      steps: every so many steps of a stage.
      epochs: after every so many epochs of a stage.
      seconds: so long after the last one.
    """

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Settings of one training stage.

    Attributes:
      epochs: number of passes over the training split.
      batch_size: number of examples per step, over all workers and devices together.
      learning_rate: highest learning rate of Adam, at a batch of `base_batch_size`.
      base_batch_size: batch size that `learning_rate` is meant for, where `learning_rate_scaling`
        scales it.
      schedule: learning-rate schedule. `constant`; `cosine` decays to zero over the stage after 5%
        of warm-up; `plateau` halves the rate when the validation loss has not fallen for five
        epochs.
      clip_norm: largest global norm of the gradient; `none` does not clip.
      weight_decay: decoupled weight decay (Loshchilov and Hutter 2019), times the learning rate.
        Biases and norm parameters are not decayed.
      patience: number of epochs without a lower validation loss after which the stage stops; `none`
        trains all epochs.
      flips: whether frames are also seen mirrored left to right.
      crop: side in pixels of the random squares that a backbone learns from; `none` for full
        frames, as published. Small squares make cheap steps, and a backbone trained from scratch on
        few cores needs many steps.
      crops_per_frame: number of squares cut from each frame of a batch if `crop` is set.
      mixup: parameter of the Beta distribution that blends pairs of a head's examples, features and
        levels (Zhang et al. 2018); 0 blends none.
    """

    epochs: int = _limited(ge=1)
    batch_size: int = _limited(8, ge=1)
    learning_rate: float = _limited(1e-5, gt=0, lt=math.inf)
    base_batch_size: int = _limited(8, ge=1)
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    clip_norm: float | None = _limited(1.0, gt=0, lt=math.inf)
    weight_decay: float = _limited(0.0, ge=0, lt=math.inf)
    patience: int | None = _limited(None, ge=1)
    flips: bool = False
    crop: int | None = _limited(None, ge=STRIDE, multiple_of=STRIDE)
    crops_per_frame: int = _limited(1, ge=1)
    mixup: float = _limited(0.0, ge=0, lt=math.inf)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Workers, their resources, and how the run reacts to failures.

    Attributes:
      num_workers: number of worker processes.
      min_workers: number of workers that is enough to start if the cluster has no room for all;
        `none` waits for all. The global batch stays the same with fewer workers, and so does the
        result, up to rounding.
      cpus_per_worker: cores and threads per worker; at least `cpu_devices` are used.
      gpus_per_worker: GPUs per worker, each with a replica of the model; 0 trains on the CPU.
      cpu_devices: logical CPU devices of the only worker, each with a replica of the model. They
        use several cores without a second worker, whose server would be open to the network.
      max_failures: number of times that lost workers are replaced before the run fails.
      hang_timeout_s: seconds without a completed step after which a worker counts as hung and all
        workers restart from the last checkpoint. Make it longer than storage outages.
      resize_interval_s: seconds between two looks at whether the cluster has room for more workers,
        if `min_workers` is set. A training that grows restarts from its last checkpoint.
        Checkpoints are then due at least twice per interval.
    """

    num_workers: int = _limited(1, ge=1)
    min_workers: int | None = _limited(None, ge=1)
    cpus_per_worker: int = _limited(1, ge=1)
    gpus_per_worker: int = _limited(0, ge=0)
    cpu_devices: int = _limited(1, ge=1)
    max_failures: int = _limited(20, ge=0)
    hang_timeout_s: int = _limited(600, ge=5)
    resize_interval_s: int = _limited(600, ge=10)

    @property
    def num_devices(self) -> int:
        """Number of devices over all workers, each with a replica of the model."""
        return self.num_workers * max(self.gpus_per_worker, self.cpu_devices)

    @property
    def num_cpus(self) -> int:
        """Number of cores and threads of each worker."""
        return max(self.cpus_per_worker, self.cpu_devices)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All settings of a run, except its dataset.

    Attributes:
      variant: predictor to train.
      backbone: size of each autoencoder.
      head: size and form of each head.
      image: stage that learns raw to raw frames.
      jnd: stages that learn raw to JND1, JND2 and JND3 frames, each from the image backbone.
      heads: stages that learn levels from features of frozen backbones.
      joint: stages of end-to-end variants: backbone and head together, from the image backbone.
      levels: JND levels that a single-level variant is trained for, each in its own stage.
        Multi-level variants always learn all three.
      cluster: workers and their resources.
      learning_rate_scaling: how the learning rates follow the batch sizes. `none` uses them as they
        are; `sqrt` multiplies each by the square root of `batch_size / base_batch_size`, as suits
        Adam (Malladi et al. 2022); `linear` by the quotient itself (Goyal et al. 2017).
      backbone_start: weights that the image backbone starts from. `principal`: such that it
        reconstructs frames from their principal components; `random`: Keras's initialization, as
        published.
      synchronized_batch_norm: whether batch norms use the statistics of the global batch, so that
        the result does not depend on the number of devices. This costs one all-reduce per norm
        and step. Otherwise each device uses the statistics of its own examples.
      seed: random seed of initial weights, order of examples and augmentation; below 2**31.
      precision: number format in which layers compute. Weights, losses, frames and levels stay in
        float32. `bfloat16` is fast on hardware that supports it.
      gradient_precision: number format in which devices all-reduce their gradients. `bfloat16`
        halves what they send. It rounds each part of a sum by up to 0.4%, and with each further
        worker the sum once more. One device sends none. Not for GPUs: NCCL in TensorFlow does not
        add up this format.
      jit_compile: whether XLA compiles the steps.
      steps_per_execution: number of training steps that run as one graph, without Python between
        them. More than 1 is for GPUs that finish a step in a few milliseconds; the more there are,
        the longer compiling takes. Checkpoints are written between executions.
      deterministic: whether TensorFlow uses only operations that give the same bits in every run,
        which are slower on GPUs. On CPUs a run gives the same bits without it, too.
      checkpoint_every: number of steps, epochs or minutes between two checkpoints of a stage.
      frame_cache_gb: largest size in GB (10**9 bytes) of the decoded frames that each machine keeps
        in the user's cache directory. Larger splits, and all with 0, are decoded in every epoch.
      feature_cache: whether features of frozen backbones are computed once and cached in the run's
        folder, or recomputed in every epoch.
      profile_steps: number of steps of each stage that the first worker traces for TensorBoard's
        profiler.

    Raises:
      UserError: a setting is out of its range, or two settings contradict each other.
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
    learning_rate_scaling: Literal["none", "sqrt", "linear"] = "none"
    backbone_start: Literal["principal", "random"] = "principal"
    synchronized_batch_norm: bool = True
    seed: int = _limited(0, ge=0, lt=2**31)
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_precision: Literal["float32", "bfloat16"] = "float32"
    jit_compile: bool = False
    steps_per_execution: int = _limited(1, ge=1)
    deterministic: bool = False
    checkpoint_every: str = _limited("10 minutes", interval=_INTERVAL)
    frame_cache_gb: float = _limited(32.0, ge=0, lt=math.inf)
    feature_cache: bool = True
    profile_steps: int = _limited(0, ge=0)

    def __post_init__(self) -> None:
        for path, declared, hint, _ in _leaves(TrainingConfig):
            _check_range(path, declared.metadata, hint, operator.attrgetter(path)(self))
        for path, rule in self._contradictions():
            value = operator.attrgetter(path)(self)
            raise UserError(f"`{path}` must be {rule}, but is {setting_text(value)}.")

    def scaled(self, name: str) -> StageConfig:
        """Return the settings of a stage with the learning rate for its batch size.

        Args:
          name: one of `STAGE_SETTINGS`.
        """
        settings: StageConfig = getattr(self, name)
        power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[self.learning_rate_scaling]
        factor = (settings.batch_size / settings.base_batch_size) ** power
        return replace(settings, learning_rate=settings.learning_rate * factor)

    @property
    def checkpoint_interval(self) -> CheckpointInterval:
        """Return when checkpoints are due, also for workers whose number may grow."""
        found = _INTERVAL.fullmatch(self.checkpoint_every)
        assert found, "checked when the configuration was made"
        count, unit = int(found[1]), found[2]
        limits = [60.0 * count] if unit == "minute" else []
        if self.cluster.min_workers is not None:
            limits.append(self.cluster.resize_interval_s / 2)
        return CheckpointInterval(
            steps=count if unit == "step" else None,
            epochs=count if unit == "epoch" else None,
            seconds=min(limits, default=None),
        )

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield the path and the rule of each setting that does not fit the others."""
        cluster, devices = self.cluster, self.cluster.num_devices
        if not self.levels or self.levels != tuple(sorted({*self.levels} & {1, 2, 3})):
            yield "levels", "some of 1,2,3 in ascending order"
        if self.head.ordered and variant_named(self.variant).num_levels == 1:
            yield "head.ordered", f"false for {self.variant}, whose heads predict one level each"
        if cluster.min_workers is not None and cluster.min_workers > cluster.num_workers:
            yield "cluster.min_workers", f"at most cluster.num_workers ({cluster.num_workers})"
        if cluster.cpu_devices > 1 and (cluster.num_workers > 1 or cluster.gpus_per_worker):
            yield "cluster.cpu_devices", "1 with several workers or GPUs"
        if cluster.gpus_per_worker and devices > 1 and self.gradient_precision != "float32":
            yield "gradient_precision", "float32 with several GPUs"
        for name in STAGE_SETTINGS:
            if getattr(self, name).batch_size < devices:
                yield f"{name}.batch_size", f"at least {devices}, one example per device"
        if self.jit_compile and devices > 1 and self.synchronized_batch_norm:
            rule = "false if jit_compile is true: a compiled step cannot all-reduce"
            yield "synchronized_batch_norm", rule
        side = min(self.backbone.height, self.backbone.width)
        for name in ("image", "jnd"):
            if (getattr(self, name).crop or 0) > side:
                yield f"{name}.crop", f"at most {side}, the frame's shorter side"
        for name in ("heads", "joint"):
            if getattr(self, name).crop is not None:
                yield f"{name}.crop", "none: levels belong to full frames"
        if self.joint.mixup > 0:
            yield "joint.mixup", "0: frames are not blended"


def tiny(variant: Variant) -> TrainingConfig:
    """Return settings for two cores and a few minutes, on synthetic 256×144 frames.

    Command: `laser-jnd train mj-lat --preset tiny --dataset DIR` (minutes on two cores).
    Cross-validated over the photographs of the demo's synthetic dataset, the mean error in QP was
    0.62 of the constant predictor's (three seeds).
    """
    squares = StageConfig(
        epochs=3,
        batch_size=4,
        base_batch_size=4,
        learning_rate=1e-3,
        schedule="cosine",
        flips=True,
        crop=64,
        crops_per_frame=2,
    )
    latent_head = HeadSpec(filters=(32, 48, 64), dense=(), pooling="average", knee=0.2)
    # On full frames: few filters where the maps are large, a pool after each block as published.
    frame_head = replace(
        latent_head, filters=(16, 24, 32, 48, 64), pool_every=1, attention_ratio=None
    )
    heads = StageConfig(
        epochs=12,
        batch_size=16,
        base_batch_size=16,
        learning_rate=2e-3,
        schedule="cosine",
        flips=True,
        mixup=1.0,
    )
    return TrainingConfig(
        variant=variant.name,
        backbone=BackboneSpec(filters=48, latent_filters=96, height=144, width=256),
        head=latent_head if variant.space == "latent" else frame_head,
        image=squares,
        jnd=replace(squares, epochs=1, learning_rate=5e-4),
        heads=heads,
        joint=replace(
            heads, epochs=4, batch_size=8, base_batch_size=8, learning_rate=1e-3, mixup=0.0
        ),
        # A step takes a few hundredths of a second: the norms' all-reduces would be a third of it.
        cluster=ClusterConfig(cpu_devices=2),
        synchronized_batch_norm=False,
        checkpoint_every="1 epoch",
    )


def paper(variant: Variant) -> TrainingConfig:
    """Return the published size and training: 640×352 frames, Adam at 1e-5, batch 8, 300 epochs.

    Command: `laser-jnd train mj-lat --preset paper --dataset DIR`. Made for GPUs: on two cores one
    step of a backbone takes about 6 s. How the published backbones were trained is not known: they
    get the heads' settings. Known differences from the published training, and how to undo each:

    - Gradients are clipped: `--set heads.clip_norm=none`, and so for `image`, `jnd` and `joint`.
    - Heads end without an activation, not with a ReLU, which is often dead at the start:
      `--set head.output=relu`.
    - Heads start at the mean levels of the training split: `--set head.start=zero`.
    - Moving averages of batch norms have momentum 0.9, not 0.99: `--set head.norm_momentum=0.99`.
    - The image backbone starts from principal components: `--set backbone_start=random`.
    """
    return _full_size(variant, StageConfig(epochs=300))


def large(variant: Variant) -> TrainingConfig:
    """Return the published size for many devices and a dataset with all frames of its clips.

    Command: `laser-jnd train mj-lat --preset large --dataset DIR --workers 8 --gpus-per-worker 4`,
    on a dataset of `laser-jnd build --all-frames`. Batches of 256 with a learning rate that follows
    the batch size. Each machine needs a disk with 80 GB for the decoded frames of VideoSet;
    otherwise they are decoded in each epoch. Nobody has trained with it yet: it has not run on
    GPUs.
    """
    stage = StageConfig(epochs=100, batch_size=256, schedule="cosine")
    full_size = _full_size(variant, stage)
    return replace(full_size, learning_rate_scaling="sqrt", frame_cache_gb=100.0)


def _full_size(variant: Variant, stage: StageConfig) -> TrainingConfig:
    return TrainingConfig(
        variant=variant.name,
        backbone=BackboneSpec(),
        head=variant.published_head,
        image=stage,
        jnd=stage,
        heads=stage,
        joint=stage,
    )


PRESETS = {preset.__name__: preset for preset in (tiny, paper, large)}


@dataclass(frozen=True)
class Setting:
    """Description of one setting.

    Attributes:
      path: name for `--set`, such as "heads.epochs".
      type: type and range, such as "integer, 1 or more".
      defaults: value in each preset, by the preset's name.
      meaning: one or more sentences.
    """

    path: str
    type: str
    defaults: Mapping[str, str]
    meaning: str


def describe_settings(variant: str = "mj-lat") -> list[Setting]:
    """Describe every setting that `override` can change.

    Args:
      variant: predictor whose defaults are shown; the head's depend on it.
    """
    presets = {name: preset(variant_named(variant)) for name, preset in PRESETS.items()}
    rows: list[Setting] = []
    for path, declared, hint, kind in _leaves(TrainingConfig):
        of = operator.attrgetter(path)
        kind_text = ", ".join(filter(None, [_type_text(hint), _range_text(declared.metadata)]))
        defaults = {name: setting_text(of(preset)) for name, preset in presets.items()}
        rows.append(Setting(path, kind_text, defaults, _meanings(kind)[declared.name]))
    return rows


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any], kind: type = TrainingConfig) -> Any:
    """Return the configuration that `to_dict` wrote.

    Args:
      values: plain values, from a JSON file or another process.
      kind: dataclass to make.

    Raises:
      UserError: an unknown key, or a value out of range.
    """
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise _unknown_setting(name, hints)
    return kind(**{name: _from_plain(hints[name], value) for name, value in values.items()})


def override(
    config: TrainingConfig, assignments: Sequence[str], per_replica_batch_size: int | None = None
) -> TrainingConfig:
    """Change settings by path, such as `heads.epochs=20` or `head.filters=32,64`.

    Args:
      config: configuration to start from; it stays as it is.
      assignments: `PATH=VALUE` each; commas separate the values of a tuple.
      per_replica_batch_size: number of examples per step and device, of the largest number of
        devices that the changed settings ask for. It sets the batch size of each stage for which
        the assignments have none.

    Raises:
      UserError: no `=`, an unknown path, or a value of another type or out of range.
    """
    values = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            hint = "For example: --set heads.epochs=20"
            raise UserError(f"`--set {assignment}` is not of the form PATH=VALUE.", hint=hint)
        _assign(values, path.strip(), text.strip())
    if per_replica_batch_size is not None:
        assigned = {assignment.partition("=")[0].strip() for assignment in assignments}
        total = per_replica_batch_size * from_dict(values["cluster"], ClusterConfig).num_devices
        for name in STAGE_SETTINGS:
            if f"{name}.batch_size" not in assigned:
                values[name]["batch_size"] = total
    # All at once: a batch size and the number of workers that it fits may change together.
    return from_dict(values)


def read_settings(path: Path) -> list[str]:
    """Return the settings in a JSON file as `override` takes them, `PATH=VALUE` each.

    Args:
      path: file of nested objects, such as `{"heads": {"epochs": 20}}`; any settings can be left
        out. `laser-jnd train --print-config` prints such a file, which also names the variant.

    Raises:
      UserError: the file cannot be read, or is no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"Cannot read the settings in {path}: {reason}.",
            hint="Print an example with `laser-jnd train VARIANT --print-config`.",
        ) from error
    return [f"{name}={setting_text(value)}" for name, value in _flattened(values)]


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _leaves(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield the path, dataclass field and type of each setting, and the class that declares it."""
    hints = typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):
        path, hint = prefix + each.name, hints[each.name]
        if dataclasses.is_dataclass(hint):
            yield from _leaves(hint, f"{path}.")
        elif path not in _FIXED:
            yield path, each, hint, kind


def _from_plain(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(value, typing.cast(type, hint))
    return tuple(value) if isinstance(value, list) else value


def _assign(values: dict[str, Any], path: str, text: str) -> None:
    hints = {known: hint for known, _, hint, _ in _leaves(TrainingConfig)}
    if path not in hints:
        raise _unknown_setting(path, hints)
    *parents, name = path.split(".")
    for parent in parents:
        values = values[parent]
    try:
        values[name] = _parsed(hints[path], text)
    except ValueError as error:
        rule = _type_text(hints[path], article=True)
        raise UserError(f"`{path}` must be {rule}, but is '{text}'.") from error


def _unknown_setting(path: str, known: Any) -> UserError:
    hint = nearest(path, known) or "Run `laser-jnd settings` to list all settings."
    return UserError(f"There is no setting `{path}`.", hint=hint)


def _check_range(path: str, limits: Mapping[str, Any], hint: Any, value: Any) -> None:
    if typing.get_origin(hint) is Literal:
        fits = value in typing.get_args(hint)
    else:
        fits = value is None or all(_LIMITS[name][0](value, limits[name]) for name in limits)
    if not fits:
        rule = _range_text(limits) or _type_text(hint)
        raise UserError(f"`{path}` must be {rule}, but is {setting_text(value)}.")


def _range_text(limits: Mapping[str, Any]) -> str:
    names = {math.inf: "infinity", 2**31: "2**31"}
    texts = (_LIMITS[name][1].format(names.get(limit, limit)) for name, limit in limits.items())
    return " and ".join(texts).replace("below infinity", "finite")


def _parsed(hint: Any, text: str) -> Any:
    """Return the value that a text means for a setting of this type.

    Raises:
      ValueError: it means none.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        parts = [] if text == "none" else filter(None, text.split(","))
        return tuple(_parsed(arguments[0], each) for each in parts)
    if origin in (typing.Union, types.UnionType):
        return None if text == "none" else _parsed(arguments[0], text)
    choices = ("true", "false") if hint is bool else arguments
    if choices and text not in choices:
        raise ValueError(text)
    if hint is bool:
        return text == "true"
    return text if origin is Literal else hint(text)


def _type_text(hint: Any, *, article: bool = False) -> str:
    """Return a type as people read it, such as "integer or none"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"{', '.join(arguments[:-1])} or {arguments[-1]}"
    if origin is tuple:
        return "integers separated by commas"
    if origin in (typing.Union, types.UnionType):
        return f"{_type_text(arguments[0], article=article)} or none"
    if hint is bool:
        return "true or false"
    if hint is str:  # its range says what it is
        return ""
    text = "integer" if hint is int else "number"
    return f"{'an' if hint is int else 'a'} {text}" if article else text


def setting_text(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _meanings(kind: type) -> dict[str, str]:
    """Return what a dataclass's docstring says of each attribute, as sentences."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", text, re.MULTILINE)
    return {name: " ".join(f"{text[0].upper()}{text[1:]}".split()) for name, text in found}
