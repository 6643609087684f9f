"""A worker trains on the devices that it was given, or says which are missing."""

import json
import platform
import subprocess
import sys

import pytest

from laser_dist.errors import UserError
from laser_dist.models.variants import variant_named
from laser_dist.training.config import override, tiny, to_dict
from laser_dist.training.devices import check_gpus, use_devices

A100, T4 = "NVIDIA A100-SXM4-40GB", "Tesla T4"
# As Ray calls it in a worker that was given a GPU, on a machine where TensorFlow finds none.
WORK = """
import json, sys
from laser_dist.training.worker import work
work([({"run_dir": sys.argv[1], "training": json.loads(sys.argv[2])}, ["image"])])
"""
# TensorFlow refuses a random operation without a seed if operations must be deterministic.
DETERMINISTIC = """
import json, sys
from laser_dist.training.config import from_dict
from laser_dist.training.worker import _set_up_tensorflow
_set_up_tensorflow(from_dict(json.loads(sys.argv[1])), 1)
import tensorflow as tf
try:
    tf.random.uniform([1])
except RuntimeError as error:
    assert "determinism" in str(error)
    print("deterministic")
"""


def test_the_gpus_that_were_asked_for_are_accepted():
    check_gpus(2, [A100, A100])


def test_missing_gpus_are_named_with_what_decides_over_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError) as caught:
        check_gpus(4, [A100])
    message = caught.value.message
    assert message.startswith(f"TensorFlow sees 1 of the 4 GPUs of a worker on {platform.node()} (")
    assert "CUDA_VISIBLE_DEVICES 7" in message
    assert "NVIDIA_VISIBLE_DEVICES not set" in message
    assert "doctor" in caught.value.hint


def test_gpus_that_other_workers_were_given_are_refused():
    with pytest.raises(UserError, match="sees 4 GPUs in a worker on .* that was given 2, so"):
        check_gpus(2, [A100] * 4)


def test_gpus_of_different_models_are_refused():
    with pytest.raises(UserError, match=f"different models: {A100}, {T4}"):
        check_gpus(2, [A100, T4])


@pytest.mark.slow
def test_a_worker_without_its_gpu_does_not_train_on_the_cpu(tmp_path):
    settings = ["cluster.gpus_per_worker=1", "cluster.cpu_devices=1"]
    training = override(tiny(variant_named("lat")), settings)
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path / "run"), json.dumps(to_dict(training))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "UserError: TensorFlow sees 0 of the 1 GPUs of a worker on" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_worker_of_the_cpu_sees_no_gpu(monkeypatch):
    import tensorflow as tf

    visible = {"CPU": ["CPU:0"], "GPU": ["GPU:0", "GPU:1"]}
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda devices, kind: visible.update({kind: devices})
    )
    assert use_devices(0) == "CPU"
    assert visible == {"CPU": ["CPU:0"], "GPU": []}


@pytest.mark.slow
@pytest.mark.parametrize("value", ["true", "false"])
def test_operations_are_deterministic_if_that_is_set(value):
    training = to_dict(override(tiny(variant_named("lat")), [f"deterministic={value}"]))
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC, json.dumps(training)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("deterministic\n" if value == "true" else "")
