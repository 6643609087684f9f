"""A worker trains on the devices that it was given, or says which are missing."""

import json
import platform
import subprocess
import sys

import pytest

from laser_dist.errors import UserError
from laser_dist.models.variants import variant_named
from laser_dist.training.config import override, tiny, to_dict
from laser_dist.training.devices import check_gpus

A100, T4 = "NVIDIA A100-SXM4-40GB", "Tesla T4"
# As Ray calls it in a worker that was given a GPU, on a machine where TensorFlow finds none.
WORK = """
import json, sys
from laser_dist.training.worker import work
work([({"run_dir": sys.argv[1], "training": json.loads(sys.argv[2])}, ["image"])])
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
