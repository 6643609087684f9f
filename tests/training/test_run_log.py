import csv
import json

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laser_dist.storage.run_files import RunFiles
from laser_dist.training.storage import logs
from laser_dist.training.storage.logs import METRICS_FOLDER, TENSORBOARD_FOLDER, RunLog, events_path


def rows(run_dir):
    found = []
    for path in sorted((run_dir / METRICS_FOLDER).glob("*.csv")):
        with path.open(newline="") as file:
            found += csv.DictReader(file)
    return found


def events(run_dir):
    return [json.loads(line) for line in events_path(run_dir, "events").read_text().splitlines()]


def test_every_metric_of_an_epoch_is_a_row(tmp_path):
    log = RunLog(RunFiles(str(tmp_path)), is_chief=True)
    log.epoch("image", 1, {"loss": 12.5, "val_loss": 1e-9})
    log.epoch("image", 2, {"loss": 11.0})
    assert rows(tmp_path) == [
        {"stage": "image", "epoch": "1", "metric": "loss", "value": "12.5"},
        {"stage": "image", "epoch": "1", "metric": "val_loss", "value": "1e-09"},
        {"stage": "image", "epoch": "2", "metric": "loss", "value": "11"},
    ]


def test_a_later_attempt_replaces_only_the_metrics_of_its_own_epochs(tmp_path):
    first = RunLog(RunFiles(str(tmp_path)), is_chief=True)
    for stage in ("image", "jnd1"):
        for epoch in (1, 2, 10):
            first.epoch(stage, epoch, {"loss": epoch})
    RunLog(RunFiles(str(tmp_path)), is_chief=True).epoch("jnd1", 2, {"loss": 20})
    logged = [(row["stage"], row["epoch"], row["value"]) for row in rows(tmp_path)]
    unchanged = [
        ("image", "1", "1"),
        ("image", "2", "2"),
        ("image", "10", "10"),
        ("jnd1", "1", "1"),
    ]
    assert logged == [*unchanged, ("jnd1", "2", "20")]
    assert not list((tmp_path / METRICS_FOLDER).glob("*.unfinished"))


def test_tensorboard_reads_the_same_metrics(tmp_path):
    log = RunLog(RunFiles(str(tmp_path)), is_chief=True)
    log.epoch("image", 1, {"loss": 12.5})
    log.epoch("image", 2, {"loss": 11.0})
    accumulator = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER / "image")).Reload()
    assert accumulator.Tags()["tensors"] == ["loss"]
    values = [
        (each.step, tf.make_ndarray(each.tensor_proto)) for each in accumulator.Tensors("loss")
    ]
    assert values == [(1, 12.5), (2, 11.0)]


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
    log.epoch("image", 1, {"loss": 1.0})
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
