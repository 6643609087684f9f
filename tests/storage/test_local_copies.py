"""Local copies of runs and datasets in a bucket."""

import os
import shutil

import pytest
from s3 import BUCKET

from laser_dist.errors import UserError
from laser_dist.storage.local_copies import (
    local_dataset,
    local_models,
    local_run,
    naming_locations,
)
from laser_dist.storage.run_files import RunFiles

pytestmark = pytest.mark.slow

SHARD = "videoset_jnd-{}.tfrecord-00000-of-00001"
RUN = ("config.json", "models/predictor.keras", "models/jnd1.keras", "logs/metrics/jnd1.csv")
DATASET = (
    "metadata.json", "dataset_info.json", "quality/a.parquet", "quality/b.parquet",
    *(f"labels/{split}.parquet" for split in ("train", "test")),
    *(SHARD.format(split) for split in ("train", "validation", "test")),
)  # fmt: skip


@pytest.fixture(params=["s3", "gs"])
def bucket(request, tmp_path, monkeypatch):
    """Return a function that puts files in a bucket and returns their URL."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
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
        if path.is_file() and path.suffix != ".copy"  # what was downloaded
    }


def test_a_local_path_is_returned_unchecked(tmp_path):
    assert local_run(str(tmp_path / "none")) == tmp_path / "none"
    assert local_dataset(str(tmp_path / "none"), ("test",)) == tmp_path / "none"


def test_the_models_and_metrics_of_a_run_are_copied_and_nothing_else(bucket):
    location = bucket((*RUN, "checkpoints/jnd1/epoch-001.npz", "features/train.npy"))
    assert files_of(local_run(location, predictor_only=True)).keys() == set(RUN[:2])
    assert files_of(local_run(location)) == {name: f"first {name}" for name in RUN}
    bucket(RUN, "again")
    assert files_of(local_run(location)) == {name: f"again {name}" for name in RUN}


def test_an_unfinished_file_of_another_process_is_kept(bucket):
    location = bucket(RUN)
    folder = local_run(location)
    half, old = folder / "models" / ".jnd2.keras.1.unfinished", folder / "models" / "jnd3.keras"
    for path in (half, old):
        path.write_text("")
    local_run(location)
    assert half.exists()
    assert not old.exists()
    os.utime(half, (0, 0))  # its process was killed long ago
    local_run(location)
    assert not half.exists()


def test_models_are_copied_from_an_unfinished_run_and_from_a_folder(bucket):
    models = ("models/image.keras", "jnd1.keras")
    location = bucket(
        (*models, "config.json", "models/image.json", "checkpoints/jnd1/epoch-001.npz")
    )
    folder = local_models(location)
    assert folder != RunFiles(location).local  # where that run may be under way
    assert files_of(folder) == {name: f"first {name}" for name in models}
    old = folder / "models" / "jnd2.keras"
    old.write_text("of an earlier look")
    bucket(models, "again")
    assert files_of(local_models(location)) == {name: f"again {name}" for name in models}


@pytest.mark.parametrize(("files", "missing"), [(RUN[1:], RUN[0]), (RUN[:1], RUN[1])])
def test_an_unfinished_run_is_named_by_its_url(bucket, files, missing):
    location = bucket(files)
    with pytest.raises(UserError) as caught:
        local_run(location)
    assert caught.value.message == f"{location} is not a finished run: it has no {missing}."


def test_a_bucket_that_does_not_exist_is_reported(bucket):
    location = bucket(RUN).replace(BUCKET, "nowhere")
    with pytest.raises(UserError, match=r"The bucket of .*nowhere.* does not exist\."):
        local_run(location)


def test_the_tables_of_a_dataset_and_the_wanted_examples_are_copied(bucket):
    said = []
    folder = local_dataset(bucket(DATASET), ("test",), said.append)
    others = {SHARD.format("train"), SHARD.format("validation")}
    assert files_of(folder).keys() == set(DATASET) - others
    count = len(DATASET) - 2
    assert said[-1] == f"Downloading the dataset: file {count} of {count}"


def test_a_copy_is_reused_until_the_dataset_changes(bucket):
    location = bucket(DATASET)
    folder = local_dataset(location, ("test",))
    shard = folder / SHARD.format("test")
    before = shard.stat().st_mtime_ns
    local_dataset(location, ("test",))
    assert shard.stat().st_mtime_ns == before
    bucket(DATASET, "other")  # files of the same size
    assert files_of(local_dataset(location, ("test",)))[shard.name] == f"other {shard.name}"


def test_a_changed_or_truncated_copy_is_downloaded_again(bucket):
    location = bucket(DATASET)
    folder = local_dataset(location, ("test",))
    shard = folder / SHARD.format("test")
    content, times = shard.read_bytes(), shard.stat()
    for damaged in (content[::-1], content[:5], b""):
        shard.write_bytes(damaged)
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
        local_dataset(location, ("test",))
        assert shard.read_bytes() == content


@pytest.mark.parametrize("name", ["models", "logs"])
def test_files_behind_a_link_in_a_copy_are_neither_written_nor_removed(bucket, tmp_path, name):
    location = bucket(RUN)
    folder = local_run(location)
    victim = tmp_path / "victim"
    (victim / "metrics").mkdir(parents=True)
    for path in (victim / "a.keras", victim / "a.txt", victim / "metrics" / "b.csv"):
        path.write_text("mine")
    before = files_of(victim)
    shutil.rmtree(folder / name)
    (folder / name).symlink_to(victim)
    for use in (local_run, local_models) if name == "models" else (local_run,):
        copy = RunFiles(location, "" if use is local_run else " given").local
        if not (copy / name).exists():
            (copy / name).symlink_to(victim)
        with pytest.raises(UserError, match=f"{name} cannot be used: it is a link"):
            use(location)
        with pytest.raises(UserError, match=f"{name} cannot be used: it is a link"):
            RunFiles(location).remove(folder / name / "metrics")
    assert files_of(victim) == before


def test_errors_about_a_folder_stay_as_they_are(tmp_path):
    error = UserError("Model a is none.", hint="Do.")
    with pytest.raises(UserError) as caught, naming_locations(str(tmp_path)):
        raise error
    assert caught.value is error
    assert error.__cause__ is None


@pytest.mark.parametrize("copied", [local_run, local_models])
def test_errors_about_a_copy_name_the_url(bucket, copied):
    location = bucket(RUN)
    copy = copied(location)
    with pytest.raises(UserError) as caught, naming_locations("a/folder", location):
        raise UserError(f"Model {copy}/a is not in {copy}.", hint=f"Look in {copy}.")
    assert caught.value.message == f"Model {location}/a is not in {location}."
    assert caught.value.hint == f"Look in {location}."
