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


def __getattr__(name: str) -> str:
    """Return the installed version as `__version__`; only then is its metadata looked up."""
    if name == "__version__":
        from importlib.metadata import version

        return version("laser-jnd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
