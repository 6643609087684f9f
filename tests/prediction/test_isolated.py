"""Reading of clips in a child process: a file that ends it costs that file only."""

import contextlib
import gc
import os
import signal
import time

import numpy as np
import psutil
import pytest
from command_line import laser_jnd_here, refusal
from onnx_graphs import write_light_inputs
from PIL import Image

from laser_dist.prediction import clips, isolated
from laser_dist.prediction.clips import Sampling
from laser_dist.prediction.isolated import IsolatedReader
from laser_dist.video.containers import VideoError

pytestmark = pytest.mark.slow  # each test starts processes

SAMPLING = Sampling(num_frames=2, width=16, height=8)


@pytest.fixture
def folder(tmp_path):
    write_light_inputs(tmp_path)
    return tmp_path


def children():
    found = []
    for each in psutil.Process().children():
        # Another test may have left one that has ended.
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "laser_dist.isolation" in " ".join(each.cmdline()):
                found.append(each)
    return found


def scenes_of(read, path):
    taken = []
    found = read(path, SAMPLING, taken.append)
    return found, [each for each in taken if not isinstance(each, float)]


def test_a_child_reads_what_this_process_reads(folder):
    others = children()  # of tests before this one
    reader = IsolatedReader()
    facts, (scene,) = scenes_of(reader.read, folder / "clip.mp4")
    expected, (same,) = scenes_of(clips.read_clip, folder / "clip.mp4")
    assert facts == expected
    np.testing.assert_array_equal(scene.frames, same.frames)
    assert scene.timestamps_s == same.timestamps_s
    (child,) = (each for each in children() if each not in others)
    with pytest.raises(VideoError, match=r"missing.mp4 does not exist\."):
        reader.read(folder / "missing.mp4", SAMPLING, lambda part: None)
    assert [each for each in children() if each not in others] == [child]
    del reader
    gc.collect()  # the traceback of the error refers to it
    assert child not in children()


def test_a_clip_above_the_memory_limit_is_named_and_the_next_one_is_read(folder):
    # The image has 192 MB as RGB, and half of it as 4:2:0.
    Image.new("RGB", (8000, 8000)).save(folder / "large.png", compress_level=1)
    reader = IsolatedReader(memory_bytes=250_000_000)
    with pytest.raises(VideoError) as raised:
        reader.read(folder / "large.png", SAMPLING, lambda part: None)
    assert raised.value.message == f"{folder}/large.png needs more than 0.25 GB of memory."
    _, (scene,) = scenes_of(reader.read, folder / "clip.mp4")
    assert scene.frames.shape == (2, 8, 16, 3)


def never_end(source, sampling, take):
    time.sleep(600)


def test_a_clip_above_the_time_limit_is_named(folder, monkeypatch):
    monkeypatch.setattr(isolated, "read_clip", never_end)
    reader = IsolatedReader(step_seconds=0.5)
    with pytest.raises(VideoError) as raised:
        reader.read(folder / "clip.mp4", SAMPLING, lambda part: None)
    assert raised.value.message == f"{folder}/clip.mp4 needs more than 0.5 s."


def die_at_b(source, sampling, take):
    if source.name == "b.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    return clips.read_clip(source, sampling, take)


def test_a_crash_is_named_and_the_batch_continues(folder, monkeypatch):
    monkeypatch.setattr(isolated, "read_clip", die_at_b)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (folder / name).write_bytes((folder / "clip.mp4").read_bytes())
    done = laser_jnd_here("predict", "a.mp4", "b.mp4", "c.mp4", "--model", "m.onnx", cwd=folder)
    assert done.returncode == 2
    assert "Cannot decode b.mp4: the decoder crashed (SIGSEGV)." in done.stderr
    assert "1 of 3 clips could not be predicted." in done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines() if ".mp4" in line]
    assert rows[:2] == [["a.mp4", "30"], ["c.mp4", "30"]]


def test_several_clips_are_isolated_unless_told_otherwise(folder, monkeypatch):
    monkeypatch.setattr(isolated, "read_clip", die_at_b)  # only a child process calls it
    (folder / "b.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    words = ("predict", "--model", "m.onnx", "b.mp4")
    assert laser_jnd_here(*words, cwd=folder).returncode == 0
    assert "SIGSEGV" in refusal(laser_jnd_here(*words, "--isolate", cwd=folder))
    assert laser_jnd_here(*words, "clip.mp4", cwd=folder).returncode == 2
    assert laser_jnd_here(*words, "clip.mp4", "--no-isolate", cwd=folder).returncode == 0
