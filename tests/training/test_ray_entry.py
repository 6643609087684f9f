"""What a training asks Ray for, and what it reports about the cluster. No Ray is started."""

import pytest

from laser_dist.models.variants import LAT
from laser_dist.training import ray_entry
from laser_dist.training.config import large, override, to_dict
from laser_dist.training.ray_entry import Job

pytestmark = pytest.mark.slow

TWO_GPUS = {"CPU": 8.0, "GPU": 2.0}


def job(run_dir, *settings):
    training = to_dict(override(large(LAT), settings))
    return Job({"run_dir": str(run_dir), "training": training}, [["image"]])


@pytest.mark.parametrize(
    ("settings", "nodes", "expected"),
    [
        (["num_workers=2"], [TWO_GPUS], None),
        (["num_workers=9"], [TWO_GPUS], "8 of 9 workers of 1 CPUs and 0 GPUs each: waiting"),
        (
            ["num_workers=4", "min_workers=2", "gpus_per_worker=1"],
            [TWO_GPUS, {"CPU": 8.0}],
            "2 of 4 workers of 1 CPUs and 1 GPUs each: starting with 2 or more.",
        ),
        # As many GPUs as are needed, but not on one machine.
        (
            ["gpus_per_worker=4"],
            [TWO_GPUS] * 4,
            "0 of 1 workers of 1 CPUs and 4 GPUs each: waiting for more.",
        ),
    ],
)
def test_a_training_that_waits_for_its_cluster_says_so(
    tmp_path, monkeypatch, caplog, settings, nodes, expected
):
    monkeypatch.setattr(ray_entry, "uses_cluster", lambda: True)
    trained = []
    monkeypatch.setattr(ray_entry, "_train_in_turn", lambda jobs, *_: trained.extend(jobs))
    caplog.set_level("INFO", "laser_dist")
    waiting = job(tmp_path, *(f"cluster.{each}" for each in settings))
    ray_entry._train_on(nodes, [waiting], False)
    assert trained == [waiting]
    if expected is None:
        assert caplog.messages == []
    else:
        (message,) = caplog.messages
        assert expected in message


def test_ray_looks_for_more_workers_once_per_interval(tmp_path, monkeypatch):
    asked = {}

    class Trainer:
        def __init__(self, function, **options):
            asked.update(options)

        def fit(self):
            pass

    monkeypatch.setattr(ray_entry, "_trainer_class", lambda: Trainer)
    settings = ("cluster.num_workers=8", "cluster.min_workers=4", "cluster.resize_interval_s=900")
    ray_entry._fit([(job(tmp_path, *settings), ["image"])], True)
    scaling = asked["scaling_config"]
    assert scaling.num_workers == (4, 8)
    assert scaling.elastic_resize_monitor_interval_s == 900
    assert scaling.resources_per_worker == {"CPU": 1}
    assert not scaling.use_gpu


def test_the_nodes_of_a_cluster_that_are_alive_count(tmp_path, monkeypatch):
    import ray

    nodes = [{"Alive": True, "Resources": TWO_GPUS}, {"Alive": False, "Resources": TWO_GPUS}]
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "1")  # is changed
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray_entry, "_is_connected", lambda: True)
    found = []
    monkeypatch.setattr(ray_entry, "_train_on", lambda nodes, *_: found.extend(nodes))
    ray_entry.train([job(tmp_path)])
    assert found == [TWO_GPUS]
