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
    figures = {"loss": 3.25, "val_loss": validation, "val_jnd1": 1.5, "seconds": 2.0}
    return {"kind": "epoch", "time": time, "stage": name, "epoch": number, "figures": figures}


def taken(progress, *events):
    return [line for event in events for line in progress.take(event)]


def test_the_line_says_where_the_training_is_and_how_long_the_stage_will_take():
    progress = TrainingProgress(STAGES, each_epoch=False)
    assert progress.line == "starting the workers"
    # From step 1 on, 4 steps took 8 s: the other 15 of 20 will take 30 s. The 90 s before the
    # first step, in which the graph was built, do not count.
    taken(progress, stage("jnd1", 0), step("jnd1", 90, 1, 1), step("jnd1", 98, 1, 5))
    assert progress.line == "2/3 jnd1    epoch 1/2  step 5/10  loss 1234  30 s left"
    taken(progress, step("jnd1", 126, 2, 9))
    assert progress.line.endswith("epoch 2/2  step 9/10  loss 1234  2.0 s left")


def test_the_line_fits_a_narrow_terminal():
    progress = TrainingProgress(("image", "jnd1", "jnd2", "jnd3", "mj-lat"), each_epoch=False)
    taken(
        progress,
        stage("mj-lat", 0, 30, 100),
        step("mj-lat", 1, 10, 10, 30, 100),
        step("mj-lat", 3, 10, 99, 30, 100),
    )
    assert len(progress.line) <= 60


def test_on_a_terminal_every_stage_leaves_one_line():
    progress = TrainingProgress(STAGES, each_epoch=False)
    lines = taken(
        progress,
        stage("image", 0),
        epoch("image", 10, 1, 5.0),
        epoch("image", 20, 2, 6.0),
        stage("jnd1", 30),
        epoch("jnd1", 40, 1, 4.0),
    )
    assert lines == ["  1/3 image   2 epochs  best validation 5 (epoch 1)  30 s"]
    assert progress.finish(45) == [
        "  2/3 jnd1    2 epochs  best validation 4 (epoch 1)  15 s",
    ]
    assert progress.finish(50) == []


def test_in_a_file_every_epoch_leaves_one_line_with_its_validation():
    progress = TrainingProgress(STAGES, each_epoch=True)
    lines = taken(
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
    assert progress.finish(20) == []


def test_an_unknown_stage_does_not_break_it():
    progress = TrainingProgress(STAGES, each_epoch=True)
    assert "?/3 extra" in taken(progress, stage("extra", 0), epoch("extra", 1, 1, 2.0))[0]
