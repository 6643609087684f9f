"""Configurations of the builders: how frames are taken from clips, and how they are named."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from beam_pipelines.elements import PairSettings
from laser_dist.errors import UserError
from laser_dist.video.containers import MIN_SIZE


@dataclasses.dataclass(kw_only=True)
class JndConfig(tfds.core.BuilderConfig):
    """How frames are taken from a dataset's clips.

    Attributes:
      model_width: width of the examples' frames, in pixels.
      model_height: height of the examples' frames, in pixels.
      frames_per_second: frames per second of a source; None for all frames.
    """

    model_width: int = 640
    model_height: int = 352
    frames_per_second: float | None = 1.0

    @property
    def pairs(self) -> PairSettings:
        """Settings of the pipeline."""
        return PairSettings(
            model_width=self.model_width,
            model_height=self.model_height,
            frames_per_second=self.frames_per_second,
        )


def check_frame_size(width: int, height: int) -> None:
    """Check that frames are large enough for the models.

    Raises:
      UserError: they are not.
    """
    if min(width, height) < MIN_SIZE:
        raise UserError(
            f"Frames of {width}x{height} pixels are too small.",
            hint=f"Use a --frame-size of {MIN_SIZE}x{MIN_SIZE} or more.",
        )


def derived_config(config: JndConfig, changes: Mapping[str, Any]) -> JndConfig:
    """Return a configuration with changed settings and a name such as `360p-fps2-480x272-mean`.

    So datasets of several settings can be stored next to each other and loaded by name.

    Args:
      config: the original configuration.
      changes: field to value; fields that keep their value do not show in the name.

    Raises:
      UserError: the frames are too small for the models.
    """
    changed = dataclasses.replace(config, **changes)
    check_frame_size(*changed.pairs.size)
    parts = [config.name]
    if changed.frames_per_second != config.frames_per_second:
        rate = changed.frames_per_second
        parts.append("all-frames" if rate is None else f"fps{rate:g}")
    if changed.pairs.size != config.pairs.size:
        parts.append(f"{changed.model_width}x{changed.model_height}")
    definition = getattr(changed, "level_definition", None)
    if definition != getattr(config, "level_definition", None):
        parts.append(str(definition))
    if (split_by := getattr(changed, "split_by", None)) != getattr(config, "split_by", None):
        parts.append(f"by-{split_by}")
    return dataclasses.replace(changed, name="-".join(parts))
