import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from laser_dist.keras_import import import_keras

CODE = """
import sys
from laser_dist.keras_import import import_keras
import_keras()
import keras
loaded = sys.modules.keys()
print(keras.backend.backend(), *sorted({"IPython", "matplotlib", "pandas", "sklearn"} & loaded))
import matplotlib, pandas, sklearn
print(keras.ops.add(1, 2).shape, sklearn.__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_keras_is_imported_without_packages_that_can_be_imported_afterwards(backend):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [backend, "() sklearn"], done.stderr


class Gpus:
    """Two GPUs under the rules of TensorFlow: nothing can change after the first operation."""

    def __init__(self):
        self.visible, self.growing, self.used = ["GPU:0", "GPU:1"], set(), False
        self.experimental = SimpleNamespace(set_memory_growth=self.set_memory_growth)

    def get_visible_devices(self, kind):
        return list(self.visible)

    def set_visible_devices(self, devices, kind):
        if devices != self.visible and self.used:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        self.visible = devices

    def set_memory_growth(self, device, enable):
        if device not in self.growing and self.used:
            raise RuntimeError("Physical devices cannot be modified after being initialized")
        self.growing |= {device} if enable else set()

    def state(self):
        return self.visible, self.growing


@pytest.fixture
def gpus(monkeypatch):
    import tensorflow as tf

    found = Gpus()
    monkeypatch.setattr(tf, "config", found)
    return found


@pytest.mark.slow
def test_only_a_process_that_asks_for_gpus_sees_them_and_takes_memory_as_needed(gpus):
    import_keras()
    assert gpus.state() == ([], set())
    import_keras(gpus="shared")
    assert gpus.state() == ([], set())


@pytest.mark.slow
@pytest.mark.parametrize("second", ["hidden", "shared"])
@pytest.mark.parametrize(
    ("first", "state"), [("hidden", ([], set())), ("shared", (["GPU:0", "GPU:1"],) * 2)]
)
def test_a_process_that_has_used_its_gpus_keeps_them(gpus, first, state, second):
    """As in one that evaluates and then trains from models, or the other way around."""
    import_keras(gpus=first)
    gpus.used = True
    import_keras(gpus=second)
    assert [*map(sorted, gpus.state())] == [*map(sorted, state)]


@pytest.mark.slow
@pytest.mark.parametrize("used", [False, True])
def test_a_model_that_is_loaded_takes_gpu_memory_as_needed(gpus, monkeypatch, used):
    from laser_dist.prediction import keras_models

    monkeypatch.setattr(keras_models, "load_saved_model", lambda path, **_: path)
    monkeypatch.setattr(keras_models, "from_model", lambda model, origin: model)
    gpus.used = used  # by the program that loads the model
    assert keras_models.load_keras("predictor.keras") == "predictor.keras"
    assert gpus.growing == (set() if used else {"GPU:0", "GPU:1"})
