"""Recomputed features equal cached ones, except for the rounding to float16."""

import keras
import numpy as np
import pytest
from training_fakes import HEIGHT, WIDTH, Recording, context, labels_of

from laser_dist.models.autoencoder import build_autoencoder, encoder_of
from laser_dist.models.specs import BackboneSpec
from laser_dist.training.examples.features import ComputedFeatures, FeatureBatches
from laser_dist.training.examples.order import WorkerShard
from laser_dist.training.examples.records import open_records
from laser_dist.training.feature_cache import FeatureCache
from laser_dist.training.reuse import model_path

SPEC = BackboneSpec(filters=4, latent_filters=4, height=HEIGHT, width=WIDTH)
NAMES = ("jnd1", "jnd2")


@pytest.fixture(scope="module")
def extractors():
    keras.utils.set_random_seed(0)
    return {name: encoder_of(build_autoencoder(SPEC, name)) for name in NAMES}


@pytest.fixture
def kept(gappy_dir, tmp_path, extractors):
    (tmp_path / "models").mkdir()
    for name in NAMES:
        model_path(tmp_path, name).write_text(f"weights of {name}")
    records = {"train": open_records(gappy_dir, "train")}
    cache = FeatureCache(records, WorkerShard(), context(tmp_path), "latent")
    return cache.features("train", extractors, 2)


def batches(features, dataset_dir, **changes):
    settings = {"batch_size": 4, "seed": 3, "num_versions": 2, "mixup": 1.0, **changes}
    targets = labels_of(dataset_dir).targets((2, 3), spread=False)
    return FeatureBatches(features=features, targets=targets, **settings)


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.0}, {"seed": None}])
@pytest.mark.parametrize(
    "share",
    [WorkerShard(), WorkerShard(0, 2), WorkerShard(1, 2), WorkerShard(1, 3), WorkerShard(0, 1, 3)],
)
def test_fresh_features_make_the_same_batches_as_kept_ones(
    gappy_dir, kept, extractors, changes, share
):
    fresh = ComputedFeatures(open_records(gappy_dir, "train"), [*extractors.values()])
    ours = list(batches(kept, gappy_dir, shard=share, **changes).epoch(2))
    theirs = list(batches(fresh, gappy_dir, shard=share, **changes).epoch(2))
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.targets, other.targets)
        np.testing.assert_array_equal(one.weights, other.weights)
        for branch, values in zip(one.inputs, other.inputs, strict=True):
            # float16 rounds to one in 2048; blends add two of them.
            np.testing.assert_allclose(branch, values, rtol=2**-10, atol=2**-10)


def test_features_that_are_kept_are_not_computed_again(gappy_dir, tmp_path, kept, extractors):
    def times():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}

    before = times()
    assert len(before) == 4
    records = {"train": open_records(gappy_dir, "train")}
    cache = FeatureCache(records, WorkerShard(), context(tmp_path), "latent")
    cache.features("train", extractors, 2)
    assert times() == before
    model_path(tmp_path, "jnd2").write_text("other weights")
    cache.features("train", extractors, 2)
    after = times()
    kept = {path for path in before if after.get(path) == before[path]}
    assert {path.parent.name.rpartition("-")[0] for path in kept} == {"jnd1-latent"}
    assert len(kept) == 2
    # Those of the backbone that is no more are gone.
    new = {path.parent.name.rpartition("-")[0] for path in after.keys() - before.keys()}
    assert new == {"jnd2-latent"}
    assert len(after) == 4


def test_without_blends_only_a_workers_own_examples_are_read(gappy_dir, extractors):
    recording = Recording(open_records(gappy_dir, "train"))
    fresh = ComputedFeatures(recording, [*extractors.values()])
    source = batches(fresh, gappy_dir, mixup=0.0, shard=WorkerShard(1, 2))
    seen = []
    for batch in source.epoch(0):
        rows, recording.seen = recording.seen, []
        seen += rows
        assert len(rows) <= len(batch.weights)
    assert len(seen) == 4  # two of the first four; of the last three one, and one as padding
