"""Stages of a training, their order, and the inputs that determine each.

image ──▶ jnd1, jnd2, jnd3 ──▶ heads of frozen backbones     lat, rec, mj-lat, mj-rec
  └──▶ backbone and head together                            e2e-lat, e2e-rec
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from laser_dist.models.variants import Variant

IMAGE = "image"
RECIPE = 1
"""Raised by a change of the code that changes what a stage learns from the same inputs."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of a plan.

    Attributes:
      name: name of the stage and of its model.
      kind: "image" and "jnd" train a backbone, "head" a head on frozen ones, "joint" both.
      levels: JND levels that it learns, from 1.
      needs: names of the stages whose models it starts from.
    """

    name: str
    kind: Literal["image", "jnd", "head", "joint"]
    levels: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """Name of its settings in a configuration."""
        return "heads" if self.kind == "head" else self.kind


def plan_stages(variant: Variant, levels: Sequence[int]) -> tuple[StagePlan, ...]:
    """Return a variant's stages, each after those that it needs.

    Args:
      variant: predictor to train.
      levels: JND levels for a single-level variant; a multi-level one learns all three.
    """
    image = StagePlan(name=IMAGE, kind="image")
    if variant.num_levels > 1:
        levels = (1, 2, 3)
    if variant.end_to_end:
        joint = [
            StagePlan(name=head_name(variant, k), kind="joint", levels=(k,), needs=(IMAGE,))
            for k in levels
        ]
        return (image, *joint)
    backbones = [StagePlan(name=f"jnd{k}", kind="jnd", levels=(k,), needs=(IMAGE,)) for k in levels]
    if variant.num_levels > 1:
        needs = variant.required_backbones()
        head = StagePlan(name=variant.name, kind="head", levels=tuple(levels), needs=needs)
        return (image, *backbones, head)
    heads = [
        StagePlan(name=head_name(variant, k), kind="head", levels=(k,), needs=(f"jnd{k}",))
        for k in levels
    ]
    return (image, *backbones, *heads)


def head_name(variant: Variant, level: int) -> str:
    """Return the name of a single-level variant's stage for a level."""
    return f"{variant.name}-jnd{level}"


def with_needs(stages: Sequence[StagePlan], names: Collection[str]) -> tuple[StagePlan, ...]:
    """Return the named stages and those that they need, in order."""
    wanted = set(names)
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.needs)
    return tuple(stage for stage in stages if stage.name in wanted)


def waves(stages: Sequence[StagePlan], done: Collection[str]) -> list[tuple[str, ...]]:
    """Return the names of the remaining stages, in groups whose members do not need each other."""
    left = [stage for stage in stages if stage.name not in done]
    finished, groups = set(done), []
    while left:
        ready = tuple(stage.name for stage in left if finished.issuperset(stage.needs))
        groups.append(ready)
        finished.update(ready)
        left = [stage for stage in left if stage.name not in finished]
    return groups


def inputs_of(
    stage: StagePlan, training: Mapping[str, Any], fingerprint: str, keys: Mapping[str, str]
) -> dict[str, Any]:
    """Return the inputs that determine a stage's model.

    The workers and the caches are not inputs: they do not change what is learned, up to rounding.

    Args:
      stage: stage of `plan_stages`.
      training: `TrainingConfig` as plain values.
      fingerprint: fingerprint of the dataset.
      keys: keys of the stages that it needs.
    """
    settings = stage.settings
    inputs: dict[str, Any] = {
        "data": fingerprint,
        "backbone": training["backbone"],
        settings: training[settings],
        "learning_rate_scaling": training["learning_rate_scaling"],
        "synchronized_batch_norm": training["synchronized_batch_norm"],
        "gradient_precision": training["gradient_precision"],
        "recipe": RECIPE,
        "keras": metadata.version("keras"),
        "levels": list(stage.levels),
        "seed": training["seed"],
        "precision": training["precision"],
        **{f"model {name}": keys[name] for name in stage.needs},
    }
    if stage.kind == "image":
        inputs["backbone_start"] = training["backbone_start"]
    if stage.kind in ("head", "joint"):
        inputs |= {"variant": training["variant"], "head": training["head"]}
    return inputs


def key_of(inputs: Mapping[str, Any]) -> str:
    """Return a short hash of a stage's inputs.

    Equal inputs give equal model files only on the same kind of machine with the same packages.
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
