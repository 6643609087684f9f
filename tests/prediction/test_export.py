"""Exported models answer as Keras does, say what they are, and refuse what they are not."""

import hashlib
import json
from dataclasses import replace

import keras
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import tensorflow as tf
from command_line import laser_jnd_here, refusal
from onnx_graphs import about, graph_of, mean_color

from laser_dist.errors import UserError
from laser_dist.jnd.calibration import Residuals
from laser_dist.models.autoencoder import build_autoencoder
from laser_dist.models.heads import build_head
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import PredictorSpecLayer, build_predictor
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import variant_named
from laser_dist.prediction import export
from laser_dist.prediction.export import export_model
from laser_dist.prediction.exported import Metadata, load_onnx
from laser_dist.prediction.load import load_predictor
from laser_dist.prediction.predict import predict_frames
from laser_dist.training import config

pytestmark = pytest.mark.slow

SMALL = BackboneSpec(filters=4, latent_filters=6, height=32, width=48)
HEAD = HeadSpec(filters=(6, 8), dense=(5,), pooling="average", knee=0.2, spread=True)
FLOATS = [("onnx", ".onnx"), ("openvino", ".xml")]


def residuals_of(levels):
    """Return errors of 40 clips, all of the size of the level plus 3."""
    sizes = [3.0 + level for level in levels]
    return Residuals.of_clips(np.outer(np.tile([-1, 1], 20), sizes), ["a", "a", "b", "b"] * 10)


def build(name, backbone=SMALL, head=HEAD, *, levels=(1, 2, 3)):
    """Build a predictor of a variant with random weights."""
    keras.utils.set_random_seed(1)
    variant, is_multi = variant_named(name), name.startswith("mj")
    backbones = [build_autoencoder(backbone, f"jnd{level}") for level in levels]
    shape, starts = variant.feature_shape(backbone), dict(zip((1, 2, 3), (26, 30, 35), strict=True))
    groups = [levels] if is_multi else [(level,) for level in levels]
    heads = [
        build_head(
            head, shape, levels=len(group), initial_levels=[starts[each] for each in group],
            name=f"head{group[0]}",
        )
        for group in groups
    ]  # fmt: skip
    spec = PredictorSpec(
        variant=name,
        levels=levels,
        scale="QP",
        simulated=True,
        spread=head.spread,
        residuals=residuals_of(levels),
    )
    return build_predictor(backbones, heads, spec)


def textured(height, width):
    """Return nine frames of random brightness and texture, so that levels differ."""
    rng = np.random.default_rng(0)
    means, strengths = rng.uniform(40, 200, (9, 1, 1, 3)), rng.uniform(0, 40, (9, 1, 1, 1))
    noise = rng.normal(size=(9, height, width, 3))
    return np.clip(means + strengths * noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    return build("mj-lat")


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "predictor.keras"
    model.save(path)
    return path


def mean_color_model(layer):
    """Build a model whose levels are a layer's output for the mean color."""
    frames = keras.Input((8, 16, 3))
    levels = layer(keras.layers.GlobalAveragePooling2D()(frames))
    spec = {"variant": "mj-lat", "levels": (1, 2, 3), "scale": "QP", "simulated": True}
    return keras.Model(frames, PredictorSpecLayer(spec)(levels))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "predictor.keras"
    mean_color_model(keras.layers.Rescaling(0.5)).save(path)
    return path


def in_keras(model, frames):
    return np.asarray(model(frames.astype(np.float32), training=False))


@pytest.mark.parametrize(("to", "suffix"), FLOATS)
def test_an_exported_model_answers_as_keras_and_says_what_it_is(
    source, model, tmp_path, to, suffix
):
    output = tmp_path / f"exported{suffix}"
    noise = (1.0, 1.5, 2.0)
    exported = export_model(source, output, textured, to=to, label_noise=noise)
    loaded = load_predictor(output)
    other = np.random.default_rng(1).integers(256, size=(5, 32, 48, 3), dtype=np.uint8)
    found, expected = predict_frames(loaded, other), in_keras(model, other)
    assert found.shape == (5, 3, 2)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.ptp(expected[..., 0], axis=0).min() > 0.1  # far more than the tolerance
    spec = PredictorSpec(
        variant="mj-lat", levels=(1, 2, 3), scale="QP", simulated=True, spread=True,
        residuals=residuals_of((1, 2, 3)),
    )  # fmt: skip
    assert loaded.spec == spec
    assert (loaded.width, loaded.height, loaded.scale.name) == (48, 32, "QP")
    assert loaded.runtime.startswith({"onnx": "ONNX Runtime 1.", "openvino": "OpenVINO 20"}[to])
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert exported.metadata == Metadata(
        spec=spec, width=48, height=32, precision="float32", source=digest, label_noise=noise
    )
    card = (tmp_path / f"exported{suffix}.md").read_text()
    for text in (
        "SIMULATED",
        "± 4.00, ± 5.00, ± 6.00",
        "1.00, 1.50, 2.00",
        digest,
        "[N, 32, 48, 3]",
    ):
        assert text in card
    names = {"onnx": {"exported.onnx"}, "openvino": {"exported.xml", "exported.bin"}}[to]
    assert {path.name for path in tmp_path.iterdir()} == {*names, f"exported{suffix}.md"}


@pytest.mark.parametrize("name", ["lat", "rec", "e2e-rec", "mj-rec"])
def test_every_kind_of_variant_is_exported(tmp_path, name):
    levels = (1, 2, 3) if name == "mj-rec" else (2,)
    head = replace(HEAD, spread=False, attention_ratio=2)
    built = build(name, head=head, levels=levels)
    built.save(tmp_path / "m.keras")
    export_model(tmp_path / "m.keras", tmp_path / "m.onnx", textured, to="onnx")
    loaded, frames = load_predictor(tmp_path / "m.onnx"), textured(32, 48)
    np.testing.assert_allclose(predict_frames(loaded, frames), in_keras(built, frames), atol=1e-3)
    assert loaded.spec.levels == levels


@pytest.mark.parametrize(
    # The file of OpenVINO is made from one of ONNX, so that it needs both conversions.
    ("preset", "formats"), [(config.tiny, FLOATS), (config.paper, FLOATS[1:])],
    ids=["tiny", "published"],
)  # fmt: skip
def test_models_of_the_real_sizes_are_exported(tmp_path, preset, formats):
    settings = preset(variant_named("mj-lat"))
    built = build("mj-lat", settings.backbone, settings.head)
    built.save(tmp_path / "m.keras")

    def few(height, width):
        return textured(height, width)[:1]

    frames = few(settings.backbone.height, settings.backbone.width)
    expected = in_keras(built, frames)
    for to, suffix in formats:
        output = tmp_path / f"m{suffix}"
        exported = export_model(tmp_path / "m.keras", output, few, to=to, is_trusted=True)
        assert exported.difference < 0.01
        found = predict_frames(load_predictor(output), frames)
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_saved_model_serves_frames_as_they_are_stored(source, model, tmp_path):
    export_model(source, tmp_path / "saved", textured, to="saved_model")
    serve = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    frames = textured(32, 48)
    found, expected = serve(frames=tf.constant(frames)), in_keras(model, frames)
    np.testing.assert_allclose(found["levels"], expected[..., 0], atol=1e-3)
    np.testing.assert_allclose(found["spreads"], expected[..., 1], atol=1e-3)
    about = json.loads((tmp_path / "saved" / "assets.extra" / "laser_jnd.json").read_text())
    assert about["spec"]["variant"] == "mj-lat"
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists and is not a SavedModel"):
        export_model(source, tmp_path / "mine", textured, to="saved_model")


@pytest.mark.parametrize(("to", "name"), [("saved_model", "mine"), ("onnx", "m.onnx")])
def test_no_folder_of_the_user_is_removed(plain, tmp_path, to, name):
    kept = tmp_path / name / "saved_model.pb"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UserError, match="is a folder|is not a SavedModel of laser-jnd"):
        export_model(plain, tmp_path / name, textured, to=to)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


@pytest.mark.parametrize(("to", "suffix"), FLOATS)
def test_int8_computes_in_int8_and_stays_near_keras(tmp_path, to, suffix):
    # A smooth model: the levels are means over many features, as those of a trained head.
    built = build("lat", head=HeadSpec(filters=(8,), dense=(), pooling="average"), levels=(1,))
    built.save(tmp_path / "m.keras")
    output = tmp_path / f"m{suffix}"
    exported = export_model(tmp_path / "m.keras", output, textured, to=to, precision="int8")
    frames = np.roll(textured(32, 48), 5, axis=2)
    found, expected = predict_frames(load_predictor(output), frames), in_keras(built, frames)
    assert 0 < np.abs(found - expected).max() < 0.2
    assert 0 < exported.difference < 0.2
    if to == "onnx":
        kinds = {each.data_type for each in onnx.load(output).graph.initializer if each.dims}
        assert onnx.TensorProto.INT8 in kinds


def test_bf16_is_asked_of_openvino(plain, tmp_path, monkeypatch):
    asked, compile_model = [], openvino.Core.compile_model

    def recorded(core, model, device, hints):
        asked.append(hints["INFERENCE_PRECISION_HINT"])
        return compile_model(core, model, device, hints)

    monkeypatch.setattr(openvino.Core, "compile_model", recorded)
    exported = export_model(plain, tmp_path / "m.xml", textured, to="openvino", precision="bf16")
    export_model(plain, tmp_path / "f.xml", textured, to="openvino")
    assert asked == ["bf16", "f32"]
    load_predictor(tmp_path / "m.xml")
    assert asked == ["bf16", "f32", "bf16"]
    assert exported.metadata.precision == "bf16"
    assert exported.difference < 0.2


def test_a_model_that_differs_too_much_is_not_written(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(export.MAX_DIFFERENCE, "float32", -1)
    (tmp_path / "m.onnx").write_bytes(b"earlier")
    with pytest.raises(UserError, match="differs from Keras by .* QP; the limit for float32 is -1"):
        export_model(plain, tmp_path / "m.onnx", textured, to="onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"earlier"


@keras.saving.register_keras_serializable(package="test_export")
class Unsupported(keras.layers.Layer):
    """A layer of an operation that ONNX does not have."""

    def call(self, inputs):
        return inputs + tf.math.lgamma(1.0 + tf.abs(inputs))


def test_an_operation_that_onnx_lacks_is_refused(tmp_path):
    mean_color_model(Unsupported()).save(tmp_path / "m.keras")
    with pytest.raises(UserError, match=r"cannot be exported to onnx: .* Lgamma") as caught:
        export_model(
            tmp_path / "m.keras", tmp_path / "m.onnx", textured, to="onnx", is_trusted=True
        )
    assert "\n" not in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "onnx", "--precision", "bf16", "--output", "m.onnx"), "not exported in bf16"),
        (
            ("--format", "keras", "--precision", "int8", "--output", "m.keras"),
            "not exported in int8",
        ),
        (("--format", "onnx", "--output", "m.xml"), "must end in .onnx"),
        (("--format", "saved_model", "--output", "m.pb"), "a folder without a suffix"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(source, tmp_path, words, message):
    assert message in refusal(laser_jnd_here("export", source, *words, cwd=tmp_path))
    assert [*tmp_path.iterdir()] == []


FRAMES = np.full((2, 8, 16, 3), (20, 30, 40), np.uint8)


def test_a_hand_made_graph_with_the_metadata_is_a_predictor(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(graph_of(mean_color(), [("levels", [None, 3])], metadata=about()))
    np.testing.assert_allclose(predict_frames(load_onnx(path), FRAMES), [[20, 30, 40]] * 2)


@pytest.mark.attack("Model and weight files")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an exported model, or is damaged"),
        (b"PK\x03\x04 not a graph", "is not an exported model, or is damaged"),
        (graph_of(mean_color(), [("levels", [None, 3])], metadata=None), "not a predictor"),
        (graph_of(mean_color(), [("levels", [None, 3])], metadata="{}"), "not a predictor"),
        (
            graph_of(mean_color(), [("levels", [None, 3])], metadata=about(format=9)),
            "not a predictor",
        ),
        (
            graph_of(mean_color(), [("levels", [None, 3])], metadata=about(width=32)),
            r"maps .* not RGB frames to \(3,\)",
        ),
        (
            graph_of(
                mean_color(), [("levels", [None, 3])], metadata=about(),
                inputs=[("frames", onnx.TensorProto.FLOAT)],
            ),
            r"maps .* not RGB frames to \(3,\)",
        ),
        (
            graph_of(mean_color(), [("means", [None, 3])], metadata=about()),
            r"maps .* not RGB frames to \(3,\)",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_exported_predictor_is_refused(tmp_path, content, message):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_predictor(tmp_path / "m.onnx")
    assert "\n" not in caught.value.message


@pytest.mark.attack("Model and weight files")
@pytest.mark.parametrize(
    ("nodes", "shape", "message"),
    [
        (mean_color(np.nan), [None, 3], "predicts numbers that are not finite"),
        (mean_color(3e38), [None, 3], "predicts numbers that are not finite"),
        (mean_color(axes=(1, 2, 3)), [None], "predicts nothing"),
        (mean_color(axes=(1,)), [None, 16, 3], "predicts nothing"),
    ],
)
def test_a_graph_that_does_not_predict_levels_is_refused(tmp_path, nodes, shape, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(graph_of(nodes, [("levels", shape)], metadata=about()))
    with pytest.raises(UserError, match=rf"m\.onnx {message}"):
        predict_frames(load_predictor(path), FRAMES)


@pytest.mark.attack("Model and weight files")
def test_no_other_file_that_a_graph_names_is_opened(tmp_path):
    secret = np.full(3, 7, np.float32)
    (tmp_path / "secret").write_bytes(secret.tobytes())
    tensor = onnx.helper.make_tensor("factor", onnx.TensorProto.FLOAT, [3], secret)
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "secret"), ("offset", "0"), ("length", "12")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    nodes = [each for each in mean_color() if "factor" not in each.output]
    made = onnx.load_from_string(graph_of(nodes, [("levels", [None, 3])], metadata=about()))
    made.graph.initializer.append(tensor)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    # Opened by its path, ONNX Runtime reads the other file.
    assert onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"frames": FRAMES})
    with pytest.raises(UserError, match="is not an exported model, or is damaged"):
        load_predictor(tmp_path / "m.onnx")
