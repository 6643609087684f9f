import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from predictor_parts import predictor_of, spec_of

from laser_dist.errors import UserError
from laser_dist.jnd.calibration import Residuals
from laser_dist.models.autoencoder import build_autoencoder, decoder_of, encoder_of
from laser_dist.models.heads import build_head
from laser_dist.models.predictors import (
    build_joint_model,
    build_predictor,
    change_spec,
    feature_extractor,
    predictor_spec_of,
)
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import (
    E2E_LAT,
    E2E_REC,
    LAT,
    MJ_LAT,
    MJ_REC,
    REC,
    VARIANTS,
    variant_named,
)

# Keras 3.15 turns a variable into an array by `np.array(variable)` while saving; TensorFlow's
# variables lack the `copy` argument that numpy 2 asks for. It makes a copy instead: harmless.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
]

TINY = BackboneSpec(filters=4, latent_filters=4, height=32, width=32)
TINY_HEADS = {
    "latent": HeadSpec(filters=(4, 8), dense=(5, 3)),
    "reconstructed": HeadSpec(
        filters=(4, 3), pool_every=1, attention_ratio=None, dense=(5,), shared_dense=True
    ),
}
EACH = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
END_TO_END = pytest.mark.parametrize("variant", [E2E_LAT, E2E_REC], ids=lambda each: each.name)


def parts(variant, spec=TINY, head_spec=None):
    autoencoders = [build_autoencoder(spec, name) for name in variant.required_backbones()]
    head = build_head(
        head_spec or TINY_HEADS[variant.space],
        variant.feature_shape(spec),
        levels=variant.num_levels,
        initial_levels=[25.0, 31.0, 36.0][: variant.num_levels],
    )
    return autoencoders, head


def raw_frames(num_frames=2):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (num_frames, *TINY.frame_shape)).astype("float32")


def run(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def identities(weights):
    return {id(weight) for weight in weights}


def encoder_of_first_branch(model):
    return next(layer for layer in all_layers(model) if layer.name.endswith("_encoder"))


def all_layers(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)


@pytest.mark.parametrize(
    ("variant", "published"),
    [
        (LAT, 9_783_225),
        (REC, 8_078_384),
        (E2E_LAT, 9_783_225),
        (E2E_REC, 8_078_384),
        (MJ_LAT, 26_070_091),
        # Published as 13.89 M. By hand: three autoencoders, of 1,443,776 and 1,443,587; per branch
        # the norm, 12, and R512, 9·3·512 + 512 + 4·512; then R256 … R32; 11·20·32 → 512 → 3 × 1.
        (
            MJ_REC,
            3 * (1_443_776 + 1_443_587 + 12 + 9 * 3 * 512 + 5 * 512)
            + sum(9 * a * b + 5 * b for a, b in [(512, 256), (256, 128), (128, 64), (64, 32)])
            + (11 * 20 * 32 * 512 + 512 + 3 * 513),
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_paper_models_have_exactly_the_published_parameters(variant, published):
    autoencoders, head = parts(variant, BackboneSpec(), variant.published_head)
    assert predictor_of(variant, autoencoders, head).count_params() == published
    if variant is MJ_REC:
        assert round(published / 1e6, 2) == 13.89
    if variant is E2E_LAT:
        joint = build_joint_model(variant, autoencoders[0], head)
        assert joint.count_params() == 11_226_812


@EACH
def test_predictor_is_the_head_after_the_backbones_in_order(variant):
    autoencoders, head = parts(variant)
    predictor = predictor_of(variant, autoencoders, head)
    raw = raw_frames()
    features = [run(feature_extractor(variant, each), raw) for each in autoencoders]
    assert all(each.shape == (2, *variant.feature_shape(TINY)) for each in features)

    levels = run(predictor, raw)

    assert levels.shape == (2, variant.num_levels)
    assert levels.dtype == np.float32
    expected = run(head, features if variant.num_levels == 3 else features[0])
    np.testing.assert_allclose(levels, expected, rtol=1e-5)


@EACH
def test_predictor_shares_weights_and_latent_ones_hold_no_decoder(variant):
    autoencoders, head = parts(variant)
    predictor = predictor_of(variant, autoencoders, head)
    used = list(head.weights)
    for autoencoder in autoencoders:
        used += (encoder_of(autoencoder) if variant.space == "latent" else autoencoder).weights
    assert identities(predictor.weights) == identities(used)
    transposed = [
        layer for layer in all_layers(predictor) if isinstance(layer, keras.layers.Conv2DTranspose)
    ]
    assert len(transposed) == (0 if variant.space == "latent" else 4 * variant.num_levels)


@EACH
def test_frozen_backbones_have_no_trainable_weight_also_after_loading(variant, tmp_path):
    autoencoders, head = parts(variant)
    predictor = predictor_of(variant, autoencoders, head)
    trainable = identities(predictor.trainable_weights)
    if variant.end_to_end:
        assert trainable > identities(head.trainable_weights)
        assert len(predictor.non_trainable_weights) == len(head.non_trainable_weights)
    else:
        assert trainable == identities(head.trainable_weights)
    predictor.save(tmp_path / "predictor.keras")
    loaded = keras.saving.load_model(tmp_path / "predictor.keras", safe_mode=True)
    assert len(loaded.trainable_weights) == len(trainable)


@EACH
def test_saved_predictor_gives_equal_levels(variant, tmp_path):
    autoencoders, head = parts(variant)
    predictor = predictor_of(variant, autoencoders, head)
    rng = np.random.default_rng(0)
    # Also the batch norms' statistics must come back, which at the start are 0 and 1.
    predictor.set_weights([rng.uniform(0.05, 0.2, weight.shape) for weight in predictor.weights])
    predictor.save(tmp_path / "predictor.keras")
    loaded = keras.saving.load_model(tmp_path / "predictor.keras", safe_mode=True)
    np.testing.assert_array_equal(run(loaded, raw_frames()), run(predictor, raw_frames()))
    again = keras.Model.from_config(predictor.get_config())
    assert again.get_config() == predictor.get_config()


def test_a_fresh_process_loads_a_predictor(tmp_path):
    predictor = predictor_of(MJ_LAT, *parts(MJ_LAT))
    predictor.save(tmp_path / "predictor.keras")
    np.save(tmp_path / "raw.npy", raw_frames())
    code = (
        "import numpy, pathlib\n"
        "from laser_dist.models.predictors import load_saved_model\n"
        "model = load_saved_model(pathlib.Path('predictor.keras'))\n"
        "numpy.save('levels.npy', model(numpy.load('raw.npy')))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=120
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "levels.npy"), run(predictor, raw_frames()), rtol=1e-5
    )


@END_TO_END
def test_joint_model_gives_the_frame_and_the_predictors_level(variant):
    [autoencoder], head = parts(variant)
    joint = build_joint_model(variant, autoencoder, head)
    predictor = predictor_of(variant, [autoencoder], head)
    frame, level = (
        keras.ops.convert_to_numpy(each) for each in joint(raw_frames(), training=False)
    )
    np.testing.assert_allclose(frame, run(autoencoder, raw_frames()), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(level, run(predictor, raw_frames()), rtol=1e-5)
    both = autoencoder.trainable_weights + head.trainable_weights
    assert identities(joint.trainable_weights) == identities(both)


@END_TO_END
def test_predictor_follows_the_training_of_the_joint_model(variant):
    [autoencoder], head = parts(variant)
    joint = build_joint_model(variant, autoencoder, head)
    predictor = predictor_of(variant, [autoencoder], head)
    before = run(predictor, raw_frames())
    first_kernel = encoder_of(autoencoder).get_layer("conv1").get_weights()[0]
    last_kernel = decoder_of(autoencoder).get_layer("reconstruction").get_weights()[0]
    # Eager: a traced step would take seconds to compile for its one use.
    joint.compile("adam", loss=["mse", "mae"], loss_weights=[0.01, 0.99], run_eagerly=True)
    joint.train_on_batch(raw_frames(), [raw_frames(), np.full((2, 1), 20.0)])
    assert (run(predictor, raw_frames()) != before).all()
    now = encoder_of(autoencoder).get_layer("conv1").get_weights()[0]
    assert (now != first_kernel).any()
    now = decoder_of(autoencoder).get_layer("reconstruction").get_weights()[0]
    assert (now != last_kernel).any()


def test_training_a_frozen_predictor_changes_only_the_head():
    autoencoders, head = parts(MJ_LAT)
    predictor = predictor_of(MJ_LAT, autoencoders, head)
    backbone_before = [weight for each in autoencoders for weight in each.get_weights()]
    head_before = head.get_layer("jnd1_output").get_weights()
    predictor.compile("adam", loss="mae", run_eagerly=True)
    predictor.train_on_batch(raw_frames(), np.full((2, 3), 20.0))
    backbone_now = [weight for each in autoencoders for weight in each.get_weights()]
    for now, before in zip(backbone_now, backbone_before, strict=True):
        np.testing.assert_array_equal(now, before)
    assert (head.get_layer("jnd1_output").get_weights()[1] != head_before[1]).all()


@EACH
def test_levels_stay_float32_and_close_under_mixed_precision(variant):
    keras.utils.set_random_seed(0)
    autoencoders, head = parts(variant)
    exact = predictor_of(variant, autoencoders, head)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        rounded = predictor_of(variant, *parts(variant))
    finally:
        keras.config.set_dtype_policy(policy)
    assert encoder_of_first_branch(rounded).get_layer("conv1").compute_dtype == "bfloat16"
    rounded.set_weights(exact.get_weights())
    levels = run(rounded, raw_frames())
    assert levels.dtype == np.float32
    # How far the output has moved from its bias is what bfloat16 computes, to about 1 in 100.
    moved = np.abs(run(exact, raw_frames()) - [25.0, 31.0, 36.0][: variant.num_levels])
    assert (np.abs(levels - run(exact, raw_frames())) <= 0.05 + 0.1 * moved).all()


@pytest.mark.parametrize("variant", [LAT, REC, E2E_LAT], ids=lambda each: each.name)
def test_single_level_parts_join_to_a_predictor_of_several_levels(variant):
    autoencoders = [build_autoencoder(TINY, f"jnd{level}") for level in (1, 3)]
    heads = [
        build_head(
            TINY_HEADS[variant.space],
            variant.feature_shape(TINY),
            levels=1,
            initial_levels=[20.0 + level],
            name=f"head{level}",
        )
        for level in (1, 3)
    ]
    predictor = build_predictor(autoencoders, heads, spec_of(variant, levels=(1, 3)))
    alone = [
        run(head, run(feature_extractor(variant, each), raw_frames()))
        for each, head in zip(autoencoders, heads, strict=True)
    ]
    np.testing.assert_allclose(run(predictor, raw_frames()), np.hstack(alone), rtol=1e-5)
    with pytest.raises(ValueError, match="needs 2 heads of distinct names"):
        build_predictor(autoencoders, heads[:1], spec_of(variant, levels=(1, 3)))


def test_a_saved_predictor_contains_its_spec(tmp_path):
    residuals = Residuals(errors=((0.5, -1.25, None), (2.0, 0.0, 3.0)), groups=(0, 1))
    spec = spec_of(MJ_LAT, scale="QF", simulated=False, residuals=residuals)
    predictor = build_predictor(parts(MJ_LAT)[0], [parts(MJ_LAT)[1]], spec)
    predictor.save(tmp_path / "predictor.keras")
    loaded = keras.saving.load_model(tmp_path / "predictor.keras", safe_mode=True)
    assert predictor_spec_of(loaded) == spec
    change_spec(loaded, residuals=None)
    assert predictor_spec_of(loaded) == replace(spec, residuals=None)
    with pytest.raises(ValueError, match="has no predictor spec"):
        predictor_spec_of(parts(MJ_LAT)[1])


def test_variants_are_the_combinations_the_paper_names():
    table = {each.name: (each.space, each.num_levels, each.end_to_end) for each in VARIANTS}
    assert table == {
        "lat": ("latent", 1, False),
        "rec": ("reconstructed", 1, False),
        "e2e-lat": ("latent", 1, True),
        "e2e-rec": ("reconstructed", 1, True),
        "mj-lat": ("latent", 3, False),
        "mj-rec": ("reconstructed", 3, False),
    }
    assert all(variant_named(each.name) is each for each in VARIANTS)


def test_variants_name_the_backbones_they_start_from():
    assert LAT.required_backbones(2) == REC.required_backbones(2) == ("jnd2",)
    assert E2E_LAT.required_backbones(2) == E2E_REC.required_backbones(2) == ("image",)
    assert MJ_LAT.required_backbones() == MJ_REC.required_backbones() == ("jnd1", "jnd2", "jnd3")
    with pytest.raises(ValueError, match="jnd_index must be 1, 2 or 3, got 0"):
        LAT.required_backbones(0)


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(
        UserError,
        match='Unknown variant "x". Known variants: lat, rec, e2e-lat, e2e-rec, mj-lat, mj-rec',
    ):
        variant_named("x")


def test_mismatching_parts_are_refused():
    autoencoders, head = parts(MJ_LAT)
    with pytest.raises(ValueError, match="needs 3 backbones of distinct names, got .'jnd1'."):
        predictor_of(MJ_LAT, autoencoders[:1], head)
    with pytest.raises(ValueError, match="needs 3 backbones of distinct names"):
        predictor_of(MJ_LAT, [autoencoders[0]] * 3, head)
    with pytest.raises(ValueError, match="heads of lat take features"):
        predictor_of(LAT, autoencoders[:1], head)
    with pytest.raises(ValueError, match="heads of rec take features"):
        predictor_of(REC, autoencoders[:1], parts(LAT)[1])
    with pytest.raises(ValueError, match="heads of mj-rec take features"):
        predictor_of(MJ_REC, autoencoders, head)
    with pytest.raises(ValueError, match="lat is not an end-to-end variant"):
        build_joint_model(LAT, autoencoders[0], parts(LAT)[1])
