"""Learn from judged video at which quantizer a clip stops looking like its source.

The floors of the house, each importing only from those below it:

4. `laser_dist.commands`: one thin file per command of `laser-jnd`.
3. `laser_dist.evaluation`, `tfds_builders`.
2. `laser_dist.training`, `laser_dist.prediction`, `beam_pipelines`.
1. `laser_dist.models`, `laser_dist.video`, `laser_dist.jnd`.

Importing this package alone imports neither TensorFlow, Ray nor Beam.
"""

__version__ = "0.1.0"
