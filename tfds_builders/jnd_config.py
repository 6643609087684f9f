"""Configurations of the builders: how frames are taken from clips, and what each is called."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from beam_pipelines.dataset.frame_pairs import PairSettings
from laser_dist.errors import UserError
from laser_dist.video.containers import MIN_SIZE


@dataclasses.dataclass(kw_only=True)
class JndConfig(tfds.core.BuilderConfig):
    """How frames are taken from a dataset's clips.

    Attributes:
      model_width: of the frames in the examples, in pixels.
      model_height: of the frames in the examples, in pixels.
      frames_per_second: frames taken of each source; None for all.
      num_folds: for cross-validation, listed in the metadata.
    """

    model_width: int = 640
    model_height: int = 352
    frames_per_second: float | None = 1.0
    num_folds: int = 5

    @property
    def pairs(self) -> PairSettings:
        """What the pipeline needs to know."""
        return PairSettings(
            model_width=self.model_width,
            model_height=self.model_height,
            frames_per_second=self.frames_per_second,
        )


def derived_config(config: JndConfig, changes: Mapping[str, Any]) -> JndConfig:
    """A configuration with other settings, and with them in its name: `360p-fps2-480x272-mean`.

    So datasets of several settings lie beside each other, and `tfds.load` finds each by its name.

    Args:
      config: to begin with.
      changes: field to value; those that change nothing leave the name as it is.

    Raises:
      UserError: no frame size that the models take.
    """
    changed = dataclasses.replace(config, **changes)
    if min(changed.model_width, changed.model_height) < MIN_SIZE:
        raise UserError(
            "Frames of the examples",
            f"{MIN_SIZE}x{MIN_SIZE} pixels or more",
            f"{changed.model_width}x{changed.model_height}",
            "Name another with --frame-size.",
        )
    parts = [config.name]
    if changed.frames_per_second != config.frames_per_second:
        rate = changed.frames_per_second
        parts.append("all-frames" if rate is None else f"fps{rate:g}")
    if changed.pairs.size != config.pairs.size:
        parts.append(f"{changed.model_width}x{changed.model_height}")
    definition = getattr(changed, "level_definition", None)
    if definition != getattr(config, "level_definition", None):
        parts.append(str(definition))
    return dataclasses.replace(changed, name="-".join(parts))
