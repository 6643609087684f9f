import os
import sys

from apache_beam.options.pipeline_options import DirectOptions

from beam_pipelines.runner import local_options, worker_environment


def test_the_workers_environment_is_undone(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    before = dict(os.environ)
    with worker_environment():
        assert os.environ["TF_USE_LEGACY_KERAS"] == "1"
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"
    assert dict(os.environ) == before


def test_one_worker_runs_in_this_process_and_several_in_their_own(monkeypatch):
    def mode(count):
        options = local_options(count).view_as(DirectOptions)
        return options.direct_running_mode, options.direct_num_workers

    monkeypatch.setattr(sys, "argv", ["laser-jnd", "--direct_num_workers=9"])  # not for Beam
    assert mode(1) == ("in_memory", 1)
    assert mode(3) == ("multi_processing", 3)
    assert mode(None)[1] == len(os.sched_getaffinity(0))
    # Beam starts its workers by an unquoted shell line.
    monkeypatch.setattr(sys, "executable", "/a folder/python")
    assert mode(3) == ("in_memory", 1)
