import json
import os
import threading
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.errors import UserError
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.storage.checkpoints import (
    CheckpointWriter,
    DamagedCheckpointError,
    Progress,
    best_path,
    checkpoint_path,
    claim_folder,
    intact_checkpoint,
    latest_checkpoint,
    load_best,
    load_checkpoint,
    prune,
    save_checkpoint,
)

pytestmark = pytest.mark.slow

PROGRESS = Progress(
    epochs_done=3, best_epoch=2, best_loss=0.1, steps_done=4, sums={"loss": (0.1 + 0.2, 7.0)}
)
STATE = {
    "model/dense/kernel": np.float32([[1, 2], [3, 4]]),
    "model/dense/bias": np.zeros(0, np.float32),
    "optimizer/iteration": np.array(7),
}


@pytest.fixture
def store(tmp_path):
    return RunFiles(str(tmp_path))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints" / "stage"


def save(store, folder, epoch, step=0, best=1):
    progress = replace(PROGRESS, epochs_done=epoch, steps_done=step, best_epoch=best)
    position = {"position": np.array([epoch, step])}
    return save_checkpoint(store, folder, position, progress, {}, best=weights_of(best))


def states(folder):
    """Return the complete checkpoints; all else in the folder are weights of best epochs."""
    found = sorted(folder.iterdir())
    return [path for path in found if not path.name.startswith("best-")]


def weights_of(epoch):
    return {"model/weight": np.array([epoch], np.float32)} if epoch else None


def assert_state(values):
    assert values.keys() == STATE.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(value, STATE[name], strict=True)


def test_a_saved_checkpoint_is_loaded(store, folder):
    path = save_checkpoint(store, folder, STATE, PROGRESS, {"seed": 5})
    values, progress = load_checkpoint(path)
    assert progress == PROGRESS
    with np.load(path, allow_pickle=False) as state:
        assert json.loads(str(state["about"]))["config"] == {"seed": 5}
    assert_state(values)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False, allow_infinity=False))
def test_losses_are_stored_bit_for_bit(tmp_path_factory, loss, total):
    folder = tmp_path_factory.mktemp("stage")
    progress = replace(PROGRESS, best_loss=loss, sums={"loss": (total, 3.0)})
    path = save_checkpoint(RunFiles(str(folder)), folder, {}, progress, {})
    assert load_checkpoint(path)[1] == progress


def test_saving_again_replaces_the_checkpoint(store, folder):
    save_checkpoint(store, folder, STATE, PROGRESS, {})
    changed = replace(PROGRESS, best_loss=9.0)
    path = save_checkpoint(store, folder, {"other": np.array(1)}, changed, {})
    values, progress = load_checkpoint(path)
    assert values == {"other": 1}
    assert progress.best_loss == 9
    assert states(folder) == [path]


@pytest.mark.parametrize(
    "positions",
    [
        [(1, 0)],
        [(0, 5), (1, 0)],
        [(9, 0), (10, 0), (9, 999)],
        [(99, 10), (99, 9)],
        [(999, 0), (1000, 0), (998, 0)],
        [(1, 1_000_000), (1, 999_999)],
    ],
)
def test_the_latest_checkpoint_has_the_most_steps(store, folder, positions):
    for epoch, step in positions:
        save(store, folder, epoch, step)
    latest = latest_checkpoint(store, folder)
    assert latest == checkpoint_path(folder, *max(positions))
    assert load_checkpoint(latest)[0]["position"].tolist() == list(max(positions))


def test_an_empty_folder_has_no_latest_checkpoint(store, folder):
    assert latest_checkpoint(store, folder) is None
    claim_folder(store, folder, "key")
    assert latest_checkpoint(store, folder) is None


@pytest.mark.parametrize("fails", ["savez", "replace"])
def test_a_failed_write_leaves_no_file(store, folder, monkeypatch, fails):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    first = save(store, folder, 1)
    monkeypatch.setattr({"savez": np, "replace": os}[fails], fails, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(store, folder, 2)
    assert states(folder) == [first]


def test_an_unfinished_file_of_a_killed_process_is_ignored_and_removed(store, folder):
    folder.mkdir(parents=True)
    (folder / ".epoch-001.1.unfinished.npz").write_bytes(b"half")
    assert latest_checkpoint(store, folder) is None
    path = save(store, folder, 1)
    assert latest_checkpoint(store, folder) == path
    prune(store, folder, load_checkpoint(path)[1])
    assert states(folder) == [path]


@given(
    positions=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1), data=st.data()
)
def test_the_last_and_the_best_checkpoint_are_retained(tmp_path_factory, positions, data):
    folder = tmp_path_factory.mktemp("stage")
    store = RunFiles(str(folder))
    best = data.draw(st.integers(0, 5))
    for epoch, step in positions:
        save(store, folder, epoch, step)
    last = max(positions)
    progress = replace(PROGRESS, epochs_done=last[0], steps_done=last[1], best_epoch=best)
    save_checkpoint(store, folder, {}, progress, {}, best=weights_of(best))
    prune(store, folder, progress)
    weights = {best_path(folder, best)} if best else set()
    assert set(folder.iterdir()) == {checkpoint_path(folder, *last)} | weights


def test_what_another_checkpoint_needs_is_retained_too(store, folder):
    for epoch in range(1, 6):
        save(store, folder, epoch, best=epoch)
    steps = [
        replace(PROGRESS, epochs_done=n, steps_done=0, best_epoch=b) for n, b in ((4, 2), (5, 5))
    ]
    prune(store, folder, *steps)
    assert {path.name for path in folder.iterdir()} == {
        "epoch-004.npz", "epoch-005.npz", "best-002.npz", "best-005.npz",
    }  # fmt: skip


def test_no_altered_byte_of_a_checkpoint_is_believed(store, folder):
    path = save_checkpoint(store, folder, STATE, PROGRESS, {})
    content = path.read_bytes()
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 1 << position % 8
        path.write_bytes(altered)
        try:
            values, progress = load_checkpoint(path)
        except DamagedCheckpointError:
            continue
        # Dates, for example, have no checksum, and no meaning.
        assert progress == PROGRESS
        assert_state(values)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_cut_checkpoint_is_named_and_the_one_before_is_resumed(machines, caplog, share):
    writer, reader = machines
    folder = writer.local / "checkpoints" / "stage"
    for epoch in (1, 2, 3):
        path = save(writer, folder, epoch)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    writer.push(path)
    found = intact_checkpoint(reader, reader.local / "checkpoints" / "stage")
    assert found.name == "epoch-002.npz"
    assert load_checkpoint(found)[0]["position"].tolist() == [2, 0]
    (warning,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert warning.startswith("stage: epoch-003.npz is skipped.")


def test_a_checkpoint_is_skipped_if_the_best_one_before_it_is_damaged_or_missing(
    store, folder, caplog
):
    save(store, folder, 1)
    save(store, folder, 2, best=2)
    save(store, folder, 3, best=2)
    second = best_path(folder, 2)
    assert intact_checkpoint(store, folder).name == "epoch-003.npz"
    second.write_bytes(second.read_bytes()[:-1])
    assert intact_checkpoint(store, folder).name == "epoch-001.npz"
    assert [text.split(" is skipped")[0] for text in caplog.messages] == [
        "stage: epoch-003.npz", "stage: epoch-002.npz",
    ]  # fmt: skip
    second.unlink()
    assert intact_checkpoint(store, folder).name == "epoch-001.npz"
    assert f"Checkpoint {second} is missing." in caplog.text


def test_a_disk_that_fails_is_no_damaged_checkpoint(store, folder, monkeypatch):
    path = save(store, folder, 1)

    def failing(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("zipfile.ZipFile.testzip", failing)
    with pytest.raises(OSError, match="Input/output error"):
        load_checkpoint(path)


def test_checkpoints_of_another_key_are_not_resumed(store, folder):
    claim_folder(store, folder, "a")
    save(store, folder, 1)
    claim_folder(store, folder, "a")
    assert latest_checkpoint(store, folder) is not None
    claim_folder(store, folder, "b")
    assert latest_checkpoint(store, folder) is None
    save(store, folder, 1)
    (folder / "key").unlink()  # the key of the checkpoints is unknown
    claim_folder(store, folder, "b")
    assert latest_checkpoint(store, folder) is None


def test_full_storage_stops_the_run_and_names_the_last_checkpoint(store, folder, monkeypatch):
    first = save(store, folder, 1)
    before = first.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"No space left .* complete checkpoint is epoch-001"):
        save(store, folder, 1, step=3)
    assert states(folder) == [first]
    assert first.read_bytes() == before


def test_a_transient_write_error_is_retried(folder, monkeypatch, caplog):
    failures = iter([OSError(5, "Input/output error")] * 3)
    real = os.replace

    def failing(*args):
        error = next(failures, None)
        if error:
            raise error
        real(*args)

    monkeypatch.setattr("laser_dist.storage.retries.PAUSES_S", (0,) * 5)
    monkeypatch.setattr(os, "replace", failing)
    path = save(RunFiles(str(folder.parent)), folder, 1)
    assert latest_checkpoint(RunFiles(str(folder.parent)), folder) == path
    assert states(folder) == [path]
    assert len(caplog.messages) == 3
    assert all("Input/output error" in line for line in caplog.messages)


def test_a_checkpoint_of_another_version_of_a_package_is_resumed_with_a_warning(
    store, folder, monkeypatch, caplog
):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "1.2.3" if n == "tensorflow" else real(n))
    path = save(store, folder, 1)
    monkeypatch.undo()
    assert load_checkpoint(path)[1].epochs_done == 1
    (warning,) = caplog.messages
    assert warning.startswith("epoch-001.npz was written with tensorflow 1.2.3, and is resumed")
    assert real("tensorflow") in warning


class Slow:
    """Variables that are copied when they may be."""

    def __init__(self, values):
        self.values, self.may_be_copied = values, threading.Event()

    def __call__(self):
        assert self.may_be_copied.wait(60)
        return self.values


def position(epoch, best):
    return replace(PROGRESS, epochs_done=epoch, steps_done=0, best_epoch=best)


def test_a_checkpoint_is_written_while_the_caller_goes_on(store, folder):
    writer = CheckpointWriter(store, folder, {}, position(0, best=0))
    slow = Slow({"position": np.array(1)})
    writer.save(slow, lambda: weights_of(1), position(1, best=1))
    writer.check()
    assert latest_checkpoint(store, folder) is None
    slow.may_be_copied.set()
    writer.finish()
    writer.close()
    assert latest_checkpoint(store, folder).name == "epoch-001.npz"
    assert load_best(folder, 1) == weights_of(1)


def test_the_best_weights_are_written_once(store, folder):
    def fail():
        raise AssertionError("they are stored already")

    writer = CheckpointWriter(store, folder, {}, position(0, best=0))
    for epoch in (1, 2, 3):
        best = (lambda: weights_of(1)) if epoch == 1 else fail
        writer.save(lambda: {}, best, position(epoch, best=1))
    writer.finish()
    writer.close()
    assert {path.name for path in folder.iterdir()} == {
        "epoch-002.npz", "epoch-003.npz", "best-001.npz",
    }  # fmt: skip


@pytest.mark.parametrize("ask", [CheckpointWriter.check, CheckpointWriter.finish])
def test_the_error_of_a_checkpoint_that_cannot_be_written_reaches_the_caller(
    store, folder, monkeypatch, ask
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    writer = CheckpointWriter(store, folder, {}, position(0, best=0))
    writer.save(lambda: {}, lambda: weights_of(1), position(1, best=1))
    writer.close()
    with pytest.raises(UserError, match="No space left"):
        ask(writer)
