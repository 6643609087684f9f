import csv
import json
import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_fakes import context, linear_stage

from laser_dist.errors import UserError
from laser_dist.training.config import CheckpointInterval
from laser_dist.training.learning.loop import train_stage
from laser_dist.training.learning.profiling import Profiler
from laser_dist.training.storage.logs import METRICS_FOLDER, events_path

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(7, 3))
LEVELS = FEATURES @ RNG.normal(size=(3, 2)) + 0.1 * RNG.normal(size=(7, 2))
SHARES = {"input_wait", "checkpoint", "compute"}
TIMES = {"seconds", "training_seconds", "samples_per_second"} | SHARES
START = np.zeros((3, 2), np.float32)


class Interrupted(Exception):
    """Exception that stops a training in a test."""


class Breaking:
    """Batches that raise, or replace values by `value`, at one step (from 1) of one epoch."""

    def __init__(self, batches, epoch, step, value=None):
        self.batches, self.position, self.value = batches, (epoch, step), value

    def epoch(self, index, start=0):
        for step, batch in enumerate(self.batches.epoch(index, start), start=start + 1):
            if (index, step) != self.position:
                yield batch
            elif self.value is None:
                raise Interrupted
            else:
                # In targets, NaN would be a missing level.
                field = "inputs" if math.isnan(self.value) else "targets"
                yield replace(batch, **{field: np.full_like(getattr(batch, field), self.value)})


def noisy_stage(start=START, **changes):
    settings = {"epochs": 4, "learning_rate": 0.05, "schedule": "cosine"} | changes
    return linear_stage(start, FEATURES, LEVELS, **settings)


def logged_metrics(run_dir):
    """Return the logged metrics without the times."""
    with (run_dir / METRICS_FOLDER / "tiny.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if row[2] not in TIMES]


def interrupt(stage, run_dir, epoch, step):
    with pytest.raises(Interrupted):
        train_stage(
            replace(stage, training=Breaking(stage.training, epoch, step)), context(run_dir)
        )


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_training_has_the_weights_of_an_uninterrupted_one_bit_for_bit(tmp_path, schedule):
    uninterrupted = noisy_stage(schedule=schedule)
    progress = train_stage(uninterrupted, context(tmp_path / "uninterrupted"))
    # Interrupted before the first checkpoint, within the third epoch, and before the fourth.
    interrupt(noisy_stage(schedule=schedule), tmp_path / "broken", epoch=1, step=2)
    interrupt(noisy_stage(schedule=schedule), tmp_path / "broken", epoch=3, step=3)
    # The initial weights of a later attempt have no effect.
    interrupt(noisy_stage(START + 1, schedule=schedule), tmp_path / "broken", epoch=4, step=1)
    resumed = noisy_stage(START + 2, schedule=schedule)
    assert train_stage(resumed, context(tmp_path / "broken")) == progress
    assert progress.epochs_done == 4
    for actual, expected in zip(
        resumed.model.get_weights(), uninterrupted.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    assert logged_metrics(tmp_path / "broken") == logged_metrics(tmp_path / "uninterrupted")


@pytest.mark.parametrize("every", [1, 4])
def test_a_training_resumes_from_the_checkpoint_before_a_cut_one(tmp_path, every, caplog):
    uninterrupted = noisy_stage()
    progress = train_stage(uninterrupted, within_epochs(tmp_path / "uninterrupted", every))
    stage = noisy_stage()
    breaking = replace(stage, training=Breaking(stage.training, 3, 1))
    with pytest.raises(Interrupted):
        train_stage(breaking, within_epochs(tmp_path / "broken", every))
    newest = tmp_path / "broken" / "checkpoints" / "tiny" / "epoch-002.npz"
    newest.write_bytes(newest.read_bytes()[:1000])
    seen = []
    resumed = noisy_stage(START + 1)
    watched = replace(resumed, training=Watched(resumed.training, seen))
    assert train_stage(watched, within_epochs(tmp_path / "broken", every)) == progress
    assert seen == list(range(8 - every, 16))
    np.testing.assert_array_equal(resumed.model.get_weights(), uninterrupted.model.get_weights())
    ours = [each for each in caplog.records if each.name.startswith("laser_dist")]
    (warning,) = (each.getMessage() for each in ours if each.levelname == "WARNING")
    assert warning.startswith(f"tiny: epoch-002.npz is skipped. Checkpoint {newest} is damaged")


def within_epochs(run_dir, every=3):
    """Return a context that also saves within the epochs of four steps."""
    return replace(context(run_dir), checkpoint_interval=CheckpointInterval(steps=every, epochs=1))


@pytest.mark.parametrize(
    ("every", "broken"), [(1, (1, 4)), (3, (2, 3)), (3, (3, 1)), (4, (1, 4)), (4, (4, 4))]
)
def test_a_training_interrupted_within_an_epoch_has_the_weights_of_an_uninterrupted_one(
    tmp_path, every, broken
):
    uninterrupted = noisy_stage()
    progress = train_stage(uninterrupted, within_epochs(tmp_path / "uninterrupted", every))
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
    for actual, expected in zip(
        resumed.model.get_weights(), uninterrupted.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    assert logged_metrics(tmp_path / "broken") == logged_metrics(tmp_path / "uninterrupted")


@pytest.mark.parametrize(("together", "every"), [(2, 1), (3, 3), (9, 3)])
def test_steps_that_are_executed_together_change_no_weight_and_no_logged_loss(
    tmp_path, together, every
):
    """An epoch has three steps of two examples and one of one, so the groups differ in shape."""
    apart, grouped = noisy_stage(), noisy_stage()
    progress = train_stage(apart, within_epochs(tmp_path / "apart", every))
    options = replace(within_epochs(tmp_path / "grouped", every), steps_per_execution=together)
    assert train_stage(grouped, options) == progress
    np.testing.assert_array_equal(grouped.model.get_weights(), apart.model.get_weights())
    assert logged_metrics(tmp_path / "grouped") == logged_metrics(tmp_path / "apart")


@pytest.mark.parametrize(("together", "resumed"), [(2, 10), (3, 11), (4, 8)])
def test_a_checkpoint_waits_for_the_steps_that_are_executed_together(tmp_path, together, resumed):
    """With one due every five steps, epochs of four steps, and a stop in the twelfth."""

    def options(run_dir, steps_per_execution):
        interval = CheckpointInterval(steps=5, epochs=2)
        changes = {"checkpoint_interval": interval, "steps_per_execution": steps_per_execution}
        return replace(context(run_dir), **changes)

    uninterrupted = noisy_stage()
    train_stage(uninterrupted, options(tmp_path / "uninterrupted", 1))
    stage = noisy_stage()
    breaking = replace(stage, training=Breaking(stage.training, 3, 4))
    with pytest.raises(Interrupted):
        train_stage(breaking, options(tmp_path / "broken", together))
    seen = []
    stage = noisy_stage(START + 1)
    watched = replace(stage, training=Watched(stage.training, seen))
    train_stage(watched, options(tmp_path / "broken", together))
    assert seen == list(range(resumed, 16))
    np.testing.assert_array_equal(stage.model.get_weights(), uninterrupted.model.get_weights())


def test_a_loss_that_is_not_finite_names_its_step_among_those_executed_together(tmp_path):
    stage = noisy_stage()
    breaking = replace(stage, training=Breaking(stage.training, 1, 2, math.inf))
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 2: the loss is inf"):
        train_stage(breaking, replace(context(tmp_path), steps_per_execution=4))


class Watched:
    """Batches that record the number of each step, from 0, with four steps per epoch."""

    def __init__(self, batches, seen):
        self.batches, self.seen = batches, seen

    def epoch(self, index, start=0):
        for step, batch in enumerate(self.batches.epoch(index, start), start=start):
            self.seen.append(4 * (index - 1) + step)
            yield batch


def test_the_checkpoint_interval_does_not_change_the_weights(tmp_path):
    often, seldom = noisy_stage(), noisy_stage()
    train_stage(often, within_epochs(tmp_path / "often", 1))
    train_stage(seldom, context(tmp_path / "seldom"))
    for actual, expected in zip(often.model.get_weights(), seldom.model.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)
    saved = {path.name for path in (tmp_path / "often" / "checkpoints" / "tiny").glob("epoch-*")}
    assert saved == {"epoch-003-step-000003.npz", "epoch-004.npz"}


def saved_states(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints" / "tiny").glob("epoch-*"))


def test_a_checkpoint_is_due_when_the_time_has_passed(tmp_path, monkeypatch):
    """Each step takes 4 s of a clock that stands still otherwise."""
    clock = [1000.0]
    monkeypatch.setattr("laser_dist.training.learning.loop.time.monotonic", lambda: clock[0])

    class Timed:
        def __init__(self, batches):
            self.batches = batches

        def epoch(self, index, start=0):
            for batch in self.batches.epoch(index, start):
                clock[0] += 4
                yield batch

    timed, plain = noisy_stage(), noisy_stage()
    monkeypatch.setattr("laser_dist.training.learning.loop.ReadAhead", InTurn)
    every = CheckpointInterval(seconds=36)
    # 36 s have passed when the ninth of 16 steps starts. Its result is read when the tenth has been
    # started, so all workers save after the tenth, the second step of the third epoch.
    train_stage(
        replace(timed, training=Timed(timed.training)),
        replace(context(tmp_path / "timed"), checkpoint_interval=every),
    )
    assert saved_states(tmp_path / "timed") == ["epoch-002-step-000002.npz"]
    train_stage(plain, context(tmp_path / "plain"))
    np.testing.assert_array_equal(timed.model.get_weights(), plain.model.get_weights())


class InTurn:
    """Batches without a thread."""

    waited_s = 0.0

    def __init__(self, items, ahead):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_a_notice_of_preemption_leads_to_one_checkpoint(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("laser_dist.training.learning.loop.SECONDS_BETWEEN_NOTICES", 0)
    answers = iter([False, False, True])
    where = replace(
        context(tmp_path),
        checkpoint_interval=CheckpointInterval(),
        is_preempted=lambda: next(answers, True),
    )
    train_stage(noisy_stage(), where)
    # Asked after each step; the fourth step had been started when the third one's answer came.
    assert saved_states(tmp_path) == ["epoch-001.npz"]
    assert [text for text in caplog.messages if "reclaimed" in text] == [
        "tiny: a machine is about to be reclaimed"
    ]


def test_a_training_that_saves_seldom_ends_with_the_weights_of_its_best_epoch(tmp_path):
    """The second epoch is the best; the only checkpoint comes after the third."""
    seldom = CheckpointInterval(epochs=3)
    stage = rising_stage(4)
    train_stage(stage, replace(context(tmp_path), checkpoint_interval=seldom))
    assert saved_states(tmp_path) == ["epoch-003.npz"]
    assert stage.model.get_weights()[0].item() == pytest.approx(0.2, abs=1e-5)
    resumed = rising_stage(4)
    train_stage(resumed, replace(context(tmp_path), checkpoint_interval=seldom))
    assert resumed.model.get_weights() == stage.model.get_weights()


def test_the_done_event_contains_the_time_of_the_last_checkpoint(tmp_path):
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
    """Return a stage whose weight rises from 0 by about 0.1 per epoch; the optimum is 0.2.

    The gradient is always -1, so each of Adam's steps has the length of the learning rate.
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
def test_the_model_ends_with_the_weights_of_the_best_epoch(tmp_path, epochs, best):
    stage = rising_stage(epochs)
    progress = train_stage(stage, context(tmp_path))
    weight = stage.model.get_weights()[0].item()
    assert weight == pytest.approx(0.1 * best, abs=1e-5)
    assert (progress.epochs_done, progress.best_epoch) == (epochs, best)
    assert progress.best_loss == pytest.approx(abs(weight - 0.2), abs=1e-6)
    saved = {path.name for path in (tmp_path / "checkpoints" / "tiny").iterdir()}
    kept = {f"epoch-{epoch:03d}.npz" for epoch in {epochs, epochs - 1} - {0}}
    before = {1} if epochs == 2 else set()  # the best one of the checkpoint before the last
    assert saved == kept | {f"best-{epoch:03d}.npz" for epoch in {best} | before}


def test_a_finished_stage_is_not_trained_again(tmp_path):
    first = train_stage(rising_stage(), context(tmp_path))
    stage = rising_stage()
    epochs = []
    assert train_stage(stage, context(tmp_path, after_epoch=epochs.append)) == first
    assert epochs == []
    assert stage.model.get_weights()[0].item() == pytest.approx(0.2, abs=1e-5)


def test_metrics_are_means_over_the_examples_of_unequal_batches(tmp_path):
    # With such a low learning rate the weights remain 0, so the errors are the levels of the 7
    # examples, in batches of 2, 2, 2 and 1.
    epochs = []
    stage = noisy_stage(epochs=1, learning_rate=1e-12)
    train_stage(stage, context(tmp_path, after_epoch=epochs.append))
    errors = np.abs(LEVELS)
    expected = {"loss": errors.mean(), "jnd1": errors[:, 0].mean(), "jnd2": errors[:, 1].mean()}
    (metrics,) = epochs
    times = {name: metrics.pop(name) for name in TIMES}
    assert times["seconds"] > 0
    assert times["samples_per_second"] > 0
    assert sum(times[name] for name in SHARES) == pytest.approx(1)
    assert metrics.pop("gradient_norm") > 0
    assert metrics.pop("learning_rate") <= 1e-12
    both = expected | {f"val_{name}": value for name, value in expected.items()}
    assert metrics == pytest.approx(both, rel=1e-5)


def test_metrics_exclude_missing_levels(tmp_path):
    epochs = []
    levels = np.array(LEVELS)
    levels[:4, 1] = levels[5, 0] = np.nan
    levels[6] = np.nan  # excluded: no level
    stage = linear_stage(START, FEATURES, levels, epochs=1, learning_rate=1e-12)
    train_stage(stage, context(tmp_path, after_epoch=epochs.append))
    errors = np.abs(levels[:6])
    expected = {
        "loss": np.mean([*errors[:4, 0], errors[4].mean(), errors[5, 1]]),
        "jnd1": np.mean(errors[[0, 1, 2, 3, 4], 0]),
        "jnd2": np.mean(errors[[4, 5], 1]),
    }
    (metrics,) = epochs
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5)
        assert metrics[f"val_{name}"] == pytest.approx(value, rel=1e-5)


def test_a_level_that_all_examples_lack_has_no_metric(tmp_path):
    epochs = []
    levels = np.where([True, False], LEVELS, np.nan)
    stage = linear_stage(START, FEATURES, levels, epochs=2, learning_rate=0.05)
    train_stage(stage, context(tmp_path, after_epoch=epochs.append))
    assert epochs[1].keys() == {
        "loss", "jnd1", "gradient_norm", "val_loss", "val_jnd1", "learning_rate", *TIMES,
    }  # fmt: skip

    # The weights of the other level are unchanged bit for bit, and not NaN.
    weights = stage.model.get_weights()[0]
    np.testing.assert_array_equal(weights[:, 1], START[:, 1])
    assert (weights[:, 0] != START[:, 0]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_loss_that_is_not_finite_is_reported_with_stage_and_step(tmp_path, value):
    stage = noisy_stage()
    stage = replace(stage, training=Breaking(stage.training, 2, 3, value))
    with pytest.raises(
        FloatingPointError, match=f"Stage tiny, epoch 2, step 3: the loss is {value}"
    ):
        train_stage(stage, context(tmp_path))
    saved = {path.name for path in (tmp_path / "checkpoints" / "tiny").iterdir()}
    assert saved == {"epoch-001.npz", "best-001.npz"}


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(tmp_path):
    """The root of a square has a finite value at 0, but no derivative."""

    def roots(outputs, targets):
        error = tf.sqrt(tf.square(outputs[:, 0] - targets[:, 0]))
        return {"loss": error, "jnd1": error}

    stage = linear_stage([[2.0]], [[1.0]] * 8, [[2.0]] * 8, epochs=2)
    stage = replace(stage, objective=roots)
    with pytest.raises(FloatingPointError, match="epoch 1, step 1: the gradient norm is nan"):
        train_stage(stage, within_epochs(tmp_path, 1))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_is_reported_with_stage_and_epoch(tmp_path, value):
    stage = noisy_stage()
    stage = replace(stage, validation=Breaking(stage.validation, 0, 1, value))
    with pytest.raises(
        FloatingPointError, match=f"Stage tiny, epoch 1, validation: the loss is {value}"
    ):
        train_stage(stage, context(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_a_stage_stops_early_when_validation_no_longer_improves(tmp_path):
    stage = rising_stage(epochs=50)
    stage = replace(stage, settings=replace(stage.settings, patience=3))
    progress = train_stage(stage, context(tmp_path))
    assert (progress.best_epoch, progress.epochs_done) == (2, 5)
    assert train_stage(stage, context(tmp_path)) == progress


def test_the_learning_rate_is_halved_on_a_plateau_also_after_resuming(tmp_path):
    def stage():
        made = rising_stage(epochs=12)
        return replace(made, settings=replace(made.settings, schedule="plateau"))

    uninterrupted = stage()
    weights = []
    train_stage(
        uninterrupted,
        context(
            tmp_path / "a",
            after_epoch=lambda _: weights.append(uninterrupted.model.get_weights()[0].item()),
        ),
    )
    # The second epoch is the best, so the rate is halved after the seventh, from 0.1 to 0.05.
    np.testing.assert_allclose(np.diff(weights)[:6], 0.1, rtol=0.01)
    np.testing.assert_allclose(np.diff(weights)[6:], 0.05, rtol=0.01)
    interrupt(stage(), tmp_path / "b", epoch=9, step=1)
    resumed_weights = []
    resumed = stage()
    train_stage(
        resumed,
        context(
            tmp_path / "b",
            after_epoch=lambda _: resumed_weights.append(resumed.model.get_weights()[0].item()),
        ),
    )
    assert resumed_weights == weights[8:]


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(tmp_path):
    stage = noisy_stage()
    broken = replace(stage, training=Breaking(stage.training, 3, 2, math.nan))
    with pytest.raises(FloatingPointError) as caught:
        train_stage(broken, context(tmp_path))
    last = tmp_path / "checkpoints" / "tiny" / "epoch-002.npz"
    assert "Stage tiny, epoch 3, step 2" in str(caught.value)
    assert f"Last good checkpoint: {last}." in str(caught.value)
    assert last.is_file()


def test_a_checkpoint_of_another_model_is_refused_by_the_names_of_its_variables(tmp_path):
    """The shapes are equal: by their order, the values would fit."""
    stage = noisy_stage()
    train_stage(stage, context(tmp_path))
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False, name="b")])
    with pytest.raises(UserError, match="is of another model: .*kernel.* differ"):
        train_stage(replace(stage, model=other), context(tmp_path))


def test_jit_compile_does_not_change_the_weights(tmp_path):
    stages = [noisy_stage(), noisy_stage()]
    for jit_compile, stage in zip([False, True], stages, strict=True):
        train_stage(stage, replace(context(tmp_path / str(jit_compile)), jit_compile=jit_compile))
    plain, compiled = (stage.model.get_weights() for stage in stages)
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_profile_is_written_for_the_profiler_of_tensorboard(tmp_path):
    train_stage(noisy_stage(), replace(context(tmp_path), profile_steps=2))
    traces = (tmp_path / "logs" / "tensorboard" / "tiny").rglob("*.xplane.pb")
    assert [path.stat().st_size > 0 for path in traces] == [True]


@pytest.mark.parametrize(
    ("together", "num_steps", "first", "last"), [(1, 5, 3, 7), (4, 5, 9, 16), (1, 0, None, None)]
)
def test_a_profile_has_the_steps_that_were_asked_for(
    tmp_path, monkeypatch, together, num_steps, first, last
):
    """The first two executions, which compile the steps, are left out."""
    done, calls = [0], []
    profiler = tf.profiler.experimental
    monkeypatch.setattr(profiler, "start", lambda _: calls.append(done[0] + 1))
    monkeypatch.setattr(profiler, "stop", lambda: calls.append(done[0]))
    traced = Profiler(tmp_path, num_steps)
    for _ in range(8):
        traced.before(together)
        done[0] += together
    traced.stop()
    assert calls == ([] if first is None else [first, last])
