"""Predict the coarsest quantizer at which a video clip still looks like its source.

The packages by layer; each imports only from the layers below it:

5. `laser_dist.commands`: the command line, one file per command of `laser-jnd`.
4. `laser_dist.evaluation`, `tfds_builders`.
3. `laser_dist.training`, `beam_pipelines`.
2. `laser_dist.prediction`, `laser_dist.simulation`.
1. `laser_dist.models`, `laser_dist.video`, `laser_dist.jnd`.
0. `laser_dist.storage`, `laser_dist.errors`.

Importing this package imports neither TensorFlow, Ray nor Beam.
"""

from importlib.metadata import version

__version__ = version("laser-jnd")
