"""Predict the coarsest quantizer at which a video clip still looks like its source.

`laser_dist.load` loads a model to predict with. `laser_dist.train`, `laser_dist.cross_validate` and
`laser_dist.evaluate` do what the commands do; see `laser_dist.api`. `laser_dist.Callback` is the
base of callbacks of a training.

The packages by layer; each imports only from the layers below it:

6. `laser_dist.commands`: the command line, one file per command of `laser-jnd`.
5. `laser_dist.api`: the library.
4. `laser_dist.evaluation`, `tfds_builders`.
3. `laser_dist.training`, `beam_pipelines`.
2. `laser_dist.prediction`, `laser_dist.simulation`.
1. `laser_dist.models`, `laser_dist.video`, `laser_dist.jnd`.
0. `laser_dist.storage`, `laser_dist.errors`.

Importing this package imports neither TensorFlow, Ray nor Beam.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("laser-jnd")

_LAZY = {
    "load": "laser_dist.prediction.load",
    "train": "laser_dist.api",
    "cross_validate": "laser_dist.api",
    "evaluate": "laser_dist.api",
    "local_ray": "laser_dist.training.ray_entry",
    "Callback": "laser_dist.training.learning.callbacks",
    "KerasCallback": "laser_dist.training.learning.callbacks",
}


def __getattr__(name: str) -> Any:
    """Import a name of the library when it is used first."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
