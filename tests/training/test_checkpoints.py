import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.training.checkpoints import (
    PROGRESS_FILE,
    STATE_FILE,
    Progress,
    checkpoint_path,
    claim_folder,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
)

PROGRESS = Progress(epochs_done=3, best_epoch=2, best_loss=0.1)
# More than ten: by name, arr_10 would come before arr_2.
STATE = [np.full((index % 3, 2), index, np.float32) for index in range(11)] + [np.array(7)]


def save(folder, epoch, best=1):
    progress = replace(PROGRESS, epochs_done=epoch, best_epoch=best)
    return save_checkpoint(folder, [np.array(epoch)], progress, {})


def test_what_was_saved_is_loaded(tmp_path):
    path = save_checkpoint(tmp_path / "new" / "stage", STATE, PROGRESS, {"seed": 5})
    values, progress = load_checkpoint(path)
    assert progress == PROGRESS
    assert json.loads((path / "config.json").read_text()) == {"seed": 5}
    assert [value.dtype for value in values] == [value.dtype for value in STATE]
    for value, saved in zip(values, STATE, strict=True):
        np.testing.assert_array_equal(value, saved, strict=True)


@given(st.floats(allow_nan=False))
def test_a_loss_is_kept_to_its_last_bit(tmp_path_factory, loss):
    folder = tmp_path_factory.mktemp("stage")
    path = save_checkpoint(folder, [], replace(PROGRESS, best_loss=loss), {})
    assert load_checkpoint(path)[1].best_loss == loss


def test_an_epoch_saved_again_is_replaced(tmp_path):
    save_checkpoint(tmp_path, STATE, PROGRESS, {})
    path = save_checkpoint(tmp_path, [np.array(1)], replace(PROGRESS, best_loss=9.0), {})
    values, progress = load_checkpoint(path)
    assert [value.tolist() for value in values] == [1]
    assert progress.best_loss == 9
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("epochs", [[1], [1, 2, 3], [9, 10], [99, 100], [999, 1000, 998]])
def test_the_latest_is_that_of_the_highest_epoch(tmp_path, epochs):
    for epoch in epochs:
        save(tmp_path, epoch)
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, max(epochs))


def test_there_is_no_latest_where_nothing_was_saved(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("fails", ["savez", "replace"])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, fails):
    def interrupted(*args):
        raise KeyboardInterrupt

    save(tmp_path, 1)
    monkeypatch.setattr({"savez": np, "replace": os}[fails], fails, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [checkpoint_path(tmp_path, 1)]


@pytest.mark.parametrize("written", [[], [STATE_FILE], [STATE_FILE, PROGRESS_FILE]])
def test_what_a_killed_process_leaves_is_not_taken_and_goes_with_the_next(
    tmp_path, monkeypatch, written
):
    def killed(*args, **kwargs):
        raise SystemExit

    # A killed process does not clean up: what lies there before the last rename stays.
    monkeypatch.setattr("laser_dist.training.checkpoints.shutil.rmtree", lambda *a, **k: None)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit):
        save(tmp_path, 2)
    (left,) = tmp_path.iterdir()
    for path in left.iterdir():
        if path.name not in written:
            path.unlink()
    assert latest_checkpoint(tmp_path) is None
    monkeypatch.undo()
    path = save(tmp_path, 1)
    assert latest_checkpoint(tmp_path) == path
    prune(tmp_path, load_checkpoint(path)[1])
    assert list(tmp_path.iterdir()) == [path]


@given(num_epochs=st.integers(1, 6), data=st.data())
def test_the_last_and_the_best_are_kept(tmp_path_factory, num_epochs, data):
    best = data.draw(st.integers(1, num_epochs))
    folder = tmp_path_factory.mktemp("stage")
    for epoch in range(1, num_epochs + 1):
        save(folder, epoch)
    prune(folder, replace(PROGRESS, epochs_done=num_epochs, best_epoch=best))
    kept = {checkpoint_path(folder, epoch) for epoch in (best, num_epochs)}
    assert set(folder.iterdir()) == kept
    for epoch in (best, num_epochs):
        assert load_checkpoint(checkpoint_path(folder, epoch))[0] == [epoch]


def test_checkpoints_of_another_key_are_not_gone_on_with(tmp_path):
    folder = tmp_path / "stage"
    claim_folder(folder, "a")
    progress = Progress(epochs_done=1, best_epoch=1, best_loss=0.5)
    save_checkpoint(folder, [np.zeros(2)], progress, {})
    claim_folder(folder, "a")
    assert latest_checkpoint(folder) is not None
    claim_folder(folder, "b")
    assert latest_checkpoint(folder) is None
    save_checkpoint(folder, [np.zeros(2)], progress, {})
    (folder / "key").unlink()  # whose they are is not known
    claim_folder(folder, "b")
    assert latest_checkpoint(folder) is None
