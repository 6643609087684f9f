"""Finished runs of all variants: predictions, backbones, run metadata and learning curves."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from laser_dist.errors import UserError
from laser_dist.evaluation.trained_run import (
    backbone_paths,
    dataset_record,
    load_backbones,
    load_trained_run,
    read_curves,
)
from laser_dist.models.autoencoder import build_autoencoder
from laser_dist.models.heads import build_head
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import build_predictor
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import E2E_REC, LAT, MJ_LAT, VARIANTS
from laser_dist.training.plan import head_name
from laser_dist.training.runs import read_dataset_card

pytestmark = pytest.mark.slow


def spec(variant, levels):
    return PredictorSpec(variant=variant, levels=levels, scale="QP", simulated=True)


def put_models(folder, *names):
    (folder / "models").mkdir()
    for name in names:
        (folder / "models" / f"{name}.keras").write_bytes(b"")


@pytest.mark.parametrize(
    ("variant", "levels", "names"),
    [
        ("lat", (2,), {2: "jnd2"}),
        ("rec", (1, 3), {1: "jnd1", 3: "jnd3"}),
        ("mj-lat", (1, 2, 3), {1: "jnd1", 2: "jnd2", 3: "jnd3"}),
        ("mj-rec", (1, 2, 3), {1: "jnd1", 2: "jnd2", 3: "jnd3"}),
        ("e2e-lat", (1, 2), {1: "e2e-lat-jnd1", 2: "e2e-lat-jnd2"}),
        ("e2e-rec", (3,), {3: "e2e-rec-jnd3"}),
    ],
)
def test_the_backbone_of_a_level_is_the_model_trained_on_its_frames(
    tmp_path, variant, levels, names
):
    every = ["image", "predictor", *(f"jnd{level}" for level in (1, 2, 3))]
    for each in VARIANTS:
        every += [f"{each.name}-jnd{level}" for level in (1, 2, 3)]
        every += [f"{each.name}-jnd{level}-head" for level in (1, 2, 3)]
    put_models(tmp_path, *every)
    found = backbone_paths(tmp_path, spec(variant, levels))
    assert {level: path.stem for level, path in found.items()} == names


def test_a_missing_backbone_is_left_out(tmp_path):
    put_models(tmp_path, "jnd1", "jnd3")
    assert list(backbone_paths(tmp_path, spec("mj-lat", (1, 2, 3)))) == [1, 3]
    assert backbone_paths(tmp_path / "none", spec("mj-lat", (1, 2, 3))) == {}


def test_a_backbone_maps_frames_to_frames(tmp_path):
    (tmp_path / "models").mkdir()
    frames = keras.Input((4, 8, 3))
    model = keras.Model(frames, keras.layers.Rescaling(0.5)(frames))
    model.save(tmp_path / "models" / "jnd2.keras")
    (level,), (backbone,) = zip(*load_backbones(tmp_path, spec("lat", (2,))).items(), strict=True)
    assert level == 2
    assert (backbone(np.full((1, 4, 8, 3), 100, np.uint8)) == 50).all()


def test_a_backbone_that_gives_nan_is_a_user_error(tmp_path):
    (tmp_path / "models").mkdir()
    frames = keras.Input((4, 8, 3))
    keras.Model(frames, keras.layers.Rescaling(np.inf)(frames)).save(
        tmp_path / "models" / "jnd2.keras"
    )
    (backbone,) = load_backbones(tmp_path, spec("lat", (2,))).values()
    with pytest.raises(UserError, match=r"jnd2\.keras predicts numbers that are not finite\."):
        backbone(np.zeros((1, 4, 8, 3), np.uint8))


def test_a_damaged_backbone_is_a_user_error(tmp_path):
    put_models(tmp_path, "jnd2")
    with pytest.raises(UserError, match="jnd2.keras"):
        load_backbones(tmp_path, spec("lat", (2,)))


TINY = BackboneSpec(filters=4, latent_filters=4, height=16, width=32)
HEADS = {
    "latent": HeadSpec(filters=(4, 8), dense=(5, 3), spread=True),
    "reconstructed": HeadSpec(
        filters=(4, 3), pool_every=1, attention_ratio=None, dense=(5,), spread=True
    ),
}


def make_run(folder, variant, levels):
    """Write a finished run, with untrained models."""
    autoencoders = [
        build_autoencoder(TINY, head_name(variant, k) if variant.end_to_end else f"jnd{k}")
        for k in levels
    ]
    starts = [20.0 + 5 * k for k in levels]
    each = [starts] if variant.num_levels > 1 else [[start] for start in starts]
    heads = [
        build_head(
            HEADS[variant.space],
            variant.feature_shape(TINY),
            levels=variant.num_levels,
            initial_levels=start,
            name=f"head{number}",
        )
        for number, start in enumerate(each)
    ]
    (folder / "models").mkdir()
    for autoencoder in autoencoders:
        autoencoder.save(folder / "models" / f"{autoencoder.name}.keras")
    predictor_spec = PredictorSpec(
        variant=variant.name, levels=levels, scale="QP", simulated=True, spread=True
    )
    build_predictor(autoencoders, heads, predictor_spec).save(folder / "models" / "predictor.keras")
    splits = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    name = {"name": "videoset_jnd/synthetic", "version": "1.0.0"}
    dataset = name | {
        "fingerprint": "abc", "scale": "QP", "simulated": True, "splits": splits,
    }  # fmt: skip
    config = {"variant": variant.name, "training": {}, "dataset": dataset}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("variant", "levels"),
    [(LAT, (2,)), (E2E_REC, (1, 3)), (MJ_LAT, (1, 2, 3))],
    ids=["lat", "e2e-rec", "mj-lat"],
)
def test_a_run_is_loaded_with_its_models_and_metadata(tmp_path, variant, levels):
    make_run(tmp_path, variant, levels)
    run = load_trained_run(tmp_path)
    assert (run.name, run.levels, run.spread) == (variant.name, levels, True)
    assert (run.width, run.height, run.fingerprint) == (32, 16, "abc")
    assert run.trained_on == {"a", "b"}
    assert run.curves == ()
    frames = np.zeros((2, 16, 32, 3), np.uint8)
    predicted = run.predict(frames)
    assert predicted.shape == (2, len(levels), 2)
    assert (predicted[..., 1] > 0).all()
    assert tuple(run.backbones) == levels
    for backbone in run.backbones.values():
        assert backbone(frames).shape == frames.shape
    file = load_trained_run(tmp_path / "models" / "predictor.keras")
    assert (file.name, file.levels, file.scale) == (variant.name, levels, "QP")
    assert (file.fingerprint, file.trained_on, file.backbones) == ("", frozenset(), {})
    np.testing.assert_array_equal(file.predict(frames), predicted)


def test_the_dataset_record_that_training_writes_is_complete(tmp_path):
    splits = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    info = {"name": "videoset_jnd", "configName": "synthetic", "version": "1.0.0"}
    metadata = {"fingerprint": "abc", "scale": "QP", "simulated": True, "splits": splits}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    record = dataset_record({"dataset": read_dataset_card(tmp_path)}, tmp_path)
    assert (record["fingerprint"], record["splits"]) == ("abc", splits)


@pytest.mark.parametrize(
    "config", [{}, {"dataset": None}, {"dataset": {}}, {"dataset": {"fingerprint": "a"}}]
)
def test_a_run_without_a_dataset_record_is_a_user_error(config):
    with pytest.raises(UserError, match="config.json does not record the fingerprint"):
        dataset_record(config, Path("runs/demo/run"))


def write_log(folder, stage, *rows):
    """Write rows of epoch, metric and value."""
    folder.mkdir(exist_ok=True)
    lines = ["stage,epoch,metric,value", *(f"{stage},{row}" for row in rows)]
    (folder / f"{stage}.csv").write_text("\n".join(lines) + "\n")


def test_curves_are_ordered_by_stage_and_epoch(tmp_path):
    write_log(tmp_path, "heads", "1,loss,9.0")
    write_log(tmp_path, "image", "2,loss,1.0", "1,loss,3.0", "1,val_loss,4.0")
    curves = read_curves(tmp_path)
    assert [(curve.stage, curve.metric) for curve in curves] == [
        ("image", "loss"),
        ("image", "val_loss"),
        ("heads", "loss"),
    ]
    assert curves[0].epochs.tolist() == [1, 2]
    assert curves[0].values.tolist() == [3.0, 1.0]


def test_an_epoch_repeated_after_a_resume_has_its_last_value(tmp_path):
    write_log(tmp_path, "image", "1,loss,5.0", "2,loss,4.0", "2,loss,3.0")
    (curve,) = read_curves(tmp_path)
    assert curve.values.tolist() == [5.0, 3.0]


def test_values_that_are_not_finite_are_dropped(tmp_path):
    write_log(tmp_path, "image", "1,loss,nan")
    assert read_curves(tmp_path) == ()


def test_a_run_without_logs_has_no_curves(tmp_path):
    assert read_curves(tmp_path / "metrics") == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("epoch,loss\n1,2\n", "no column stage"),
        ("stage,epoch,metric,value\na,b,c,d\n", "float"),
        ("stage,epoch,metric,value\na,1\n", "float"),
    ],
)
def test_a_damaged_log_is_a_user_error(tmp_path, text, reason):
    (tmp_path / "image.csv").write_text(text)
    with pytest.raises(UserError, match=f"image.csv.*{reason}"):
        read_curves(tmp_path)
