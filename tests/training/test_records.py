"""Random access to examples, on a disk and in a bucket."""

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

from laser_dist.errors import UserError
from laser_dist.examples.example_codec import features_of
from laser_dist.examples.frames import DecodedFrames, sample_frames
from laser_dist.examples.records import open_records
from laser_dist.storage.prepared_datasets import find_dataset
from laser_dist.training.runs import read_dataset_card

pytestmark = pytest.mark.slow

NUM_MANY = 50


class SampledPairs(ManyPairs):
    """Frame pairs with viewers' samples: for JND2, the example's number modulo 3 of them."""

    def _info(self):
        info = super()._info()
        integer = tfds.features.Scalar(np.int64)
        samples = tfds.features.Sequence(tfds.features.Sequence(integer))
        features = tfds.features.FeaturesDict({**info.features, "viewer_samples": samples})
        return tfds.core.DatasetInfo(
            builder=self, features=features, metadata=tfds.core.MetadataDict(info.metadata)
        )

    def _generate_examples(self, numbers):
        for number, example in super()._generate_examples(numbers):
            yield number, example | {"viewer_samples": samples_of(number)}


def samples_of(number):
    return [[number, 50], [7] * (number % 3), [10, 20, 40 + number]]


def built(folder, builder=SampledPairs, num_shards=3, file_format=None):
    made = builder(data_dir=folder, file_format=file_format)
    config = tfds.download.DownloadConfig(num_shards=num_shards)
    made.download_and_prepare(download_config=config)
    return made.data_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return built(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def data_dir(folder, s3):
    """Return the URL of a bucket's folder that contains NAME/CONFIG/VERSION."""
    s3.upload(folder, "data/sampled_pairs/tiny/1.0.0")
    return s3.url("data")


@pytest.fixture(scope="module")
def url(data_dir):
    return find_dataset("sampled_pairs/tiny", data_dir)


@pytest.fixture(scope="module")
def numbers(folder):
    """Return the source IDs in stored order, as read by TFDS."""
    builder = tfds.builder_from_directory(folder)
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


@pytest.mark.parametrize("location", ["folder", "url"])
def test_examples_are_read_in_any_order(request, numbers, location):
    records = open_records(request.getfixturevalue(location), "train")
    assert len(records) == NUM_MANY
    rng = np.random.default_rng(0)
    for indices in (range(NUM_MANY), rng.permutation(NUM_MANY), [3, 49, 0, 3], []):
        assert sources(records, indices) == [numbers[index] for index in indices]


@pytest.mark.parametrize("location", ["folder", "url"])
def test_labels_equal_those_of_the_examples(request, numbers, location):
    labels = labels_of(request.getfixturevalue(location))
    for row, number in enumerate(map(int, numbers)):
        assert labels.levels[row].tolist() == [number + 20, number + 25, number + 30]
        samples = [np.array(each, float) for each in samples_of(number)]
        means = [each.mean() if len(each) else np.nan for each in samples]
        variances = [each.var() if len(each) else np.nan for each in samples]
        np.testing.assert_allclose(labels.sample_means[row], means, rtol=1e-6)
        np.testing.assert_allclose(labels.sample_variances[row], variances, rtol=1e-6, atol=1e-9)


def test_a_bucket_gives_the_same_batches_as_a_folder(folder, url):
    settings = {"batch_size": 6, "seed": 1, "flips": True}
    expected = joined(frame_pairs(folder, "jnd2", **settings), 1)
    actual = joined(frame_pairs(url, "jnd2", **settings), 2)
    assert len(actual) == len(expected) == 9
    for step, expected_step in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(step[0], expected_step[0])
        np.testing.assert_array_equal(step[1], expected_step[1])
    sample = sample_frames(DecodedFrames(open_records(url, "train"), (32, 16)), 5)
    assert sample.shape == (5, 16, 32, 3)


def test_threads_can_read_at_the_same_time(folder, url, numbers):
    for location in (folder, url):
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


def test_only_the_bytes_of_the_examples_are_read(folder, monkeypatch):
    records, read = open_records(folder, "train"), []
    original = os.pread

    def counting(descriptor, length, offset):
        read.append(length)
        return original(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    payloads = records.read([7, 40])
    assert read == [len(each) + 4 for each in payloads]


def test_the_card_of_a_dataset_in_a_bucket_contains_its_url(folder, url):
    card = read_dataset_card(url)
    assert card == read_dataset_card(folder) | {"dir": url}
    assert card["dir"].startswith(f"s3://{BUCKET}/data/sampled_pairs/tiny/1.0.0?")


def test_the_newest_complete_version_is_found(tmp_path):
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


def test_a_dataset_in_google_cloud_storage_is_found_and_read(folder, numbers, gs):
    gs.upload(Path(folder), "data/sampled_pairs/tiny/1.0.0")
    location = find_dataset("sampled_pairs/tiny", gs.url("data"))
    assert location == gs.url("data/sampled_pairs/tiny/1.0.0")
    assert sources(open_records(location, "train"), range(NUM_MANY)) == numbers
    assert read_dataset_card(location)["fingerprint"]


def test_a_dataset_in_a_bucket_is_found_by_its_own_url(url, data_dir):
    assert find_dataset(url) == url
    with pytest.raises(UserError, match="is not a prepared dataset"):
        find_dataset(data_dir)


@pytest.mark.parametrize("service", ["s3", "gs"])
def test_a_file_that_is_missing_in_a_bucket_is_named(request, folder, tmp_path, service):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    lost = sorted(copy.glob("*-train.*"))[1]
    lost.unlink()
    store = request.getfixturevalue(service)
    store.upload(copy, "lacking")
    with pytest.raises(UserError, match=rf"{lost.name}.* is missing"):
        open_records(store.url("lacking"), "train")


def test_an_unknown_bucket_is_named(s3):
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


@pytest.fixture(scope="module", params=["array_record", "parquet"])
def converted(request, tmp_path_factory):
    """Return a dataset in another file format, and its source IDs as read by TFDS."""
    folder = built(tmp_path_factory.mktemp("converted"), file_format=request.param)
    rows = tfds.builder_from_directory(folder).as_data_source("train")
    return folder, [row["source_id"].decode() for row in rows]


def test_examples_in_other_file_formats_are_read_as_tfds_reads_them(converted, s3):
    folder, numbers = converted
    s3.upload(folder, folder.parents[2].name)
    assert sorted(numbers, key=int) == [*map(str, range(NUM_MANY))]
    for location in (folder, s3.url(folder.parents[2].name)):
        records = open_records(location, "train")
        assert sources(records, range(NUM_MANY)) == numbers
        assert sources(records, [7, 0, 49]) == [numbers[7], numbers[0], numbers[49]]


def test_a_replaced_shard_in_another_format_is_read_again(converted, tmp_path):
    folder, _ = converted
    copy = shutil.copytree(folder, tmp_path / "copy")
    first, second, _ = sorted(copy.glob("*-train.*"))
    expected = sources(open_records(copy, "train"), range(NUM_MANY))
    shards = json.loads((copy / "dataset_info.json").read_text())["splits"][0]["shardLengths"]
    count, of_second = map(int, shards[:2])
    shutil.copyfile(second, first)
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace(f'"{count}"', f'"{of_second}"', 1))
    replaced = open_records(copy, "train")
    repeated = expected[count : count + of_second]
    assert sources(replaced, range(2 * of_second)) == [*repeated, *repeated]
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"Dataset file .*{first.name} is damaged") as caught:
        open_records(copy, "train")
    assert "\n" not in caught.value.message
    first.unlink()
    with pytest.raises(UserError, match=rf"Dataset file .*{first.name} is missing"):
        open_records(copy, "train")


@pytest.mark.parametrize(
    ("file_format", "message"),
    [("riegeli", "cannot be read: No module"), ("zip", "zip files, which TFDS does not know")],
)
def test_a_file_format_that_cannot_be_read_is_named(folder, tmp_path, file_format, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', f'"{file_format}"'))
    for path in copy.glob("*-train.*"):
        path.rename(path.with_name(path.name.replace("tfrecord", file_format)))
    with pytest.raises(UserError, match=message):
        open_records(copy, "train")


def test_an_unknown_split_or_dataset_is_named(folder, tmp_path):
    with pytest.raises(UserError, match='has no split "nothing"; it has train'):
        open_records(folder, "nothing")
    with pytest.raises(UserError, match="is not a prepared dataset"):
        open_records(tmp_path, "train")


def test_a_truncated_or_missing_file_is_named(tmp_path):
    folder = built(tmp_path, TinyPairs, 1)
    (path,) = folder.glob("*-train.*")
    content = path.read_bytes()

    def read_all():
        records = open_records(folder, "train")
        return records.read(range(len(records)))

    assert len(read_all()) == NUM_TRAIN
    for length in (len(content) - 1, len(content) // 2, 5):
        path.write_bytes(content[:length])
        with pytest.raises(
            UserError, match=rf"Dataset file .*{path.name} is damaged: it ends"
        ) as caught:
            read_all()
        assert "\n" not in caught.value.message
    path.unlink()
    with pytest.raises(UserError, match=rf"Dataset file .*{path.name} is missing"):
        read_all()


def test_changed_bytes_are_found(tmp_path):
    folder = built(tmp_path, TinyPairs, 1)
    (path,) = folder.glob("*-train.*")
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[12 + length // 2] ^= 1
    path.write_bytes(content)
    records = open_records(folder, "train")
    assert len(records.read([1])) == 1
    with pytest.raises(UserError, match="the example at byte 12 does not match its checksum"):
        records.read([0])
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="no example starts at byte 0"):
        open_records(folder, "train")


def test_a_file_with_fewer_examples_than_in_the_metadata_is_damaged(tmp_path):
    folder = built(tmp_path, TinyPairs, 1)
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    for split in info["splits"]:
        split["shardLengths"] = ["9"]
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match=f"it has {NUM_TRAIN} of 9 examples"):
        open_records(folder, "train")
