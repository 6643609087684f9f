"""`TfdsDataset` on tiny datasets that TFDS wrote, with the features of the real ones."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from label_tables import write_label_tables

from laser_dist.errors import UserError
from laser_dist.evaluation.dataset import TfdsDataset, fit_frames
from laser_dist.jnd.scale import QP

# TFDS reads the `label` of protobuf fields in its own metadata, which newer protobuf deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),
]

SPLITS, FRAMES = {"train": [9], "test": [2, 1]}, (0, 3, 6)
IMAGES = ("raw", "jnd1", "jnd2", "jnd3")


def example(source, frame_index):
    """Return an example; its images hold the source, frame and level as pixel values."""
    images = {
        name: np.full((4, 8, 3), [source, frame_index, level], np.uint8)
        for level, name in enumerate(IMAGES)
    }
    return images | {
        "source_id": f"videoSRC{source:03d}",
        "group_id": f"photo{source // 2}",
        "frame_index": frame_index,
        "jnd_levels": [source + 20, np.nan if source == 2 else source + 25, source + 30],
        "viewer_samples": [[20, 21], [30, 31, 32], [40] * source],
        "spatial_information": 10.0 * source,
        "temporal_information": 1.0 * source,
    }


class TinyJnd(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("0.1.0")
    METADATA = {
        "simulated": True,
        "scale": "QP",
        "fingerprint": "abc",
        "seed": 7,
        "splits": {"train": ["videoSRC009"], "test": ["videoSRC001", "videoSRC002"]},
    }

    def _info(self):
        features = {name: tfds.features.Image(shape=(4, 8, 3)) for name in IMAGES} | {
            "source_id": tfds.features.Text(),
            "group_id": tfds.features.Text(),
            "frame_index": np.int64,
            "jnd_levels": tfds.features.Tensor(shape=(3,), dtype=np.float32),
            "viewer_samples": tfds.features.Sequence(
                tfds.features.Sequence(tfds.features.Scalar(np.int64))
            ),
            "spatial_information": np.float32,
            "temporal_information": np.float32,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self.METADATA),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(sources) for split, sources in SPLITS.items()}

    def _generate_examples(self, sources):
        for source in sources:
            for frame_index in FRAMES:
                yield f"{source}-{frame_index}", example(source, frame_index)


class IncompleteJnd(TinyJnd):
    METADATA = {"simulated": True}


class UnknownScaleJnd(TinyJnd):
    METADATA = TinyJnd.METADATA | {"scale": "CRF"}


class NoSamplesJnd(TinyJnd):
    def _info(self):
        info = super()._info()
        features = {k: feature for k, feature in info.features.items() if k != "viewer_samples"}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self.METADATA),
        )

    def _generate_examples(self, sources):
        for key, values in super()._generate_examples(sources):
            yield key, {k: value for k, value in values.items() if k != "viewer_samples"}


def build(builder_class, folder, file_format=None):
    builder = builder_class(data_dir=folder, file_format=file_format)
    builder.download_and_prepare()
    write_label_tables(builder.data_path)
    return builder.data_path


@pytest.fixture(scope="module", params=["tfrecord", "parquet", "array_record"])
def dataset(request, tmp_path_factory):
    folder = build(TinyJnd, tmp_path_factory.mktemp("data"), request.param)
    return TfdsDataset(Path(folder), batch_size=4)


def test_metadata_is_read(dataset):
    info = dataset.info
    assert (info.name, info.version, info.fingerprint) == ("tiny_jnd", "0.1.0", "abc")
    assert (info.simulated, info.scale, info.seed) == (True, QP, 7)
    assert info.splits == {"train": ("videoSRC009",), "test": ("videoSRC001", "videoSRC002")}


def test_sources_are_sorted_and_unique(dataset):
    test = dataset.sources("test")
    assert test.source_ids == ("videoSRC001", "videoSRC002")
    assert test.group_ids == ("photo0", "photo1")
    np.testing.assert_array_equal(test.levels, [[21, 26, 31], [22, np.nan, 32]])
    assert test.activity.tolist() == [[10, 1], [20, 2]]


def test_a_missing_level_has_no_samples(dataset):
    samples = dataset.sources("test").viewer_samples
    found = [[of_level.tolist() for of_level in of_source] for of_source in samples]
    assert found == [[[20, 21], [30, 31, 32], [40]], [[20, 21], [], [40, 40]]]


def test_a_dataset_without_samples_is_read(tmp_path):
    test = TfdsDataset(build(NoSamplesJnd, tmp_path)).sources("test")
    assert test.source_ids == ("videoSRC001", "videoSRC002")
    assert test.viewer_samples == ()


def test_raw_batches_yield_each_frame_once_with_its_source(dataset):
    seen = []
    for source_ids, raw in dataset.raw_batches("test"):
        assert raw.dtype == np.uint8
        assert raw.shape[1:] == (4, 8, 3)
        assert [f"videoSRC{frame[0, 0, 0]:03d}" for frame in raw] == source_ids
        seen += [tuple(frame[0, 0]) for frame in raw]
    assert sorted(seen) == [(source, index, 0) for source in (1, 2) for index in (0, 3, 6)]


def test_other_splits_take_sources_from_several_stored_splits(tmp_path):
    splits = {"train": ["videoSRC001"], "test": ["videoSRC009", "videoSRC002"]}
    dataset = TfdsDataset(Path(build(TinyJnd, tmp_path)), splits=splits, batch_size=4)
    assert dataset.info.splits["test"] == ("videoSRC009", "videoSRC002")
    assert dataset.sources("test").source_ids == ("videoSRC002", "videoSRC009")
    assert dataset.sources("train").source_ids == ("videoSRC001",)
    seen = []
    for source_ids, raw in dataset.raw_batches("test"):
        seen += zip(source_ids, *raw[:, 0, 0, :2].T.tolist(), strict=True)
    expected = [(f"videoSRC{n:03d}", n, index) for n in (2, 9) for index in FRAMES]
    assert sorted(seen) == sorted(expected)
    frames = dataset.middle_frames("test", ["videoSRC009", "videoSRC002"])
    assert {key: each.raw[0, 0, 0] for key, each in frames.items()} == {
        "videoSRC002": 2, "videoSRC009": 9,
    }  # fmt: skip


def test_middle_frames_are_returned_at_all_levels(dataset):
    (frames,) = dataset.middle_frames("test", ["videoSRC002"]).values()
    assert (frames.source_id, frames.frame_index) == ("videoSRC002", 3)
    assert frames.raw[0, 0].tolist() == [2, 3, 0]
    assert frames.encoded[:, 0, 0].tolist() == [[2, 3, 1], [2, 3, 2], [2, 3, 3]]


def test_a_folder_without_a_dataset_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="Cannot read a dataset from"):
        TfdsDataset(tmp_path)


def test_a_dataset_with_incomplete_metadata_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="lacks scale, fingerprint"):
        TfdsDataset(build(IncompleteJnd, tmp_path))


def test_a_dataset_of_an_unknown_scale_is_a_user_error(tmp_path):
    with pytest.raises(
        UserError, match=r"(?i)dataset unknown_scale_jnd.*CRF|CRF.*dataset unknown_scale_jnd"
    ):
        TfdsDataset(build(UnknownScaleJnd, tmp_path))


def test_fit_frames_scales_frames_of_another_size_only():
    frames = np.zeros((2, 4, 8, 3), np.uint8)
    assert fit_frames(frames, width=8, height=4) is frames
    assert fit_frames(frames, width=16, height=2).shape == (2, 2, 16, 3)
