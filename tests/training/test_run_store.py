"""Where a run is kept: a folder, or a bucket that two machines know through copies of their own."""

from dataclasses import replace

import numpy as np
import pytest
from training_fakes import context, linear_stage

from laser_dist.errors import UserError
from laser_dist.training.learning.loop import train_stage
from laser_dist.training.storage.checkpoints import claim_folder, latest_checkpoint
from laser_dist.training.storage.logs import METRICS_FOLDER, RunLog
from laser_dist.training.storage.run_store import RunStore

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(7, 3))
LEVELS = FEATURES @ RNG.normal(size=(3, 2))


@pytest.fixture(params=["folder", "s3", "gs"])
def machines(request, tmp_path, monkeypatch):
    """Two machines' views of one run's place."""
    if request.param == "folder":
        return RunStore(str(tmp_path / "run")), RunStore(str(tmp_path / "run"))
    url = request.getfixturevalue(request.param).url(tmp_path.name)
    stores = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr("tempfile.gettempdir", lambda name=name: str(tmp_path / name))
        store = RunStore(url)
        store.local.mkdir(parents=True)
        stores.append(store)
    assert stores[0].local != stores[1].local
    return tuple(stores)


def put(store, name, text):
    path = store.local / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    store.push(path)


def test_what_one_machine_pushes_another_fetches(machines):
    one, two = machines
    assert not two.fetch(two.local / "models" / "a.keras")
    put(one, "models/a.keras", "first")
    assert two.fetch(two.local / "models" / "a.keras")
    assert (two.local / "models" / "a.keras").read_text() == "first"
    put(one, "models/a.keras", "other")  # of the same size
    assert two.fetch(two.local / "models" / "a.keras")
    assert (two.local / "models" / "a.keras").read_text() == "other"


def test_a_folder_becomes_what_the_store_has_of_it(machines):
    one, two = machines
    put(one, "models/a.keras", "a")
    put(one, "models/b.keras", "b")
    two.fetch_all(two.local / "models")
    one.remove(one.local / "models" / "a.keras")
    put(one, "models/c.keras", "c")
    two.fetch_all(two.local / "models", exactly=True)
    names = ["b.keras", "c.keras"]
    assert sorted(path.name for path in (two.local / "models").iterdir()) == names
    assert two.names(two.local / "models") == names
    assert two.names(two.local / "none") == []


def test_workers_of_one_machine_leave_each_others_files_alone(machines):
    one, two = machines
    put(one, "models/a.keras", "a")
    mine = two.local / "models" / ".b.keras.1.unfinished"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("half")
    two.fetch_all(two.local / "models")
    assert mine.read_text() == "half"
    assert (two.local / "models" / "a.keras").read_text() == "a"


def test_a_folder_is_removed_with_all_in_it(machines):
    one, two = machines
    put(one, "features/x/part", "1")
    put(one, "features/y/part", "2")
    two.remove(two.local / "features" / "x")
    assert one.names(one.local / "features") == ["y"]
    two.remove(two.local / "features" / "x")  # gone already


def test_a_training_is_resumed_on_another_machine(machines, caplog):
    caplog.set_level("INFO")
    one, two = machines

    def stage():
        return linear_stage(
            np.zeros((3, 2), np.float32), FEATURES, LEVELS, epochs=3, learning_rate=0.05
        )

    def at(store):
        log = RunLog(store, is_chief=True)
        return replace(context(store.local), store=store, log=log, checkpoint_every_steps=3)

    class Stopped(Exception):
        pass

    class Breaking:
        def __init__(self, batches):
            self.batches = batches

        def epoch(self, index, start=0):
            for step, batch in enumerate(self.batches.epoch(index, start), start=start):
                if (index, step) == (2, 3):
                    raise Stopped
                yield batch

    unbroken = stage()
    progress = train_stage(unbroken, context(one.local.parent / "unbroken"))
    claim_folder(one, one.local / "checkpoints" / "tiny", "key")
    broken = stage()
    with pytest.raises(Stopped):
        train_stage(replace(broken, training=Breaking(broken.training)), at(one))
    claim_folder(two, two.local / "checkpoints" / "tiny", "key")
    name = latest_checkpoint(two, two.local / "checkpoints" / "tiny").name
    assert name == "epoch-001-step-000002.npz"  # 6 of 4 steps an epoch
    resumed = stage()
    where = at(two)
    assert train_stage(resumed, where) == progress
    for ours, theirs in zip(resumed.model.get_weights(), unbroken.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert one.fetch(one.local / METRICS_FOLDER / "tiny.csv")
    epochs = (one.local / METRICS_FOLDER / "tiny.csv").read_text().count(",val_loss,")
    assert epochs == 3
    assert "tiny: resumed after epoch 1, step 2" in caplog.messages


def test_a_bucket_that_is_not_there_is_told_before_any_work(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"The bucket of s3://nobody/runs.* does not exist"):
        RunStore(s3.url("runs").replace("bucket", "nobody")).check_writable()
    RunStore(s3.url("runs")).check_writable()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write to .*/file/run: "):
        RunStore(str(tmp_path / "file" / "run")).check_writable()
