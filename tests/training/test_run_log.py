import json

import pytest

from laser_dist.storage.run_files import RunFiles
from laser_dist.training.storage import logs
from laser_dist.training.storage.logs import EventReader, RunLog, events_path


def events(run_dir):
    return [json.loads(line) for line in events_path(run_dir, "events").read_text().splitlines()]


def test_events_are_appended_in_order_with_their_time(tmp_path):
    RunLog(RunFiles(str(tmp_path)), is_chief=True).event("stage", stage="image", epochs=2)
    RunLog(RunFiles(str(tmp_path)), is_chief=True).event("note", text="two\nlines")
    first, second = events(tmp_path)
    assert first == {"kind": "stage", "time": first["time"], "stage": "image", "epochs": 2}
    assert second == {"kind": "note", "time": second["time"], "text": "two\nlines"}
    assert 0 < first["time"] <= second["time"]


@pytest.mark.parametrize(("interval_s", "logged"), [(0.125, [1, 5, 9]), (0.5, list(range(1, 10)))])
def test_steps_are_logged_at_most_twice_a_second(tmp_path, monkeypatch, interval_s, logged):
    log = RunLog(RunFiles(str(tmp_path)), is_chief=True)
    for number in range(1, 10):
        monkeypatch.setattr(logs.time, "monotonic", lambda now=1000 + number * interval_s: now)
        log.step(step=number)
    assert [event["step"] for event in events(tmp_path)] == logged
    assert {event["kind"] for event in events(tmp_path)} == {"step"}


def test_only_the_chief_writes(tmp_path):
    log = RunLog(RunFiles(str(tmp_path)), is_chief=False)
    log.event("note", text="x")
    log.step(step=1)
    assert not list(tmp_path.iterdir())


def test_progress_can_also_be_printed(tmp_path, caplog):
    caplog.set_level("INFO", logger="laser_jnd_progress")
    log = RunLog(RunFiles(str(tmp_path)), is_chief=True, prints=True)
    log.event("stage", stage="image", epochs=2, steps=5)
    log.event("step", stage="image", epoch=1, step=1)
    metrics = {"loss": 12.34567, "val_loss": 9.0, "seconds": 61.7}
    log.event("epoch", stage="image", epoch=1, metrics=metrics)
    log.event("note", text="features of train")
    log.event("done", stage="image", checkpoint_seconds=0.5)
    assert caplog.messages == [
        "image: 2 epochs of 5 steps",
        "image: epoch 1, loss 12.35, validation 9, 62 s",
        "features of train",
        "image: done",
    ]
    assert len(events(tmp_path)) == 5


def test_an_incomplete_line_of_a_killed_worker_affects_no_other_line(tmp_path):
    RunLog(RunFiles(str(tmp_path)), is_chief=True).event("note", text="one")
    path = events_path(tmp_path, "events")
    path.write_bytes(path.read_bytes() + b'{"kind": "no')
    RunLog(RunFiles(str(tmp_path)), is_chief=True).event("note", text="two")
    first, half, second = path.read_text().splitlines()
    assert [json.loads(first)["text"], json.loads(second)["text"]] == ["one", "two"]
    assert half == '{"kind": "no'


def test_a_reader_returns_each_later_event_once(tmp_path):
    store = RunFiles(str(tmp_path))
    RunLog(store, is_chief=True).event("note", text="earlier attempt")
    reader = EventReader(tmp_path)
    assert reader.read() == []
    for name in ("events", "jnd1"):  # the second file is new
        RunLog(store, is_chief=True, name=name).event("note", text=name)
    assert sorted(event["text"] for event in reader.read()) == ["events", "jnd1"]
    assert reader.read() == []


def test_a_reader_waits_for_the_rest_of_a_line_and_skips_damaged_ones(tmp_path):
    RunLog(RunFiles(str(tmp_path)), is_chief=True)
    path = events_path(tmp_path, "events")
    reader = EventReader(tmp_path)
    for added, expected in [
        (b'{"kind": "no\n{"kind": "note", "te', []),
        (b'xt": "whole"}\n', [{"kind": "note", "text": "whole"}]),
    ]:
        path.write_bytes(path.read_bytes() + added if path.exists() else added)
        assert reader.read() == expected


def test_a_reader_of_a_run_without_events_finds_none(tmp_path):
    assert EventReader(tmp_path / "run").read() == []
