from laser_dist.commands.training_progress import TrainingProgress

STAGES = ("image", "jnd1", "mj-lat")


def stage(name, time, epochs=2, steps=10):
    return {"kind": "stage", "time": time, "stage": name, "epochs": epochs, "steps": steps}


def step(name, time, epoch, number, epochs=2, steps=10):
    return {
        "kind": "step",
        "time": time,
        "stage": name,
        "epoch": epoch,
        "epochs": epochs,
        "step": number,
        "steps": steps,
        "loss": 1234.5,
    }


def epoch(name, time, number, validation):
    times = {"input_wait": 0.25, "checkpoint": 0.05, "compute": 0.7}
    losses = {"loss": 3.25, "val_loss": validation, "val_jnd1": 1.5}
    speed = {"seconds": 2.0, "training_seconds": 2.0, "samples_per_second": 12.0}
    metrics = {**losses, **speed, **times}
    return {"kind": "epoch", "time": time, "stage": name, "epoch": number, "metrics": metrics}


def done(name, time, saving=0.0):
    return {"kind": "done", "time": time, "stage": name, "checkpoint_seconds": saving}


def lines_of(progress, *events):
    return [line for event in events for line in progress.take(event)]


def test_the_line_shows_the_step_and_the_time_left():
    progress = TrainingProgress(STAGES, each_epoch=False)
    assert progress.line == "starting the workers"
    # After step 1, 4 steps took 8 s, so the other 15 of 20 will take 30 s. The 90 s before the
    # first step, in which the graph was built, do not count.
    lines_of(progress, stage("jnd1", 0), step("jnd1", 90, 1, 1), step("jnd1", 98, 1, 5))
    assert progress.line == "2/3 jnd1    epoch 1/2  step 5/10  loss 1234  30 s left"
    lines_of(progress, step("jnd1", 126, 2, 9))
    assert progress.line.endswith("epoch 2/2  step 9/10  loss 1234  2.0 s left")


def test_the_line_fits_a_narrow_terminal():
    progress = TrainingProgress(("image", "jnd1", "jnd2", "jnd3", "mj-lat"), each_epoch=False)
    lines_of(
        progress,
        stage("mj-lat", 0, 30, 100),
        step("mj-lat", 1, 10, 10, 30, 100),
        step("mj-lat", 3, 10, 99, 30, 100),
    )
    assert len(progress.line) <= 60


def test_on_a_terminal_each_stage_prints_a_line():
    progress = TrainingProgress(STAGES, each_epoch=False)
    lines = lines_of(
        progress,
        stage("image", 0),
        epoch("image", 10, 1, 5.0),
        epoch("image", 20, 2, 6.0),
        done("image", 30),
        stage("jnd1", 30),
    )
    assert lines == ["  1/3 image   2 epochs  best validation 5 (epoch 1)  30 s  12/s per worker"]


def test_concurrent_stages_are_shown_separately():
    progress = TrainingProgress(STAGES, each_epoch=False)
    lines = lines_of(
        progress,
        stage("image", 0, epochs=2),
        stage("jnd1", 5, epochs=3),
        epoch("jnd1", 10, 1, 4.0),
        step("image", 11, 1, 1),
        step("jnd1", 12, 1, 1, epochs=3),
        epoch("image", 20, 1, 6.0),
        step("image", 21, 1, 3),
    )
    assert lines == []
    assert progress.line.startswith("1/3 image   epoch 1/2  step 3/10")
    # 2 steps took 10 s: the other 17 will take 85 s.
    assert progress.line.endswith("1 min 25 s left")
    assert lines_of(progress, done("image", 30), done("jnd1", 45)) == [
        "  1/3 image   2 epochs  best validation 6 (epoch 1)  30 s  12/s per worker",
        "  2/3 jnd1    3 epochs  best validation 4 (epoch 1)  40 s  12/s per worker",
    ]


def test_without_a_terminal_each_epoch_prints_a_line():
    progress = TrainingProgress(STAGES, each_epoch=True)
    lines = lines_of(
        progress,
        stage("image", 0),
        step("image", 1, 1, 1),
        epoch("image", 10, 1, 5.0),
        {"kind": "note", "time": 11, "text": "features of train: 9 frames"},
    )
    assert lines == [
        "  1/3 image   epoch 1/2  loss 3.25  validation 5 (jnd1 1.5)  2.0 s",
        "  features of train: 9 frames",
    ]


def test_the_throughput_is_a_mean_over_the_training_time():
    progress = TrainingProgress(STAGES, each_epoch=False)
    assert progress.throughput() == []
    lines_of(progress, stage("image", 0), epoch("image", 10, 1, 5.0))
    busy = epoch("image", 10, 1, 5.0)
    busy["metrics"] |= {"training_seconds": 6.0, "input_wait": 0.05, "compute": 0.9}
    busy["metrics"]["samples_per_second"] = 20.0
    lines_of(progress, busy)
    # 2 s at 12 samples/s and 6 s at 20; input took 0.5 + 0.3 s, compute 1.4 + 5.4 s.
    assert progress.throughput() == [
        ("throughput", "18 samples/s per worker"),
        ("spent on", "input 10%, compute 85%, checkpoints 5%"),
    ]


def test_the_checkpoint_after_the_last_epoch_is_included():
    progress = TrainingProgress(STAGES, each_epoch=False)
    # Of 2 s of training, checkpoints took 0.1 s; the last one took 2 s more.
    lines_of(progress, stage("image", 0), epoch("image", 10, 1, 5.0), done("image", 12, saving=2.0))
    (_, (_, shares)) = progress.throughput()
    assert shares == "input 12%, compute 35%, checkpoints 52%"


def test_an_unknown_stage_is_shown_without_a_number():
    progress = TrainingProgress(STAGES, each_epoch=True)
    assert "?/3 extra" in lines_of(progress, stage("extra", 0), epoch("extra", 1, 1, 2.0))[0]
