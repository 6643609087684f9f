"""Imports Keras without the optional packages that it and TensorFlow import if they are installed.

With all of them installed, the import took 9.6 s of processor time on one machine; without them it
takes 5.4 s.
"""

import importlib
import os
import sys
from contextlib import suppress
from typing import Literal

_OPTIONAL = ("IPython", "jax", "matplotlib", "pandas", "sklearn")


def import_keras(gpus: Literal["hidden", "shared", "all"] = "hidden") -> None:
    """Import Keras, and with it TensorFlow.

    For processes of this project only: Keras then has no wrappers for scikit-learn and no plots.
    The packages themselves can be imported afterwards.

    Args:
      gpus: "hidden" and "shared" call `limit_gpus`. "all" leaves TensorFlow as it is: it takes
        nearly all memory of every GPU that it sees, also in a process that only reads a model while
        workers train.
    """
    backend = os.environ.get("KERAS_BACKEND")
    hidden = [name for name in _OPTIONAL if name not in sys.modules and name != backend]
    # Python takes a module that is None for one that is not installed.
    sys.modules.update(dict.fromkeys(hidden))  # pyright: ignore[reportArgumentType, reportCallIssue]
    try:
        importlib.import_module("keras")
    finally:
        for name in hidden:
            del sys.modules[name]
    if gpus != "all":
        limit_gpus(hides=gpus == "hidden")


def limit_gpus(*, hides: bool = False) -> None:
    """Let TensorFlow take memory of a GPU as it is needed, or use the CPU only.

    A process that has already used a device keeps its GPUs as they are.

    Args:
      hides: whether the process uses the CPU only, from now on.
    """
    import tensorflow as tf

    # Raised where TensorFlow allows no change: after its first operation, or for divided GPUs.
    with suppress(RuntimeError, ValueError):
        if hides:
            tf.config.set_visible_devices([], "GPU")
        for device in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
