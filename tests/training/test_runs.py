import json
import shutil

import pytest
from training_fakes import SPLITS

from laser_dist.errors import UserError
from laser_dist.jnd.scale import QP
from laser_dist.models.variants import MJ_LAT
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.config import tiny, to_dict
from laser_dist.training.runs import load_run, read_dataset_card, read_run, start_run

pytestmark = pytest.mark.slow

TRAINING = to_dict(tiny(MJ_LAT))


@pytest.fixture
def dataset(dataset_dir, tmp_path):
    """Return a copy of a dataset's metadata that tests can change."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name in ("dataset_info.json", "metadata.json"):
        shutil.copy(dataset_dir / name, folder)
    return folder


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_dataset_card_contains_the_dataset_metadata(dataset_dir):
    assert read_dataset_card(dataset_dir) == {
        "dir": str(dataset_dir),
        "name": "tiny_pairs/tiny",
        "version": "1.0.0",
        "fingerprint": "abc",
        "scale": "QP",
        "simulated": True,
        "resolution": None,
        "splits": SPLITS,
        "split_by": "",
        "frames_per_second": None,
    }


def test_a_new_run_stores_its_configuration(dataset, tmp_path):
    config = start_run(RunFiles(str(tmp_path / "new" / "run")), TRAINING, dataset)
    assert json.loads((tmp_path / "new" / "run" / "config.json").read_text()) == config
    assert config["run_dir"] == str(tmp_path / "new" / "run")
    assert (config["variant"], config["training"]) == ("mj-lat", TRAINING)
    assert config["dataset"] == read_dataset_card(dataset)
    assert {"laser-jnd", "keras", "tensorflow"} <= config["packages"].keys()
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["config.json"]


def test_a_run_resumes_after_its_dataset_has_moved(dataset, tmp_path):
    start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)
    dataset.rename(tmp_path / "moved")
    config = start_run(RunFiles(str(tmp_path / "run")), TRAINING, tmp_path / "moved")
    assert config["dataset"]["dir"] == str(tmp_path / "moved")


def test_a_finished_run_retains_the_package_versions_of_its_training(dataset, tmp_path):
    start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)
    path = tmp_path / "run" / "config.json"
    change(path, packages={"keras": "3.0.0"})
    (tmp_path / "run" / "models").mkdir()
    (tmp_path / "run" / "models" / "predictor.keras").touch()
    config = start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)
    assert config["packages"] == {"keras": "3.0.0"}
    assert json.loads(path.read_text())["packages"] == {"keras": "3.0.0"}


def test_different_settings_are_refused_in_an_existing_run(dataset, tmp_path):
    start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)
    before = (tmp_path / "run" / "config.json").read_text()
    other = TRAINING | {"seed": 2, "head": {"filters": [4]}, "new": 0}
    with pytest.raises(UserError, match="a run with different settings: head, new, seed"):
        start_run(RunFiles(str(tmp_path / "run")), other, dataset)
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_a_different_dataset_is_refused_in_an_existing_run(dataset, tmp_path):
    start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)
    change(dataset / "metadata.json", fingerprint="other", simulated=False)
    message = "a run with a different dataset: fingerprint, simulated"
    with pytest.raises(UserError, match=message):
        start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)


@pytest.mark.parametrize("name", ["checkpoints", "features", "models"])
def test_a_folder_with_files_of_another_program_is_refused(dataset, tmp_path, name):
    precious = tmp_path / "run" / name / "image" / "epoch-001.npz"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with pytest.raises(UserError, match=f"has a folder {name}, but no config.json of a run"):
        start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [precious]


def test_a_folder_that_is_not_a_dataset_is_refused_before_writing(dataset, tmp_path):
    (dataset / "metadata.json").unlink()
    with pytest.raises(UserError, match="is not a prepared dataset"):
        start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)
    assert not (tmp_path / "run").exists()


def test_a_dataset_without_the_simulated_field_is_refused(dataset):
    (dataset / "metadata.json").write_text('{"fingerprint": "abc", "scale": "QP"}')
    with pytest.raises(UserError, match="is not a prepared dataset"):
        read_dataset_card(dataset)


def test_a_run_folder_that_cannot_be_created_is_named(dataset, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match=r"Cannot write to .*/run: Not a directory"):
        start_run(RunFiles(str(tmp_path / "run")), TRAINING, dataset)


def test_a_finished_run_is_loaded(dataset, tmp_path):
    config = start_run(RunFiles(str(tmp_path)), TRAINING, dataset)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "predictor.keras").touch()
    run = load_run(tmp_path)
    assert (run.dir, run.config) == (tmp_path, config)
    assert run.scale is QP
    assert run.predictor_path == tmp_path / "models" / "predictor.keras"


def test_the_missing_part_of_an_unfinished_run_is_named(dataset, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(UserError, match="There is no run in"):
        load_run(run_dir)
    run_dir.mkdir()
    with pytest.raises(UserError, match="There is no run in"):
        load_run(run_dir)
    start_run(RunFiles(str(run_dir)), TRAINING, dataset)
    with pytest.raises(UserError, match="has no finished model"):
        load_run(run_dir)


def test_a_run_resumes_with_other_workers_and_the_same_global_batch(dataset, tmp_path):
    store = RunFiles(str(tmp_path / "run"))
    before = start_run(store, TRAINING, dataset)
    several = ("cluster.num_workers=4", "cluster.cpu_devices=1")
    after = start_run(store, *read_run(store, [*several, "checkpoint_every=5 steps"]))
    assert after["training"]["cluster"]["num_workers"] == 4
    assert after["training"]["heads"] == TRAINING["heads"]
    assert before["training"]["heads"] == TRAINING["heads"]
    assert start_run(store, TRAINING, dataset)["training"]["cluster"]["num_workers"] == 1
