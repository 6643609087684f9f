"""Recomputed features equal cached ones, except for the rounding to float16."""

import keras
import numpy as np
import pytest
from training_fakes import HEIGHT, WIDTH, RecordingRecords, context, labels_of, prepared

from laser_dist.examples.feature_files import Extractor
from laser_dist.examples.features import ComputedFeatures, FeatureBatches
from laser_dist.examples.frames import DecodedFrames
from laser_dist.examples.order import WorkerShard
from laser_dist.examples.records import open_records
from laser_dist.models.autoencoder import build_autoencoder, encoder_of
from laser_dist.models.specs import BackboneSpec
from laser_dist.training.feature_cache import FeatureCache
from laser_dist.training.reuse import model_path

pytestmark = pytest.mark.slow

SPEC = BackboneSpec(filters=4, latent_filters=4, height=HEIGHT, width=WIDTH)
NAMES = ("jnd1", "jnd2")


@pytest.fixture(scope="module")
def extractors():
    keras.utils.set_random_seed(0)
    return {name: Extractor([encoder_of(build_autoencoder(SPEC, name))]) for name in NAMES}


@pytest.fixture
def cached(gappy_dir, tmp_path, extractors):
    (tmp_path / "models").mkdir()
    for name in NAMES:
        model_path(tmp_path, name).write_text(f"weights of {name}")
    cache = feature_cache(gappy_dir, tmp_path)
    return cache.features("train", extractors, 2)


def frames_of(dataset_dir):
    return DecodedFrames(open_records(dataset_dir, "train"), (WIDTH, HEIGHT))


def feature_cache(dataset_dir, run_dir):
    frames = frames_of(dataset_dir)
    counts = {"train": len(frames)}
    return FeatureCache(lambda _: frames, counts, context(run_dir), "latent")


def batches(features, dataset_dir, **changes):
    settings = {"batch_size": 4, "seed": 3, "num_versions": 2, "mixup": 1.0, **changes}
    targets = labels_of(dataset_dir).targets((2, 3), spread=False)
    return FeatureBatches(features=features, targets=targets, **settings)


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.0}, {"seed": None}])
@pytest.mark.parametrize(
    "shard",
    [WorkerShard(), WorkerShard(0, 2), WorkerShard(1, 2), WorkerShard(1, 3), WorkerShard(0, 1, 3)],
)
def test_computed_features_give_the_same_batches_as_cached_features(
    gappy_dir, cached, extractors, changes, shard
):
    computed = ComputedFeatures(frames_of(gappy_dir), [each.model for each in extractors.values()])
    expected = list(batches(cached, gappy_dir, shard=shard, **changes).epoch(2))
    actual = list(batches(computed, gappy_dir, shard=shard, **changes).epoch(2))
    assert len(actual) == len(expected) == 2
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(one.targets, other.targets)
        np.testing.assert_array_equal(one.weights, other.weights)
        for branch, values in zip(prepared(one)[0], prepared(other)[0], strict=True):
            # float16 rounds with a relative error of 1/2048; a blend adds two rounded values.
            np.testing.assert_allclose(branch, values, rtol=2**-10, atol=2**-10)


def test_cached_features_are_not_recomputed(gappy_dir, tmp_path, cached, extractors):
    def times():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}

    before = times()
    assert len(before) == 4
    cache = feature_cache(gappy_dir, tmp_path)
    cache.features("train", extractors, 2)
    assert times() == before
    model_path(tmp_path, "jnd2").write_text("other weights")
    cache.features("train", extractors, 2)
    after = times()
    unchanged = {path for path in before if after.get(path) == before[path]}
    assert {path.parent.name.rpartition("-")[0] for path in unchanged} == {"jnd1-latent"}
    assert len(unchanged) == 2
    # The files of the replaced backbone are removed.
    new = {path.parent.name.rpartition("-")[0] for path in after.keys() - before.keys()}
    assert new == {"jnd2-latent"}
    assert len(after) == 4


def test_without_mixup_a_worker_reads_only_its_own_examples(gappy_dir, extractors):
    records = RecordingRecords(open_records(gappy_dir, "train"))
    frames = DecodedFrames(records, (WIDTH, HEIGHT))
    computed = ComputedFeatures(frames, [each.model for each in extractors.values()])
    source = batches(computed, gappy_dir, mixup=0.0, shard=WorkerShard(1, 2))
    seen = []
    for batch in source.epoch(0):
        rows, records.seen = records.seen, []
        seen += rows
        assert len(rows) <= len(batch.weights)
    assert len(seen) == 4  # two of the first four; one of the last three, and one as padding
