"""Examples by number: the same of every file format, from a disk and from a bucket."""

import json
import os
import shutil
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from s3 import BUCKET
from training_fakes import NUM_TRAIN, ManyPairs, TinyPairs, frame_pairs, joined, labels_of

from laser_dist.commands.locations import find_dataset
from laser_dist.errors import UserError
from laser_dist.training.examples.example_codec import features_of, sample_frames
from laser_dist.training.examples.records import open_records
from laser_dist.training.examples.shards import by_shard
from laser_dist.training.runs import read_dataset_card

FORMATS = ("tfrecord", "array_record", "parquet")
NUM_MANY = 50


class SampledPairs(ManyPairs):
    """The same, with viewers' samples: as many of a level as its example's number modulo 3."""

    def _info(self):
        info = super()._info()
        whole = tfds.features.Scalar(np.int64)
        samples = tfds.features.Sequence(tfds.features.Sequence(whole))
        features = tfds.features.FeaturesDict({**info.features, "viewer_samples": samples})
        return tfds.core.DatasetInfo(
            builder=self, features=features, metadata=tfds.core.MetadataDict(info.metadata)
        )

    def _generate_examples(self, numbers):
        for number, example in super()._generate_examples(numbers):
            yield number, example | {"viewer_samples": samples_of(number)}


def samples_of(number):
    return [[number, 50], [7] * (number % 3), [10, 20, 40 + number]]


def built(folder, file_format, builder=SampledPairs, num_shards=3):
    made = builder(data_dir=folder, file_format=file_format)
    config = tfds.download.DownloadConfig(num_shards=num_shards)
    made.download_and_prepare(download_config=config)
    return made.data_path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {each: built(tmp_path_factory.mktemp(each), each) for each in FORMATS}


@pytest.fixture(scope="module")
def data_dirs(folders, s3):
    """Of each format the URL of a bucket's folder that holds NAME/CONFIG/VERSION."""
    for file_format, folder in folders.items():
        s3.upload(folder, f"{file_format}/sampled_pairs/tiny/1.0.0")
    return {each: s3.url(each) for each in folders}


@pytest.fixture(scope="module")
def urls(data_dirs):
    return {each: find_dataset("sampled_pairs/tiny", place) for each, place in data_dirs.items()}


@pytest.fixture(scope="module")
def numbers(folders):
    """The examples in stored order, read by TFDS itself."""
    builder = tfds.builder_from_directory(folders["tfrecord"])
    return [
        row["source_id"].decode()
        for split in (f"train[{i}shard:{i + 1}shard]" for i in range(3))
        for row in tfds.as_numpy(builder.as_dataset(split=split))
    ]


def sources(records, indices):
    return [
        features_of(each)["source_id"].bytes_list.value[0].decode()
        for each in records.read(indices)
    ]


@pytest.mark.parametrize("place", ["folders", "urls"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_any_examples_are_had_in_any_order_of_any_format(request, numbers, place, file_format):
    location = request.getfixturevalue(place)[file_format]
    records = open_records(location, "train")
    assert len(records) == NUM_MANY
    rng = np.random.default_rng(0)
    for indices in (range(NUM_MANY), rng.permutation(NUM_MANY), [3, 49, 0, 3], []):
        assert sources(records, indices) == [numbers[index] for index in indices]


@pytest.mark.parametrize("place", ["folders", "urls"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_labels_are_those_of_the_dataset(request, numbers, place, file_format):
    labels = labels_of(request.getfixturevalue(place)[file_format])
    for row, number in enumerate(map(int, numbers)):
        assert labels.levels[row].tolist() == [number + 20, number + 25, number + 30]
        samples = [np.array(each, float) for each in samples_of(number)]
        means = [each.mean() if len(each) else np.nan for each in samples]
        variances = [each.var() if len(each) else np.nan for each in samples]
        np.testing.assert_allclose(labels.sample_means[row], means, rtol=1e-6)
        np.testing.assert_allclose(labels.sample_variances[row], variances, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_bucket_gives_the_batches_that_a_folder_gives(folders, urls, file_format):
    settings = {"batch_size": 6, "seed": 1, "flips": True}
    theirs = joined(frame_pairs(folders[file_format], "jnd2", **settings), 1)
    ours = joined(frame_pairs(urls[file_format], "jnd2", **settings), 2)
    assert len(ours) == len(theirs) == 9
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our[0], their[0])
        np.testing.assert_array_equal(our[1], their[1])
    sample = sample_frames(open_records(urls[file_format], "train"), 5, height=16, width=32)
    assert sample.shape == (5, 16, 32, 3)


def test_threads_can_read_at_the_same_time(folders, urls, numbers):
    for location in (*folders.values(), *urls.values()):
        records, wrong = open_records(location, "train"), []

        def read(seed, records=records, wrong=wrong):
            indices = np.random.default_rng(seed).permutation(NUM_MANY)[:20]
            if sources(records, indices) != [numbers[index] for index in indices]:
                wrong.append(seed)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_only_the_bytes_of_the_examples_are_read(folders, monkeypatch):
    records, read = open_records(folders["tfrecord"], "train"), []
    original = os.pread

    def counting(descriptor, length, offset):
        read.append(length)
        return original(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    payloads = records.read([7, 40])
    assert read == [len(each) + 4 for each in payloads]


def test_a_run_knows_a_dataset_in_a_bucket_by_its_url(folders, urls):
    ours, theirs = read_dataset_card(urls["tfrecord"]), read_dataset_card(folders["tfrecord"])
    assert ours == theirs | {"dir": urls["tfrecord"]}
    assert ours["dir"].startswith(f"s3://{BUCKET}/tfrecord/sampled_pairs/tiny/1.0.0?")


def test_the_newest_whole_version_is_found(tmp_path):
    for version in ("1.9.0", "1.10.0", "2.0.0", "scratch"):
        (tmp_path / "videoset_jnd" / "1080p" / version).mkdir(parents=True)
    base = tmp_path / "videoset_jnd" / "1080p"
    with pytest.raises(UserError, match="it has 1.10.0, 1.9.0, 2.0.0, scratch"):
        find_dataset("videoset_jnd/1080p", str(tmp_path))
    for version in ("1.9.0", "1.10.0", "scratch"):
        (base / version / "dataset_info.json").touch()
    assert find_dataset("videoset_jnd/1080p", str(tmp_path)) == str(base / "1.10.0")
    assert find_dataset("videoset_jnd/1080p/1.9.0", str(tmp_path)) == str(base / "1.9.0")
    with pytest.raises(UserError, match="no prepared dataset videoset_jnd/720p"):
        find_dataset("videoset_jnd/720p", str(tmp_path))


def test_a_dataset_in_googles_storage_is_found_and_read(folders, numbers, gs):
    gs.upload(Path(folders["tfrecord"]), "data/sampled_pairs/tiny/1.0.0")
    place = find_dataset("sampled_pairs/tiny", gs.url("data"))
    assert place == gs.url("data/sampled_pairs/tiny/1.0.0")
    assert sources(open_records(place, "train"), range(NUM_MANY)) == numbers
    assert read_dataset_card(place)["fingerprint"]


def test_a_dataset_in_a_bucket_is_found_by_its_own_url(urls, data_dirs):
    url = urls["parquet"]
    assert find_dataset(url) == url
    with pytest.raises(UserError, match="is not a prepared dataset"):
        find_dataset(data_dirs["parquet"])


@pytest.mark.parametrize("service", ["s3", "gs"])
def test_a_file_that_a_bucket_lacks_is_named(request, folders, tmp_path, service):
    copy = tmp_path / "copy"
    shutil.copytree(folders["tfrecord"], copy)
    lost = sorted(copy.glob("*-train.*"))[1]
    lost.unlink()
    store = request.getfixturevalue(service)
    store.upload(copy, "lacking")
    with pytest.raises(UserError, match=rf"its file {lost.name}, got none"):
        open_records(store.url("lacking"), "train")


def test_a_bucket_that_is_not_there_is_told_in_one_line(s3):
    nowhere = s3.url("data").replace(BUCKET, "nowhere")
    for find in (
        lambda: find_dataset("videoset_jnd/1080p", nowhere),
        lambda: open_records(nowhere, "train"),
        lambda: read_dataset_card(nowhere),
    ):
        with pytest.raises(UserError) as caught:
            find()
        assert "\n" not in caught.value.message
        assert "s3://nowhere/data" in str(caught.value)
    with pytest.raises(
        UserError, match="ftp://bucket/data/dataset_info.json is a URL of an unsupported kind"
    ):
        find_dataset("ftp://bucket/data")


def test_a_split_or_dataset_that_is_not_there_is_told(folders, tmp_path):
    with pytest.raises(UserError, match="a split nothing, got train"):
        open_records(folders["tfrecord"], "nothing")
    with pytest.raises(UserError, match="a prepared dataset"):
        open_records(tmp_path, "train")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_damaged_file_is_told_by_name(tmp_path, file_format):
    folder = built(tmp_path, file_format, TinyPairs, 1)
    (path,) = folder.glob("*-train.*")
    whole = path.read_bytes()

    def all_read():
        records = open_records(folder, "train")
        return records.read(range(len(records)))

    assert len(all_read()) == NUM_TRAIN
    for length in (len(whole) - 1, len(whole) // 2, 5):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"Dataset file .*{path.name}: ") as caught:
            all_read()
        assert "\n" not in caught.value.message
    path.unlink()
    with pytest.raises(UserError, match=rf"its file {path.name}, got none"):
        all_read()


def test_other_bytes_than_were_written_are_told(tmp_path):
    folder = built(tmp_path, "tfrecord", TinyPairs, 1)
    (path,) = folder.glob("*-train.*")
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[12 + length // 2] ^= 1
    path.write_bytes(content)
    records = open_records(folder, "train")
    assert len(records.read([1])) == 1
    with pytest.raises(UserError, match="the example that was written at byte 12, got other bytes"):
        records.read([0])
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="the beginning of an example at byte 0, got other bytes"):
        open_records(folder, "train")


def test_a_file_with_fewer_examples_than_the_metadata_say_is_told(tmp_path):
    folder = built(tmp_path, "tfrecord", TinyPairs, 1)
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    for split in info["splits"]:
        split["shardLengths"] = ["9"]
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match=f"expected 9 examples, got {NUM_TRAIN}"):
        open_records(folder, "train")


def test_examples_are_grouped_by_their_file():
    # Shards of 2, 0 and 3 examples: rows 0, 1 | | 0, 1, 2.
    found = [(shard, *map(list, rest)) for shard, *rest in by_shard([4, 0, 2, 1], (2, 0, 3))]
    assert found == [(0, [1, 3], [0, 1]), (2, [0, 2], [2, 0])]
