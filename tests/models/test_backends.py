"""The models are Keras's alone: another backend gives the same answers, without TensorFlow."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from predictor_parts import spec_of

from laser_dist.models.autoencoder import build_autoencoder
from laser_dist.models.heads import build_head
from laser_dist.models.predictors import build_predictor
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import MJ_LAT, VARIANTS

pytestmark = pytest.mark.slow

TINY = BackboneSpec(filters=4, latent_filters=4, height=32, width=48)
HEADS = {
    "latent": HeadSpec(filters=(4, 8), dense=(5, 3)),
    "reconstructed": HeadSpec(
        filters=(4, 3), pool_every=1, attention_ratio=None, dense=(5,), shared_dense=True
    ),
}
# Every other layer that a head can have.
ALL_LAYERS = HeadSpec(
    filters=(4, 8), dense=(), pooling="average", ordered=True, spread=True, knee=0.5
)
# Imports what registers the layers, and nothing that could bring TensorFlow with it.
ANSWER = """
import json, sys
import keras, numpy
import laser_dist.models.predictors

assert keras.backend.backend() == "jax"
frames = numpy.load("frames.npy")
for name in json.loads(sys.argv[1]):
    model = keras.saving.load_model(f"{name}.keras", compile=False, safe_mode=True)
    numpy.save(f"{name}.npy", model.predict_on_batch(frames))
assert "tensorflow" not in sys.modules
"""


def run(model, frames):
    return keras.ops.convert_to_numpy(model(frames, training=False))


def predictor(variant, head_spec, says, frames):
    """One whose features, statistics and outputs are all alive: frames differ by a few levels."""
    backbones = [build_autoencoder(TINY, name) for name in variant.required_backbones()]
    shape = variant.feature_shape(TINY)
    head = build_head(
        head_spec, shape, levels=variant.num_levels, initial_levels=[25, 31, 36][: len(says.levels)]
    )
    model = build_predictor(backbones, [head], says)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        positive = weight.name in {"gamma", "moving_variance"}
        if positive or weight.name in {"beta", "moving_mean"}:
            weight.assign(rng.uniform(0.5 if positive else -0.5, 1.5, weight.shape))
        elif "dense" in weight.path and weight.name == "kernel":
            weight.assign(abs(weight.numpy()))
    # As large as real levels: of thousands, float32 would not keep the thousandths.
    outputs = run(model, frames).reshape(len(frames), len(says.levels), -1)
    largest = abs(outputs).max(axis=(0, 2))
    for layer, factor in zip(
        [each for each in head.layers if each.name.endswith("_output")], 30 / largest, strict=True
    ):
        layer.kernel.assign(layer.kernel * factor)
    return model


def test_tensorflow_predictors_give_the_same_output_under_jax(tmp_path):
    pytest.importorskip("jax", reason="the second backend is not installed")
    keras.utils.set_random_seed(6)  # some starts are dead, and would compare nothing
    rng = np.random.default_rng(1)
    # Coarse patterns: of fine noise, one frame's features are much like another's.
    frames = rng.uniform(0, 255, (3, 4, 6, 3)).repeat(8, axis=1).repeat(8, axis=2)
    frames = frames.astype("float32")
    np.save(tmp_path / "frames.npy", frames)
    models = {
        each.name: predictor(each, HEADS[each.space], spec_of(each), frames) for each in VARIANTS
    }
    models["all"] = predictor(MJ_LAT, ALL_LAYERS, spec_of(MJ_LAT, spread=True), frames)
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, json.dumps(list(models))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, model in models.items():
        levels = run(model, frames)
        assert np.ptp(levels, axis=0).min() > 1e-2, name  # not dead: then all would be the same
        np.testing.assert_allclose(
            np.load(tmp_path / f"{name}.npy"), levels, rtol=0, atol=1e-3, err_msg=name
        )
