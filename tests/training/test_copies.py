"""What lies in a bucket, brought to this machine."""

import pytest
from s3 import BUCKET

from laser_dist.errors import UserError
from laser_dist.training.storage.copies import (
    local_dataset,
    local_models,
    local_run,
    named_by_place,
)
from laser_dist.training.storage.run_store import RunStore

SHARD = "videoset_jnd-{}.tfrecord-00000-of-00001"
RUN = ("config.json", "models/predictor.keras", "models/jnd1.keras", "logs/metrics/jnd1.csv")
DATASET = (
    "metadata.json", "dataset_info.json", "quality/a.parquet", "quality/b.parquet",
    *(f"labels/{split}.parquet" for split in ("train", "test")),
    *(SHARD.format(split) for split in ("train", "validation", "test")),
)  # fmt: skip


@pytest.fixture(params=["s3", "gs"])
def bucket(request, tmp_path, monkeypatch):
    """Gives a place of a bucket, and puts files there."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "here"))
    service = request.getfixturevalue(request.param)

    def put(files, text="first"):
        for name in files:
            path = tmp_path / "there" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text} {name}")
        service.upload(tmp_path / "there", tmp_path.name)
        return service.url(tmp_path.name)

    return put


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_here_already_is_not_looked_at(tmp_path):
    assert local_run(str(tmp_path / "none")) == tmp_path / "none"
    assert local_dataset(str(tmp_path / "none"), ("test",)) == tmp_path / "none"


def test_of_a_run_come_its_models_and_figures_and_nothing_else(bucket):
    place = bucket((*RUN, "checkpoints/jnd1/epoch-001.npz", "features/train.npy"))
    assert files_of(local_run(place, predictor_alone=True)).keys() == set(RUN[:2])
    assert files_of(local_run(place)) == {name: f"first {name}" for name in RUN}
    bucket(RUN, "again")
    assert files_of(local_run(place)) == {name: f"again {name}" for name in RUN}


def test_what_another_process_is_bringing_is_left_to_it(bucket):
    place = bucket(RUN)
    folder = local_run(place)
    half, old = folder / "models" / ".jnd2.keras.1.unfinished", folder / "models" / "jnd3.keras"
    for path in (half, old):
        path.write_text("")
    local_run(place)
    assert half.exists()
    assert not old.exists()


def test_models_come_from_a_run_that_is_not_finished_and_from_a_folder_of_them(bucket):
    models = ("models/image.keras", "jnd1.keras")
    place = bucket((*models, "config.json", "models/image.json", "checkpoints/jnd1/epoch-001.npz"))
    folder = local_models(place)
    assert folder != RunStore(place).local  # where that run may be under way
    assert files_of(folder) == {name: f"first {name}" for name in models}
    old = folder / "models" / "jnd2.keras"
    old.write_text("of an earlier look")
    bucket(models, "again")
    assert files_of(local_models(place)) == {name: f"again {name}" for name in models}


@pytest.mark.parametrize(("files", "missing"), [(RUN[1:], RUN[0]), (RUN[:1], RUN[1])])
def test_a_run_that_is_not_finished_is_named_as_the_user_did(bucket, files, missing):
    place = bucket(files)
    with pytest.raises(UserError) as caught:
        local_run(place)
    said = f"Run {place}: expected a finished training, got no {missing}"
    assert str(caught.value).startswith(said)


def test_a_bucket_that_is_not_there_is_told(bucket):
    place = bucket(RUN).replace(BUCKET, "nowhere")
    with pytest.raises(UserError, match=r"nowhere.*no such bucket\. Check its name"):
        local_run(place)


def test_of_a_dataset_come_the_tables_and_the_examples_that_are_wanted(bucket):
    said = []
    folder = local_dataset(bucket(DATASET), ("test",), said.append)
    # Of validation there are no labels but in its examples.
    assert files_of(folder).keys() == set(DATASET) - {SHARD.format("train")}
    count = len(DATASET) - 1
    assert said[-1] == f"bringing the dataset here, file {count} of {count}"


def test_a_copy_is_taken_over_until_the_dataset_is_another(bucket):
    place = bucket(DATASET)
    folder = local_dataset(place, ("test",))
    shard = folder / SHARD.format("test")
    before = shard.stat().st_mtime_ns
    local_dataset(place, ("test",))
    assert shard.stat().st_mtime_ns == before
    bucket(DATASET, "other")  # files of the same size
    assert files_of(local_dataset(place, ("test",)))[shard.name] == f"other {shard.name}"


def test_errors_on_a_folder_are_left_alone(tmp_path):
    error = UserError("Model a", "one", "none", "Do.")
    with pytest.raises(UserError) as caught, named_by_place(str(tmp_path)):
        raise error
    assert caught.value is error
    assert error.__cause__ is None


@pytest.mark.parametrize("copied", [local_run, local_models])
def test_errors_speak_of_the_place_and_not_of_its_copy(bucket, copied):
    place = bucket(RUN)
    copy = copied(place)
    with pytest.raises(UserError) as caught, named_by_place("a/folder", place):
        raise UserError(f"Model {copy}/a", "one", f"none in {copy}", "Do.")
    assert str(caught.value) == f"Model {place}/a: expected one, got none in {place}. Do."
