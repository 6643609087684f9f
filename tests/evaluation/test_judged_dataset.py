"""The adapter on a dataset that TFDS itself wrote, tiny and in the layout of ours."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from laser_dist.errors import UserError
from laser_dist.evaluation.dataset import TfdsDataset, fit_frames
from laser_dist.jnd.scale import QP

# TFDS asks protobuf for a field's label when it reads its own metadata; it does so with either
# of the two questions, and the newer protobuf warns about the older one.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")

SPLITS, FRAMES = {"train": [9], "test": [2, 1]}, (0, 3, 6)
IMAGES = ("raw", "jnd1", "jnd2", "jnd3")


def example(source, frame_index):
    """Frame `frame_index` of a source; its images tell which source, frame and level it is."""
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


class NamelessJnd(TinyJnd):
    METADATA = {"simulated": True}


class StrangeJnd(TinyJnd):
    METADATA = TinyJnd.METADATA | {"scale": "CRF"}


class SilentJnd(TinyJnd):
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


def build(builder_class, folder):
    builder = builder_class(data_dir=folder)
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture(scope="module", params=["examples alone", "a table of labels"])
def dataset(request, tmp_path_factory):
    """One that an earlier version has built, and one of today."""
    folder = Path(build(TinyJnd, tmp_path_factory.mktemp("data")))
    if request.param == "a table of labels":
        (folder / "labels").mkdir()
        for split, sources in SPLITS.items():
            rows = [example(source, index) for source in sources for index in FRAMES]
            labels = [{k: v for k, v in row.items() if k not in IMAGES} for row in rows]
            table = pa.Table.from_pylist(labels)
            pq.write_table(table, folder / "labels" / f"{split}.parquet")
    return TfdsDataset(folder, batch_size=4)


def test_metadata_are_read(dataset):
    info = dataset.info
    assert (info.name, info.version, info.fingerprint) == ("tiny_jnd", "0.1.0", "abc")
    assert (info.simulated, info.scale, info.seed) == (True, QP, 7)
    assert info.splits == {"train": ("videoSRC009",), "test": ("videoSRC001", "videoSRC002")}


def test_sources_are_sorted_and_once(dataset):
    test = dataset.sources("test")
    assert test.source_ids == ("videoSRC001", "videoSRC002")
    assert test.group_ids == ("photo0", "photo1")
    np.testing.assert_array_equal(test.levels, [[21, 26, 31], [22, np.nan, 32]])
    assert test.activity.tolist() == [[10, 1], [20, 2]]


def test_samples_are_those_of_each_level_and_none_of_a_missing_one(dataset):
    found = [[of.tolist() for of in samples] for samples in dataset.sources("test").viewer_samples]
    assert found == [[[20, 21], [30, 31, 32], [40]], [[20, 21], [], [40, 40]]]


def test_a_dataset_may_have_no_samples(tmp_path):
    test = TfdsDataset(build(SilentJnd, tmp_path)).sources("test")
    assert test.source_ids == ("videoSRC001", "videoSRC002")
    assert test.viewer_samples == ()


def test_every_raw_frame_comes_once_with_its_source(dataset):
    seen = []
    for source_ids, raw in dataset.raw_batches("test"):
        assert raw.dtype == np.uint8
        assert raw.shape[1:] == (4, 8, 3)
        assert [f"videoSRC{frame[0, 0, 0]:03d}" for frame in raw] == source_ids
        seen += [tuple(frame[0, 0]) for frame in raw]
    assert sorted(seen) == [(source, index, 0) for source in (1, 2) for index in (0, 3, 6)]


def test_a_frame_pair_is_the_middle_frame_at_all_levels(dataset):
    (pair,) = dataset.frame_pairs("test", ["videoSRC002"]).values()
    assert (pair.source_id, pair.frame_index) == ("videoSRC002", 3)
    assert pair.raw[0, 0].tolist() == [2, 3, 0]
    assert pair.coded[:, 0, 0].tolist() == [[2, 3, 1], [2, 3, 2], [2, 3, 3]]


def test_a_folder_that_is_no_dataset_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="folder of one version of a built dataset"):
        TfdsDataset(tmp_path)


def test_a_dataset_that_does_not_say_what_it_is_is_refused(tmp_path):
    with pytest.raises(UserError, match="no scale, fingerprint"):
        TfdsDataset(build(NamelessJnd, tmp_path))


def test_a_dataset_of_an_unknown_scale_is_refused(tmp_path):
    with pytest.raises(UserError, match="Scale of dataset strange_jnd.*one of QP, QF, got CRF"):
        TfdsDataset(build(StrangeJnd, tmp_path))


def test_frames_that_fit_are_not_touched():
    frames = np.zeros((2, 4, 8, 3), np.uint8)
    assert fit_frames(frames, width=8, height=4) is frames
    assert fit_frames(frames, width=16, height=2).shape == (2, 2, 16, 3)
