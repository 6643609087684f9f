"""Resuming a training on another machine, from a folder or a bucket."""

from dataclasses import replace

import numpy as np
import pytest
from training_fakes import context, linear_stage

from laser_dist.training.config import CheckpointInterval
from laser_dist.training.learning.callbacks import CsvLogger
from laser_dist.training.learning.loop import train_stage
from laser_dist.training.storage.checkpoints import claim_folder, latest_checkpoint
from laser_dist.training.storage.logs import METRICS_FOLDER, RunLog

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(7, 3))
LEVELS = FEATURES @ RNG.normal(size=(3, 2))


def test_a_training_is_resumed_on_another_machine(machines, caplog):
    caplog.set_level("INFO")
    one, two = machines

    def stage():
        return linear_stage(
            np.zeros((3, 2), np.float32), FEATURES, LEVELS, epochs=3, learning_rate=0.05
        )

    def at(store):
        log, every = RunLog(store, is_chief=True), CheckpointInterval(steps=3, epochs=1)
        return replace(
            context(store.local),
            store=store,
            log=log,
            callbacks=(CsvLogger(store),),
            checkpoint_interval=every,
        )

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

    uninterrupted = stage()
    progress = train_stage(uninterrupted, context(one.local.parent / "uninterrupted"))
    claim_folder(one, one.local / "checkpoints" / "tiny", "key")
    broken = stage()
    with pytest.raises(Stopped):
        train_stage(replace(broken, training=Breaking(broken.training)), at(one))
    claim_folder(two, two.local / "checkpoints" / "tiny", "key")
    name = latest_checkpoint(two, two.local / "checkpoints" / "tiny").name
    assert name == "epoch-001-step-000002.npz"  # step 6, with 4 steps per epoch
    resumed = stage()
    assert train_stage(resumed, at(two)) == progress
    for actual, expected in zip(
        resumed.model.get_weights(), uninterrupted.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    assert one.fetch(one.local / METRICS_FOLDER / "tiny.csv")
    epochs = (one.local / METRICS_FOLDER / "tiny.csv").read_text().count(",val_loss,")
    assert epochs == 3
    assert "tiny: resumed after epoch 1, step 2" in caplog.messages
