import threading
import time

import pytest

from beam_pipelines.progress import finished_clips, finished_sources, watch_progress


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_clip_counts_once_its_reference_is_there(tmp_path):
    work = tmp_path / ".mini.unfinished"
    assert finished_clips(tmp_path / "mini") == 0
    for source in (1, 2):
        folder = work / f"videoSRC00{source}_64x48_30"
        touch(folder / f"{folder.name}_qp_40.264")
        if source == 1:
            touch(folder / f"{folder.name}_qp_00.264")
    assert finished_clips(tmp_path / "mini") == 1


def test_a_source_counts_once_its_pairs_are_whole(tmp_path):
    assert finished_sources(tmp_path / "absent") == 0
    touch(tmp_path / "videoSRC001-0123.quality.parquet")
    touch(tmp_path / "videoSRC001-0123.pairs.parquet")
    touch(tmp_path / "videoSRC002-4567.quality.parquet")  # the pairs are written last
    touch(tmp_path / ".videoSRC003-89ab.pairs.parquet.99-1.unfinished")
    assert finished_sources(tmp_path) == 1


def test_progress_is_reported_when_it_grows_and_not_after_the_end():
    seen, done = [], [0]
    told = threading.Event()

    def report(count, total):
        seen.append((count, total))
        told.set()

    with watch_progress(lambda: done[-1], 3, report, poll_s=0.001):
        for count in (1, 9):
            done.append(count)
            assert told.wait(5)
            told.clear()
    done.append(10)
    time.sleep(0.02)
    assert seen == [(1, 3), (3, 3)]  # 9 of 3 is all of them
    assert "watch_progress" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_ends_with_a_block_that_fails():
    with pytest.raises(KeyError), watch_progress(lambda: 0, 1, lambda *_: None, poll_s=0.001):
        raise KeyError
    assert "watch_progress" not in {thread.name for thread in threading.enumerate()}


def test_a_report_that_fails_is_heard_of():
    called = threading.Event()

    def report(*_):
        called.set()
        raise OSError("no terminal")

    with (
        pytest.raises(OSError, match="no terminal"),
        watch_progress(lambda: 1, 1, report, poll_s=0.001),
    ):
        assert called.wait(5)
