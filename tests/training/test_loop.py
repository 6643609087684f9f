import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from training_fakes import context, linear_stage

from laser_dist.errors import UserError
from laser_dist.training.learning.loop import train_stage
from laser_dist.training.storage.logs import METRICS_FOLDER, events_path

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(7, 3))
LEVELS = FEATURES @ RNG.normal(size=(3, 2)) + 0.1 * RNG.normal(size=(7, 2))
SHARES = {"input_wait", "checkpoint", "compute"}
TIMES = {"seconds", "training_seconds", "samples_per_second"} | SHARES
START = np.zeros((3, 2), np.float32)


class Interrupted(Exception):
    """What ends a training in a test."""


class Breaking:
    """Batches that break off, or lose a value, at one step (from 1) of one epoch."""

    def __init__(self, batches, epoch, step, value=None):
        self.batches, self.place, self.value = batches, (epoch, step), value

    def epoch(self, index, start=0):
        for step, batch in enumerate(self.batches.epoch(index, start), start=start + 1):
            if (index, step) != self.place:
                yield batch
            elif self.value is None:
                raise Interrupted
            else:
                lost = "inputs" if math.isnan(self.value) else "targets"  # there NaN is a gap
                yield replace(batch, **{lost: np.full_like(getattr(batch, lost), self.value)})


def noisy_stage(start=START, **changes):
    settings = {"epochs": 4, "learning_rate": 0.05, "schedule": "cosine"} | changes
    return linear_stage(start, FEATURES, LEVELS, **settings)


def figures(run_dir):
    """As logged, but for the times."""
    with (run_dir / METRICS_FOLDER / "tiny.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if row[2] not in TIMES]


def interrupt(stage, run_dir, epoch, step):
    with pytest.raises(Interrupted):
        train_stage(
            replace(stage, training=Breaking(stage.training, epoch, step)), context(run_dir)
        )


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_training_ends_bit_for_bit_where_an_unbroken_one_does(tmp_path, schedule):
    unbroken = noisy_stage(schedule=schedule)
    progress = train_stage(unbroken, context(tmp_path / "unbroken"))
    # Broken off before there is a checkpoint, within the third epoch and as the fourth begins.
    interrupt(noisy_stage(schedule=schedule), tmp_path / "broken", epoch=1, step=2)
    interrupt(noisy_stage(schedule=schedule), tmp_path / "broken", epoch=3, step=3)
    # What a later attempt starts with does not count.
    interrupt(noisy_stage(START + 1, schedule=schedule), tmp_path / "broken", epoch=4, step=1)
    resumed = noisy_stage(START + 2, schedule=schedule)
    assert train_stage(resumed, context(tmp_path / "broken")) == progress
    assert progress.epochs_done == 4
    for ours, theirs in zip(resumed.model.get_weights(), unbroken.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert figures(tmp_path / "broken") == figures(tmp_path / "unbroken")


def within_epochs(run_dir, every=3):
    """A place that saves within epochs too: of four steps each, mostly not at an epoch's end."""
    return replace(context(run_dir), checkpoint_every_steps=every)


@pytest.mark.parametrize("every", [1, 3, 4])
@pytest.mark.parametrize("broken", [(1, 4), (2, 3), (3, 1), (4, 4)])
def test_a_training_broken_off_within_an_epoch_ends_where_an_unbroken_one_does(
    tmp_path, every, broken
):
    unbroken = noisy_stage()
    progress = train_stage(unbroken, within_epochs(tmp_path / "unbroken", every))
    stage = noisy_stage()
    breaking = replace(stage, training=Breaking(stage.training, *broken))
    with pytest.raises(Interrupted):
        train_stage(breaking, within_epochs(tmp_path / "broken", every))
    # No step before the last checkpoint is repeated.
    done = 4 * (broken[0] - 1) + broken[1] - 1
    saved = max(step for step in range(done + 1) if step % every == 0 or step % 4 == 0)
    seen = []
    resumed = noisy_stage(START + 1 if saved else START)
    watched = replace(resumed, training=Watched(resumed.training, seen))
    assert train_stage(watched, within_epochs(tmp_path / "broken", every)) == progress
    assert seen == list(range(saved, 16))
    for ours, theirs in zip(resumed.model.get_weights(), unbroken.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert figures(tmp_path / "broken") == figures(tmp_path / "unbroken")


class Watched:
    """Batches that note which of all steps (from 0, of four an epoch) are taken."""

    def __init__(self, batches, seen):
        self.batches, self.seen = batches, seen

    def epoch(self, index, start=0):
        for step, batch in enumerate(self.batches.epoch(index, start), start=start):
            self.seen.append(4 * (index - 1) + step)
            yield batch


def test_how_often_it_is_saved_changes_nothing_that_is_learned(tmp_path):
    often, seldom = noisy_stage(), noisy_stage()
    train_stage(often, within_epochs(tmp_path / "often", 1))
    train_stage(seldom, context(tmp_path / "seldom"))
    for ours, theirs in zip(often.model.get_weights(), seldom.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kept = {path.name for path in (tmp_path / "often" / "checkpoints" / "tiny").iterdir()}
    assert kept <= {f"epoch-{epoch:03d}.npz" for epoch in range(1, 5)}


def test_the_event_at_the_end_of_a_stage_has_the_time_of_its_last_checkpoint(tmp_path):
    train_stage(noisy_stage(), context(tmp_path))
    last = json.loads(events_path(tmp_path, "events").read_text().splitlines()[-1])
    assert last["kind"] == "done"
    assert last["checkpoint_seconds"] > 0


def test_out_of_memory_names_the_device_and_the_setting_to_lower(tmp_path):
    class Full:
        def epoch(self, index, start=0):
            message = "OOM when allocating tensor on /job:localhost/device:GPU:1 by allocator"
            raise tf.errors.ResourceExhaustedError(None, None, message)

    stage = replace(noisy_stage(), training=Full(), settings_name="joint")
    with pytest.raises(UserError) as caught:
        train_stage(stage, context(tmp_path))
    assert caught.value.message.startswith("GPU:1 on ")
    assert caught.value.message.endswith("for stage tiny: 2 of 2 examples per step.")
    assert caught.value.hint.startswith("Lower joint.batch_size")


def rising_stage(epochs=4):
    """One weight that rises from 0 by about 0.1 an epoch, and is right at 0.2, after two.

    Its gradient is -1 throughout, so each of Adam's steps is as long as the learning rate.
    """
    return linear_stage(
        [[0.0]],
        [[1.0], [1.0]],
        [[10.0], [10.0]],
        validation=([[1.0]], [[0.2]]),
        epochs=epochs,
        learning_rate=0.1,
    )


@pytest.mark.parametrize(("epochs", "best"), [(1, 1), (2, 2), (4, 2)])
def test_the_best_epochs_weights_are_left_in_the_model(tmp_path, epochs, best):
    stage = rising_stage(epochs)
    progress = train_stage(stage, context(tmp_path))
    weight = stage.model.get_weights()[0].item()
    assert weight == pytest.approx(0.1 * best, abs=1e-5)
    assert (progress.epochs_done, progress.best_epoch) == (epochs, best)
    assert progress.best_loss == pytest.approx(abs(weight - 0.2), abs=1e-6)
    kept = {path.name for path in (tmp_path / "checkpoints" / "tiny").iterdir()}
    assert kept == {f"epoch-{best:03d}.npz", f"epoch-{epochs:03d}.npz"}


def test_a_finished_stage_is_not_trained_again(tmp_path):
    first = train_stage(rising_stage(), context(tmp_path))
    stage = rising_stage()
    told = []
    assert train_stage(stage, context(tmp_path, after_epoch=told.append)) == first
    assert told == []
    assert stage.model.get_weights()[0].item() == pytest.approx(0.2, abs=1e-5)


def test_figures_are_means_over_examples_of_unequal_batches(tmp_path):
    # At so low a rate the weights stay: before and after the epoch 7 examples are off by their
    # levels, in batches of 2, 2, 2 and 1.
    told = []
    stage = noisy_stage(epochs=1, learning_rate=1e-12)
    train_stage(stage, context(tmp_path, after_epoch=told.append))
    errors = np.abs(LEVELS)
    expected = {"loss": errors.mean(), "jnd1": errors[:, 0].mean(), "jnd2": errors[:, 1].mean()}
    (figures_of_epoch,) = told
    times = {name: figures_of_epoch.pop(name) for name in TIMES}
    assert times["seconds"] > 0
    assert times["samples_per_second"] > 0
    assert sum(times[name] for name in SHARES) == pytest.approx(1)
    both = expected | {f"val_{name}": value for name, value in expected.items()}
    assert figures_of_epoch == pytest.approx(both, rel=1e-5)


def test_figures_leave_out_the_levels_that_are_missing(tmp_path):
    told = []
    levels = np.array(LEVELS)
    levels[:4, 1] = levels[5, 0] = np.nan
    levels[6] = np.nan  # no example at all
    stage = linear_stage(START, FEATURES, levels, epochs=1, learning_rate=1e-12)
    train_stage(stage, context(tmp_path, after_epoch=told.append))
    errors = np.abs(levels[:6])
    expected = {
        "loss": np.mean([*errors[:4, 0], errors[4].mean(), errors[5, 1]]),
        "jnd1": np.mean(errors[[0, 1, 2, 3, 4], 0]),
        "jnd2": np.mean(errors[[4, 5], 1]),
    }
    (figures_of_epoch,) = told
    for name, value in expected.items():
        assert figures_of_epoch[name] == pytest.approx(value, rel=1e-5)
        assert figures_of_epoch[f"val_{name}"] == pytest.approx(value, rel=1e-5)


def test_a_level_that_no_example_of_an_epoch_has_has_no_figure(tmp_path):
    told = []
    levels = np.where([True, False], LEVELS, np.nan)
    stage = linear_stage(START, FEATURES, levels, epochs=2, learning_rate=0.05)
    train_stage(stage, context(tmp_path, after_epoch=told.append))
    assert told[1].keys() == {"loss", "jnd1", "val_loss", "val_jnd1", *TIMES}

    # Nothing was learned of the other level: not a bit of its weights has moved, and none is NaN.
    weights = stage.model.get_weights()[0]
    np.testing.assert_array_equal(weights[:, 1], START[:, 1])
    assert (weights[:, 0] != START[:, 0]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_loss_that_is_no_number_ends_it_with_stage_and_step(tmp_path, value):
    stage = noisy_stage()
    stage = replace(stage, training=Breaking(stage.training, 2, 3, value))
    with pytest.raises(
        FloatingPointError, match=f"Stage tiny, epoch 2, step 3: the loss is {value}"
    ):
        train_stage(stage, context(tmp_path))
    kept = [path.name for path in (tmp_path / "checkpoints" / "tiny").iterdir()]
    assert kept == ["epoch-001.npz"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_no_number_ends_it_with_stage_and_epoch(tmp_path, value):
    stage = noisy_stage()
    stage = replace(stage, validation=Breaking(stage.validation, 0, 1, value))
    with pytest.raises(
        FloatingPointError, match=f"Stage tiny, epoch 1, validation: the loss is {value}"
    ):
        train_stage(stage, context(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_a_stage_ends_early_when_validation_no_longer_improves(tmp_path):
    stage = rising_stage(epochs=50)
    stage = replace(stage, settings=replace(stage.settings, patience=3))
    progress = train_stage(stage, context(tmp_path))
    assert (progress.best_epoch, progress.epochs_done) == (2, 5)
    assert train_stage(stage, context(tmp_path)) == progress


def test_on_a_plateau_the_rate_is_halved_also_in_a_resumed_training(tmp_path):
    def stage():
        made = rising_stage(epochs=12)
        return replace(made, settings=replace(made.settings, schedule="plateau"))

    unbroken = stage()
    weights = []
    train_stage(
        unbroken,
        context(
            tmp_path / "a",
            after_epoch=lambda _: weights.append(unbroken.model.get_weights()[0].item()),
        ),
    )
    # The best epoch is the second, so the rate falls after the seventh: 0.1 an epoch, then 0.05.
    np.testing.assert_allclose(np.diff(weights)[:6], 0.1, rtol=0.01)
    np.testing.assert_allclose(np.diff(weights)[6:], 0.05, rtol=0.01)
    interrupt(stage(), tmp_path / "b", epoch=9, step=1)
    again = []
    resumed = stage()
    train_stage(
        resumed,
        context(
            tmp_path / "b",
            after_epoch=lambda _: again.append(resumed.model.get_weights()[0].item()),
        ),
    )
    assert again == weights[8:]


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(tmp_path):
    stage = noisy_stage()
    broken = replace(stage, training=Breaking(stage.training, 3, 2, math.nan))
    with pytest.raises(FloatingPointError) as caught:
        train_stage(broken, context(tmp_path))
    kept = tmp_path / "checkpoints" / "tiny" / "epoch-002.npz"
    assert "Stage tiny, epoch 3, step 2" in str(caught.value)
    assert f"Last good checkpoint: {kept}." in str(caught.value)
    assert kept.is_file()


def test_a_compiled_training_takes_the_same_steps(tmp_path):
    stages = [noisy_stage(), noisy_stage()]
    for jit_compile, stage in zip([False, True], stages, strict=True):
        train_stage(stage, replace(context(tmp_path / str(jit_compile)), jit_compile=jit_compile))
    plain, compiled = (stage.model.get_weights() for stage in stages)
    for ours, theirs in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
