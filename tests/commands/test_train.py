"""What `laser-jnd train` checks before it creates anything."""

import json
import os
import sys

import pytest
from command_line import laser_jnd_here, refusal

import laser_dist
from laser_dist.commands import main, train
from laser_dist.examples import records
from laser_dist.models.variants import VARIANTS
from laser_dist.training import devices, ray_entry
from laser_dist.training.config import PRESETS, override, to_dict

NEW_RUN = ("lat", "--preset", "tiny", "--dataset", "data", "--output", "run")


@pytest.fixture
def folder(tmp_path):
    """A folder with a dataset's metadata, without its examples."""
    data = tmp_path / "data"
    data.mkdir()
    info = {"name": "d", "configName": "c", "version": "1.0.0", "splits": []}
    splits = {"train": ["a", "b", "c"], "validation": ["d"]}
    about = {"fingerprint": "f", "scale": "QP", "simulated": True, "splits": splits}
    (data / "dataset_info.json").write_text(json.dumps(info))
    (data / "metadata.json").write_text(json.dumps(about))
    return tmp_path


def refused(folder, *arguments):
    """Return what the command reports, after a check that it has created nothing."""
    text = refusal(laser_jnd_here("train", *arguments, cwd=folder))
    assert [path.name for path in folder.iterdir()] == ["data"]
    return text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("--stages", "image,jnd4"),
            'lat has no stage "jnd4"; its stages are image, jnd1, jnd2, jnd3, lat-jnd1, lat-jnd2, '
            'lat-jnd3. Did you mean "jnd3"?',
        ),
        (("--levels", "2", "--stages", "jnd1"), 'lat has no stage "jnd1"'),
        (("--set", "heads.epoch=3"), "There is no setting `heads.epoch`."),
        (("--set", "heads.epochs=many"), "`heads.epochs` must be an integer, but is 'many'."),
        (("--set", "heads.epochs=0"), "`heads.epochs` must be 1 or more, but is 0."),
        (("--workers", "9"), "`image.batch_size` must be at least 9, one example per device"),
        (("--init-from", "data"), "data has none of the backbones image.keras, jnd1.keras, "),
        (("--dataset", "none"), "Dataset folder none does not exist."),
    ],
)
def test_a_wrong_command_line_creates_nothing(folder, changes, message):
    assert refused(folder, *NEW_RUN, *changes).startswith(message)


def test_gpus_are_refused_on_a_machine_that_has_none(folder, monkeypatch):
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    gpu = ("--gpus-per-worker", "1")
    refusal_text = "This machine has no NVIDIA GPU, but --gpus-per-worker is 1."
    assert refused(folder, *NEW_RUN, *gpu).startswith(refusal_text)
    monkeypatch.setattr(records, "read_groups", lambda _: {each: each for each in "abcdef"})
    for words in (
        ("crossval", *NEW_RUN, "--folds", "2"),
        ("reproduce", "--manual-dir", "clips", "--output", "run"),
    ):
        assert refusal(laser_jnd_here(*words, *gpu, cwd=folder)).startswith(refusal_text)
        assert [path.name for path in folder.iterdir()] == ["data"]


def test_the_configuration_of_a_cluster_is_checked_without_gpus(folder, monkeypatch):
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ("lat", "--preset", "large", "--dataset", "data", "--workers", "8")
    done = laser_jnd_here("train", *words, "--gpus-per-worker", "4", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "8 workers with 4 GPUs each" in done.stdout


def test_levels_are_refused_for_a_multi_level_variant(folder):
    text = refused(folder, "mj-lat", *NEW_RUN[1:], "--levels", "2")
    assert text.startswith("--levels does not apply to mj-lat, which always learns all three")


def test_a_damaged_dataset_creates_nothing(folder):
    (folder / "data" / "metadata.json").unlink()
    assert refused(folder, *NEW_RUN).startswith("data is not a prepared dataset")


def test_a_resumed_run_keeps_its_settings(folder):
    options = ("--seed", "3", "--set", "heads.epochs=1", "--no-feature-cache")
    assert refused(folder, "lat", "--resume", "run", *options) == (
        "--resume cannot be combined with VARIANT, --no-feature-cache, --set, --seed: "
        "the run has its own settings."
    )
    assert refused(folder, "--resume", "run").startswith("There is no run in run.")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ((), "VARIANT, --dataset"),
        (("lat",), "--dataset"),
        (("--dataset", "data"), "VARIANT"),
    ],
)
def test_all_missing_arguments_are_reported_with_the_usage(folder, arguments, missing):
    done = laser_jnd_here("train", *arguments, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: laser-jnd train ")
    assert f"required (or --resume RUN): {missing}." in done.stderr
    assert [path.name for path in folder.iterdir()] == ["data"]


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_options_become_settings(preset):
    words = ["--preset", preset] if preset else []
    words += ["--levels", "3,1", "--seed", "5", "--workers", "2:4", "--no-feature-cache"]
    parsed = main.parse(["train", "rec", "--dataset", "data", *words])
    settings = [
        "levels=1,3", "seed=5", "cluster.num_workers=4", "cluster.min_workers=2",
        "cluster.cpu_devices=1", "feature_cache=false",
    ]  # fmt: skip
    (rec,) = (variant for variant in VARIANTS if variant.name == "rec")
    assert train.resolve(parsed) == to_dict(override(PRESETS[preset or "paper"](rec), settings))


def test_the_batch_per_device_is_that_of_the_largest_group_of_workers():
    words = ["--workers", "4:8", "--gpus-per-worker", "4", "--per-replica-batch-size", "2"]
    training = train.resolve(main.parse(["train", "rec", "--dataset", "data", *words]))
    sizes = {training[name]["batch_size"] for name in ("image", "jnd", "heads", "joint")}
    assert sizes == {2 * 8 * 4}
    assert training["heads"]["base_batch_size"] == 8


@pytest.mark.parametrize(
    ("preset", "num_examples", "expected"),
    [("large", 30, True), ("large", 18_000, False), ("paper", 30, False)],
)
@pytest.mark.parametrize("way", ["preset", "file", "dry run", "library"])
def test_enlarged_batches_of_a_small_dataset_are_warned_of(
    folder, monkeypatch, caplog, preset, num_examples, expected, way
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_entry, "train", lambda _: None)
    path = folder / "data" / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"] = [{"name": "train", "shardLengths": [str(num_examples)]}]
    path.write_text(json.dumps(info))
    options = ("--dataset", "data", "--output", "run")
    if way == "library":
        config = PRESETS[preset](VARIANTS[0])
        laser_dist.train(VARIANTS[0].name, folder / "data", folder / "run", config=config)
        text = caplog.text
    else:
        (folder / "settings.json").write_text(json.dumps(to_dict(PRESETS[preset](VARIANTS[0]))))
        source = ("--config", "settings.json") if way == "file" else ("--preset", preset)
        last = ("--dry-run",) if way == "dry run" else ()
        done = laser_jnd_here("train", VARIANTS[0].name, *source, *options, *last, cwd=folder)
        assert done.returncode == 0, done.stderr
        text = done.stderr
    # Three of four sources are in the training split.
    assert ("d/c has about 22 examples to train on, so an epoch in batches" in text) == expected


def test_the_folder_of_the_metrics_is_printed(folder, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_entry, "train", lambda _: None)
    done = laser_jnd_here("train", *NEW_RUN, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "tensorboard --logdir run/logs/tensorboard\n" in done.stderr


def test_only_one_worker_without_gpus_has_several_cpu_devices():
    def devices(*words):
        parsed = main.parse(["train", "rec", "--preset", "tiny", "--dataset", "data", *words])
        cluster = train.resolve(parsed)["cluster"]
        return cluster["num_workers"], cluster["cpu_devices"]

    assert devices() == devices("--workers", "1") == (1, 2)
    assert devices("--workers", "2") == (2, 1)
    assert devices("--gpus-per-worker", "1") == (1, 1)


def test_the_files_of_a_neighboring_run_are_never_opened(folder, monkeypatch):
    """A neighbor's folder may belong to somebody else, who would choose the models."""
    models = folder / "neighbor" / "models"
    models.mkdir(parents=True)
    for stage in ("image", "jnd1", "jnd2", "jnd3", "lat-jnd1", "predictor"):
        (models / f"{stage}.keras").write_bytes(b"hostile")
        (models / f"{stage}.json").write_text("{}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_entry, "train", lambda _: None)
    opened = []
    watches = True

    def watch(event, arguments):
        if watches and event in ("open", "os.listdir", "os.scandir", "glob.glob"):
            opened.append(os.path.abspath(str(arguments[0] or ".")))

    sys.addaudithook(watch)  # stays until the process exits
    done = laser_jnd_here("train", *NEW_RUN, cwd=folder)
    watches = False
    assert done.returncode == 0, done
    assert str(folder / "run" / "lease.json") in opened
    assert [path for path in opened if path.startswith(str(folder / "neighbor"))] == []


def printed_config(folder, *arguments):
    done = laser_jnd_here("train", *arguments, "--print-config", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_printed_config_gives_the_same_training(tmp_path):
    changes = ("--set", "heads.epochs=7", "--set", "head.filters=4,8", "--workers", "2:3")
    printed = printed_config(tmp_path, "lat", "--preset", "tiny", "--levels", "1,3", *changes)
    assert (printed["heads"]["epochs"], printed["head"]["filters"]) == (7, [4, 8])
    (tmp_path / "settings.json").write_text(json.dumps(printed))
    again = printed_config(tmp_path, "lat", "--config", "settings.json")
    assert again == printed


def test_options_replace_the_settings_of_a_file_and_those_replace_the_presets(tmp_path):
    settings = {"seed": 3, "heads": {"epochs": 20, "batch_size": 10}, "jit_compile": True}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    options = ("--preset", "tiny", "--config", "settings.json")
    printed = printed_config(
        tmp_path, "mj-lat", *options, "--seed", "4", "--per-replica-batch-size", "8"
    )
    before = to_dict(PRESETS["tiny"](VARIANTS[0]))
    assert (printed["seed"], printed["heads"]["epochs"]) == (4, 20)
    assert printed["heads"]["batch_size"] == 8 * before["cluster"]["cpu_devices"]
    assert printed["jit_compile"] is True
    assert printed["image"]["epochs"] == before["image"]["epochs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Cannot read the settings in data/settings.json: "),
        ("[1]", "Cannot read the settings in data/settings.json: it is not an object."),
        ('{"heads": {"epoch": 1}}', "There is no setting `heads.epoch`."),
        ('{"heads": {"epochs": "x"}}', "`heads.epochs` must be an integer, but is 'x'."),
        ('{"heads": {"epochs": 0}}', "`heads.epochs` must be 1 or more, but is 0."),
        ('{"heads": 1}', "There is no setting `heads`."),
        ('{"variant": "mj-rec"}', "data/settings.json has settings for mj-rec, not for lat."),
    ],
)
def test_a_wrong_file_of_settings_creates_nothing(folder, text, message):
    (folder / "data" / "settings.json").write_text(text)
    assert refused(folder, *NEW_RUN, "--config", "data/settings.json").startswith(message)


def test_a_dry_run_prints_the_stages_and_creates_nothing(folder):
    done = laser_jnd_here("train", *NEW_RUN, "--set", "jnd.epochs=9", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = {row.split()[0]: row.split()[1:3] for row in done.stdout.splitlines() if row.split()}
    assert rows["image"] == ["-", "3"]
    assert rows["jnd2"] == ["image", "9"]
    assert rows["lat-jnd3"] == ["jnd3", "12"]
    assert [path.name for path in folder.iterdir()] == ["data"]
