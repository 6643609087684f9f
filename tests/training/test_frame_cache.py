"""Decoded frames are cached on the machine: the same frames, each decoded once."""

import contextlib
import os
import threading

import numpy as np
import pytest
from training_fakes import HEIGHT, IMAGES, NUM_TRAIN, WIDTH, RecordingRecords

from laser_dist.examples.frame_cache import cached_frames
from laser_dist.examples.frames import CachedFrames, DecodedFrames
from laser_dist.examples.memory_maps import aligned, gather
from laser_dist.examples.records import open_records

pytestmark = pytest.mark.slow

BYTES = NUM_TRAIN * HEIGHT * WIDTH * 3  # of one image of the split


@pytest.fixture
def records(dataset_dir):
    return RecordingRecords(open_records(dataset_dir, "train"))


@pytest.fixture
def decoded(records):
    return DecodedFrames(records, (WIDTH, HEIGHT))


def assert_equal_frames(found, decoded, images):
    rows = np.array([3, 0, 3, NUM_TRAIN - 1])
    for one, other in zip(found.read(images, rows), decoded.read(images, rows), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (found.size, len(found)) == (decoded.size, len(decoded))


def test_cached_frames_are_the_decoded_ones_and_are_decoded_once(records, decoded, tmp_path):
    found = cached_frames(decoded, IMAGES, tmp_path / "split", 1e9)
    assert isinstance(found, CachedFrames)
    assert sorted(records.seen) == list(range(NUM_TRAIN))  # all images in one reading
    assert_equal_frames(found, decoded, IMAGES)
    records.seen.clear()
    again = cached_frames(decoded, IMAGES, tmp_path / "split", 1e9)
    assert records.seen == []
    assert_equal_frames(again, decoded, IMAGES)


def test_an_image_that_is_needed_later_is_added(decoded, tmp_path):
    cached_frames(decoded, ("raw",), tmp_path / "split", 1e9)
    before = (tmp_path / "split" / "raw.npy").stat().st_mtime_ns
    found = cached_frames(decoded, ("raw", "jnd3"), tmp_path / "split", 1e9)
    assert (tmp_path / "split" / "raw.npy").stat().st_mtime_ns == before
    assert_equal_frames(found, decoded, ("raw", "jnd3"))


@pytest.mark.parametrize("damage", ["changed", "cut", "other number", "no checksums"])
def test_damaged_frames_are_decoded_again(records, decoded, tmp_path, damage):
    cached_frames(decoded, ("raw",), tmp_path / "split", 1e9)
    path = tmp_path / "split" / "raw.npy"
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[-1] ^= 1
    elif damage == "cut":
        del content[-100:]
    elif damage == "other number":
        np.save(path, np.load(path)[:-1])
        content = path.read_bytes()
    else:
        path.with_suffix(".json").write_text("[")
    path.write_bytes(content)
    records.seen.clear()
    found = cached_frames(decoded, ("raw",), tmp_path / "split", 1e9)
    assert sorted(records.seen) == list(range(NUM_TRAIN))
    assert_equal_frames(found, decoded, ("raw",))


def test_an_interrupted_decoding_is_repeated(decoded, tmp_path):
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    with contextlib.suppress(Stop):
        cached_frames(decoded, ("raw",), tmp_path / "split", 1e9, heartbeat=stop)
    assert not (tmp_path / "split" / "raw.json").exists()
    assert_equal_frames(cached_frames(decoded, ("raw",), tmp_path / "split", 1e9), decoded, ["raw"])


def test_frames_above_the_limit_are_decoded_in_each_epoch(decoded, tmp_path):
    assert cached_frames(decoded, ("raw", "jnd1"), tmp_path / "split", 2 * BYTES - 1) is decoded
    assert not (tmp_path / "split").exists()
    assert cached_frames(decoded, ("raw", "jnd1"), tmp_path / "split", 2 * BYTES) is not decoded


def test_frames_that_do_not_fit_on_the_disk_are_decoded_in_each_epoch(
    decoded, tmp_path, monkeypatch
):
    usage = type("Usage", (), {"free": BYTES - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert cached_frames(decoded, ("raw",), tmp_path / "split", 1e9) is decoded


def test_the_frames_that_were_not_used_for_longest_make_room(decoded, tmp_path):
    for age, name in ((30, "oldest"), (10, "newest"), (20, "old")):
        cached_frames(decoded, ("raw",), tmp_path / name, 1e9)
        used = (tmp_path / name / ".lock").stat().st_mtime - age
        os.utime(tmp_path / name / ".lock", (used, used))
    limit = 3.5 * BYTES  # and the headers and checksums of the files
    cached_frames(decoded, ("raw",), tmp_path / "another", limit)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "newest", "another"}


def test_frames_that_another_process_decodes_are_not_removed(decoded, tmp_path):
    def decode_another():
        cached_frames(decoded, ("raw",), tmp_path / "another", 1.5 * BYTES)

    cached_frames(decoded, ("raw",), tmp_path / "split", 1e9, heartbeat=decode_another)
    assert {path.name for path in tmp_path.iterdir()} >= {"split", "another"}
    assert (tmp_path / "split" / "raw.json").exists()


def test_a_process_waits_for_the_one_that_decodes(decoded, tmp_path):
    entered, seen = threading.Event(), []

    @contextlib.contextmanager
    def waiting():
        entered.set()
        try:
            yield
        finally:
            seen.append((tmp_path / "split" / "raw.json").exists())

    second = threading.Thread(
        target=cached_frames,
        args=(decoded, ("raw",), tmp_path / "split", 1e9),
        kwargs={"waiting": waiting},
    )

    def heartbeat():
        if not second.ident:
            second.start()
            entered.wait(10)

    cached_frames(decoded, ("raw",), tmp_path / "split", 1e9, heartbeat=heartbeat)
    second.join(30)
    assert seen == [True]


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_gathered_rows_are_those_of_the_array(count):
    array = np.random.default_rng(0).normal(size=(50, 300, 200)).astype(np.float32)
    rows = np.random.default_rng(1).integers(50, size=count)
    found, other = aligned([(count, 300, 200), (3,)], np.float32)
    assert other.ctypes.data % 64 == 0
    assert found.ctypes.data % 64 == 0 or not count
    gather(array, rows, found)
    np.testing.assert_array_equal(found, array[rows])
