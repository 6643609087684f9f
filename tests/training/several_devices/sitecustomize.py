"""Give each training worker of TensorFlow several CPU devices; Python imports this by itself.

With this folder in `PYTHONPATH`, the unchanged commands train in the shape of `flagship.py`.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

MODULE = "laser_dist.training.devices"  # which a worker imports before TensorFlow

sys.path.append(str(Path(__file__).parents[1]))


class Finder(MetaPathFinder):
    """Changes `use_devices` when its module is imported."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        load = spec.loader.exec_module

        def load_and_change(module):
            load(module)
            module.use_devices = use_several_devices

        spec.loader.exec_module = load_and_change
        return spec


def use_several_devices(gpus, cpu_devices=1):
    from flagship import prepare_worker

    prepare_worker()
    return "CPU"


sys.meta_path.insert(0, Finder())
