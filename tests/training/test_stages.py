import csv
import math
import re
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
from runs_of_stages import run_all
from training_fakes import (
    HEIGHT,
    LACKING,
    NUM_TRAIN,
    NUM_VALIDATION,
    WIDTH,
    GappyPairs,
    context,
    frame,
    levels_of,
)

from laser_dist.errors import UserError
from laser_dist.jnd.calibration import half_widths
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import predictor_spec_of
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.training import calibration
from laser_dist.training.config import StageConfig, TrainingConfig
from laser_dist.training.storage.logs import METRICS_FOLDER

pytestmark = pytest.mark.slow

FRAMES = StageConfig(epochs=1, batch_size=4, learning_rate=1e-3, crop=16)
CONFIG = TrainingConfig(
    variant="mj-lat",
    backbone=BackboneSpec(filters=4, latent_filters=4, height=HEIGHT, width=WIDTH),
    head=HeadSpec(filters=(4,), dense=(), pooling="average"),
    image=FRAMES,
    jnd=FRAMES,
    heads=StageConfig(epochs=2, batch_size=4, learning_rate=1e-3, flips=True, mixup=1.0),
    joint=StageConfig(epochs=2, batch_size=4, learning_rate=1e-3, flips=True),
)
ONE_LEVEL = replace(CONFIG, variant="lat", levels=(1,))


class ThirdLevelUnseen(GappyPairs):
    """Frame pairs without any third level in the validation split."""

    LACKING = {NUM_TRAIN + number: (3,) for number in range(NUM_VALIDATION)}


def test_a_level_that_a_split_lacks_is_refused_before_training(tmp_path):
    builder = ThirdLevelUnseen(data_dir=tmp_path / "data")
    builder.download_and_prepare()
    with pytest.raises(UserError, match="None of the 2 examples in split validation"):
        run_all(CONFIG, builder.data_path, context(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def trained(config, dataset_dir, run_dir):
    """Run all stages; return the predictor and all logged metrics."""
    run_all(config, dataset_dir, context(run_dir))
    predictor = keras.saving.load_model(run_dir / "models" / "predictor.keras", compile=False)
    assert isinstance(predictor, keras.Model)
    metrics = []
    for path in (run_dir / METRICS_FOLDER).glob("*.csv"):
        with path.open(newline="") as file:
            metrics += csv.DictReader(file)
    return predictor, metrics


@pytest.mark.usefixtures("_without_graphs")
@pytest.mark.parametrize(  # each kind of stage and head
    ("variant", "levels"), [("rec", (3,)), ("e2e-lat", (3,)), ("mj-lat", (1, 2, 3))]
)
def test_every_variant_trains_with_missing_levels(
    gappy_dir, tmp_path, variant, levels, monkeypatch
):
    # At 90%, two clips would be too few.
    monkeypatch.setattr(calibration, "half_widths", partial(half_widths, coverage=0.5))
    config = replace(CONFIG, variant=variant, levels=levels)
    predictor, metrics = trained(config, gappy_dir, tmp_path)
    assert all(np.isfinite(values).all() for values in predictor.get_weights())
    assert all(math.isfinite(float(row["value"])) for row in metrics)
    spec = predictor_spec_of(predictor)
    assert spec == PredictorSpec(
        variant=variant,
        levels=levels,
        scale="QP",
        simulated=True,
        residuals=spec.residuals,
    )
    # The validation split has two clips, each a group.
    columns = [level - 1 for level in levels]
    frames = np.stack([frame(NUM_TRAIN), frame(NUM_TRAIN + 1)]).astype(np.float32)
    true = np.stack([levels_of(NUM_TRAIN), levels_of(NUM_TRAIN + 1)])[:, columns]
    errors = np.asarray(predictor(frames)) - true
    np.testing.assert_allclose(sorted(spec.residuals.errors), sorted(errors.tolist()), atol=0.01)
    assert spec.residuals.groups == (0, 1)
    assert predictor.output_shape == (None, len(levels))
    # Biases start at the means of the present levels. No Adam step is longer than the learning
    # rate times (1 - 0.9) / sqrt(1 - 0.999).
    biases = [each.numpy() for each in predictor.weights if re.search(r"_output/bias$", each.path)]
    present = [levels_of(number, LACKING.get(number, ())) for number in range(NUM_TRAIN)]
    means = np.nanmean(present, axis=0)[columns]
    longest = 2 * -(-NUM_TRAIN // 4) * 1e-3 * 0.1 / math.sqrt(0.001)
    np.testing.assert_allclose(np.ravel(biases), means, atol=longest)


@pytest.mark.usefixtures("_without_graphs")
def test_finished_stages_are_not_trained_again(dataset_dir, tmp_path):
    first, _ = trained(ONE_LEVEL, dataset_dir, tmp_path)
    names = {path.stem for path in (tmp_path / "models").glob("*.keras")}
    assert names == {"image", "jnd1", "lat-jnd1", "predictor"}
    (tmp_path / "models" / "lat-jnd1.json").unlink()  # as if the head had not been finished
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoints/*/*")}
    second, _ = trained(ONE_LEVEL, dataset_dir, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoints/*/*")} == before
    for actual, expected in zip(second.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.usefixtures("_without_graphs")
def test_a_run_without_the_feature_cache_learns_the_same_weights(dataset_dir, tmp_path):
    config = replace(ONE_LEVEL, heads=replace(CONFIG.heads, epochs=1))
    cached, _ = trained(config, dataset_dir, tmp_path / "cached")
    computed, _ = trained(replace(config, feature_cache=False), dataset_dir, tmp_path / "computed")
    assert not (tmp_path / "computed" / "features").exists()
    for expected, actual in zip(cached.get_weights(), computed.get_weights(), strict=True):
        # Two Adam steps of 1e-3; rounding can reverse their direction if a gradient is near 0.
        np.testing.assert_allclose(expected, actual, atol=4.1e-3, rtol=1e-2)
    frames = np.random.default_rng(0).uniform(0, 255, (4, HEIGHT, WIDTH, 3)).astype(np.float32)
    np.testing.assert_allclose(cached(frames), computed(frames), rtol=0.01)


@pytest.mark.usefixtures("_without_graphs")
def test_bfloat16_has_similar_results_and_saves_float32(dataset_dir, tmp_path):
    policy = keras.config.dtype_policy()
    exact, metrics = trained(ONE_LEVEL, dataset_dir, tmp_path / "float32")
    keras.config.set_dtype_policy("mixed_bfloat16")  # as a worker does
    try:
        config = replace(ONE_LEVEL, precision="bfloat16")
        _, rough = trained(config, dataset_dir, tmp_path / "bfloat16")
    finally:
        keras.config.set_dtype_policy(policy)
    saved = tmp_path / "bfloat16" / "models" / "predictor.keras"
    rounded = keras.saving.load_model(saved, compile=False)
    assert {layer.compute_dtype for layer in rounded.layers} == {"float32"}

    def loss(rows, stage):
        (value,) = (
            float(row["value"])
            for row in rows
            if (row["stage"], row["epoch"], row["metric"]) == (stage, "1", "val_loss")
        )
        return value

    # The mean squared error is in the hundreds; a bfloat16 frame would be off by 2 of 255.
    assert loss(rough, "image") == pytest.approx(loss(metrics, "image"), rel=0.02)
    frames = np.zeros((1, HEIGHT, WIDTH, 3), np.float32)
    np.testing.assert_allclose(rounded(frames), exact(frames), atol=0.5)
