"""A run's folder, whatever its variant: what it answers, and which backbones it has."""

import json

import keras
import numpy as np
import pytest

from laser_dist.errors import UserError
from laser_dist.evaluation.trained_run import backbone_paths, load_backbones, load_trained_run
from laser_dist.models.autoencoder import build_autoencoder
from laser_dist.models.heads import build_head
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import build_predictor
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import E2E_REC, LAT, MJ_LAT, VARIANTS
from laser_dist.training.plan import head_name


def answer(variant, levels):
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
def test_each_level_has_the_backbone_that_learnt_its_frame(tmp_path, variant, levels, names):
    every = ["image", "predictor", *(f"jnd{level}" for level in (1, 2, 3))]
    for each in VARIANTS:
        every += [f"{each.name}-jnd{level}" for level in (1, 2, 3)]
        every += [f"{each.name}-jnd{level}-head" for level in (1, 2, 3)]
    put_models(tmp_path, *every)
    found = backbone_paths(tmp_path, answer(variant, levels))
    assert {level: path.stem for level, path in found.items()} == names


def test_a_backbone_that_is_not_there_is_left_out(tmp_path):
    put_models(tmp_path, "jnd1", "jnd3")
    assert list(backbone_paths(tmp_path, answer("mj-lat", (1, 2, 3)))) == [1, 3]
    assert backbone_paths(tmp_path / "none", answer("mj-lat", (1, 2, 3))) == {}


def test_a_backbone_is_a_function_from_frames_to_frames(tmp_path):
    (tmp_path / "models").mkdir()
    frames = keras.Input((4, 8, 3))
    model = keras.Model(frames, keras.layers.Rescaling(0.5)(frames))
    model.save(tmp_path / "models" / "jnd2.keras")
    (level,), (backbone,) = zip(*load_backbones(tmp_path, answer("lat", (2,))).items(), strict=True)
    assert level == 2
    assert (backbone(np.full((1, 4, 8, 3), 100, np.uint8)) == 50).all()


def test_a_damaged_backbone_is_the_users_to_mend(tmp_path):
    put_models(tmp_path, "jnd2")
    with pytest.raises(UserError, match="whole Keras model file"):
        load_backbones(tmp_path, answer("lat", (2,)))


TINY = BackboneSpec(filters=4, latent_filters=4, height=16, width=32)
HEADS = {
    "latent": HeadSpec(filters=(4, 8), dense=(5, 3), spread=True),
    "reconstructed": HeadSpec(
        filters=(4, 3), pool_every=1, attention_ratio=None, dense=(5,), spread=True
    ),
}


def make_run(folder, variant, levels):
    """A finished run as training leaves it, untrained."""
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
    said = PredictorSpec(
        variant=variant.name, levels=levels, scale="QP", simulated=True, spread=True
    )
    build_predictor(autoencoders, heads, said).save(folder / "models" / "predictor.keras")
    splits = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    dataset = {"fingerprint": "abc", "scale": "QP", "simulated": True, "splits": splits}
    config = {"variant": variant.name, "training": {}, "dataset": dataset}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("variant", "levels"),
    [(LAT, (2,)), (E2E_REC, (1, 3)), (MJ_LAT, (1, 2, 3))],
    ids=["lat", "e2e-rec", "mj-lat"],
)
def test_a_run_of_any_variant_is_loaded_with_all_that_it_has(tmp_path, variant, levels):
    make_run(tmp_path, variant, levels)
    run = load_trained_run(tmp_path)
    assert (run.variant, run.levels, run.spread) == (variant.name, levels, True)
    assert (run.width, run.height, run.fingerprint) == (32, 16, "abc")
    assert run.trained_on == {"a", "b"}
    assert run.curves == ()
    frames = np.zeros((2, 16, 32, 3), np.uint8)
    answers = run.predict(frames)
    assert answers.shape == (2, len(levels), 2)
    assert (answers[..., 1] > 0).all()
    assert tuple(run.backbones) == levels
    for backbone in run.backbones.values():
        assert backbone(frames).shape == frames.shape
