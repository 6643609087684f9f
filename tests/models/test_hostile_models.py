"""Model files that would run code, read other files or take all memory when they are loaded."""

import contextlib
import io
import json
import os
import socket
import zipfile
from dataclasses import asdict
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from laser_dist.commands.import_weights import read_file
from laser_dist.errors import UserError
from laser_dist.isolation import Isolated
from laser_dist.models import predictors, weight_files
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import PredictorSpecLayer
from laser_dist.prediction.load import load_predictor
from laser_dist.prediction.predict import predict_frames

# Slow: a separate process reads each model.
pytestmark = [pytest.mark.attack("Model and weight files"), pytest.mark.slow]

SIZE = (8, 16)  # height and width
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
FRAMES = np.zeros((1, *SIZE, 3), np.uint8)


def spec(**changes):
    settings = {"variant": "mj-lat", "levels": (1, 2, 3), "scale": "QP", "simulated": True}
    return asdict(PredictorSpec(**settings)) | changes


def model_of(*layers):
    x = frames = keras.Input((*SIZE, 3))
    for layer in (keras.layers.GlobalAveragePooling2D(), *layers, PredictorSpecLayer(spec())):
        x = layer(x)
    return keras.Model(frames, x)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return the file of a predictor: a dense layer on the mean color."""
    path = tmp_path_factory.mktemp("sound") / "model.keras"
    model_of(keras.layers.Dense(3, name="dense")).save(path)
    return path


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def changed(sound, path, **members):
    """Write a model file with other members ("config" and "weights"), and return its path."""
    names = {"config": CONFIG, "weights": WEIGHTS}
    content = members_of(sound) | {names.get(name, name): data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def config_with(sound, layer):
    """Return the configuration of a model with this layer in place of the dense one."""
    config = json.loads(members_of(sound)[CONFIG])
    for place in config["config"]["layers"]:
        if place["class_name"] == "Dense":
            place |= layer | {"config": {"name": "dense", **layer.get("config", {})}}
    return json.dumps(config)


def function(module, name):
    """Return a dense layer whose activation is a function of any module."""
    activation = {"module": module, "class_name": "function", "config": name}
    settings = {"units": 3, "activation": activation}
    return {"module": "keras.layers", "class_name": "Dense", "config": settings}


def refuse(path):
    with pytest.raises(UserError) as refused:
        load_predictor(path)
    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message
    return refused.value.message


def test_the_changed_file_is_a_predictor(sound, tmp_path):
    same = changed(sound, tmp_path / "same.keras")
    assert predict_frames(load_predictor(same), FRAMES).shape == (1, 3)


@pytest.fixture
def attack(tmp_path):
    """Return a model file that creates a file when it is loaded without Keras's safe mode."""
    marker = tmp_path / "marker"
    code = f"lambda x: (__import__('pathlib').Path({str(marker)!r}).touch(), x)[1]"
    model_of(keras.layers.Lambda(eval(code))).save(tmp_path / "attack.keras")
    marker.unlink()
    keras.saving.load_model(tmp_path / "attack.keras", safe_mode=False)
    marker.unlink()
    yield tmp_path / "attack.keras"
    assert not marker.exists()


def test_a_lambda_is_not_run(attack):
    refuse(attack)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_older_format_is_not_read(tmp_path):
    model_of().save(tmp_path / "m.h5")
    refuse(tmp_path / "m.h5")
    refuse((tmp_path / "m.h5").rename(tmp_path / "m.keras"))


@pytest.mark.parametrize(
    "layer",
    [
        {
            "module": "keras.layers",
            "class_name": "TFSMLayer",
            "config": {"filepath": "saved", "call_endpoint": "serve"},
        },
        {
            "module": "keras.utils",
            "class_name": "TorchModuleWrapper",
            "config": {"module": "gASVIQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOU"},
        },
        function("os", "system"),
        function("subprocess", "run"),
        function("builtins", "exec"),
        function("keras.config", "enable_unsafe_deserialization"),
        function("laser_dist.storage.files", "remove"),
    ],
    ids=lambda layer: layer["class_name"] if layer["class_name"] != "Dense" else
    layer["config"]["activation"]["config"],
)  # fmt: skip
def test_no_other_code_is_run(layer, sound, tmp_path, attack):
    refuse(changed(sound, tmp_path / "m.keras", config=config_with(sound, layer)))
    refuse(attack)  # the file has not turned Keras's safe mode off


@pytest.mark.parametrize("is_url", [False, True])
def test_a_vocabulary_is_not_read_from_elsewhere(is_url, sound, tmp_path):
    (tmp_path / "secret.txt").write_text("secret\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/words.txt"
        layer = {
            "module": "keras.layers",
            "class_name": "StringLookup",
            "config": {"vocabulary": url if is_url else str(tmp_path / "secret.txt")},
        }
        refuse(changed(sound, tmp_path / "m.keras", config=config_with(sound, layer)))
        with pytest.raises(BlockingIOError):
            server.accept()


def weights_with(sound, change):
    """Return the weights after `change` has replaced the dense layer's arrays in their group."""
    content = io.BytesIO(members_of(sound)[WEIGHTS])
    with h5py.File(content, "r+") as file:
        group = file["layers/dense/vars"]
        for name in ("0", "1"):
            del group[name]
        change(group)
    return content.getvalue()


def link_outside(group, folder):
    with h5py.File(folder / "secret.h5", "w") as file:
        file["0"], file["1"] = np.ones((3, 3)), np.ones(3)
    group["0"] = h5py.ExternalLink(str(folder / "secret.h5"), "0")
    group["1"] = h5py.ExternalLink(str(folder / "secret.h5"), "1")


def store_outside(group, folder):
    (folder / "secret.bin").write_bytes(np.ones(12, np.float32).tobytes())
    for name, shape in (("0", (3, 3)), ("1", (3,))):
        external = [(str(folder / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
        group.create_dataset(name, shape, "f4", external=external)


def map_outside(group, folder):
    link_outside({}, folder)
    for name, shape in (("0", (3, 3)), ("1", (3,))):
        layout = h5py.VirtualLayout(shape, "f8")
        layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), name, shape)
        group.create_virtual_dataset(name, layout)


def state_a_huge_shape(group, folder):
    del folder
    group.create_dataset("0", (1 << 40, 3), "f4", chunks=(1, 3))
    group.create_dataset("1", (3,), "f4")


@pytest.mark.parametrize(
    "change", [link_outside, store_outside, map_outside, state_a_huge_shape, lambda *_: None]
)
def test_weights_come_from_the_file_itself(change, sound, tmp_path):
    weights = weights_with(sound, lambda group: change(group, tmp_path))
    refuse(changed(sound, tmp_path / "m.keras", weights=weights))


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Dense", "config": {"units": 2_000_000_000}},
        {"class_name": "Dense", "config": {"units": 100_000}},
        {"class_name": "Embedding", "config": {"input_dim": 1 << 40, "output_dim": 1 << 20}},
    ],
)
def test_a_layer_larger_than_the_file_is_not_built(layer, sound, tmp_path):
    layer = {"module": "keras.layers", **layer}
    path = changed(sound, tmp_path / "m.keras", config=config_with(sound, layer))
    assert "needs more weights than its" in refuse(path)


@pytest.mark.slow
def test_weights_that_the_library_never_finishes_are_refused(sound, tmp_path, monkeypatch):
    monkeypatch.setenv("LASER_JND_MAX_READ_S", "2")  # of the child process
    monkeypatch.setattr(weight_files, "MAX_READ_S", 2)
    names = [f"conv2d_{index}" for index in range(6)]
    weights = endless(weights_with(sound, lambda group: group.attrs.update(names=names)))
    assert "takes more than 2 s" in refuse(changed(sound, tmp_path / "m.keras", weights=weights))
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["layer_names"] = names
    (tmp_path / "weights.h5").write_bytes(endless((tmp_path / "weights.h5").read_bytes()))
    with pytest.raises(UserError, match=r"weights in .*weights\.h5 takes more than 2 s\."):
        read_file(tmp_path / "weights.h5")


def endless(content):
    """Return an HDF5 file whose heap of strings states that its first one takes no bytes."""
    first = content.rindex(b"GCOL") + 16
    return content[: first + 8] + bytes(8) + content[first + 16 :]


@pytest.mark.slow
def test_no_module_of_the_working_directory_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("h5py", "psutil", "signal", "laser_dist"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w')")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["layer_names"] = []
    weight_files.check_readable(tmp_path / "weights.h5")
    isolated = Isolated(60.0)
    assert isolated.call(one) == 1
    isolated.close()
    assert not (tmp_path / "imported").exists()


def one(report):
    report("one")
    return 1


@pytest.mark.slow
def test_damage_is_one_sentence(sound, tmp_path):
    whole = sound.read_bytes()
    path = tmp_path / "m.keras"
    damaged = [b"", b"junk" * 100, whole[: len(whole) // 2], whole[:-30]]
    for content in damaged:
        path.write_bytes(content)
        refuse(path)
    for config in ("[" * 200_000, "{}", "null", "\xff", '{"class_name": 3}'):
        refuse(changed(sound, path, config=config))
    refuse(changed(sound, path, config=members_of(sound)[CONFIG].replace(b"mj-lat", b"\\u001b[m")))
    changed(sound, path, **{"../evil.txt": b"x", "assets/../../evil.txt": b"x"})
    with contextlib.suppress(UserError):
        load_predictor(path)
    assert [each.name for each in tmp_path.rglob("*")] == ["m.keras"]
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "x"},
        {"variant": ["mj-lat"]},
        {"levels": (1, 2, 4)},
        {"levels": ("1", "2", "3")},
        {"scale": ["QP"]},
        {"residuals": {"errors": [[1.0]], "groups": [0]}},
        {"residuals": {"errors": [[1.0, 2.0, -1.0]], "groups": [0, 1]}},
        {"residuals": {"errors": [[1.0, 2.0, 1e999]], "groups": [0]}},
        {"residuals": {"errors": [], "groups": []}},
        {"residuals": "abc"},
        {"other": 1},
    ],
)
def test_a_wrong_spec_is_refused(wrong, sound, tmp_path):
    config = json.loads(members_of(sound)[CONFIG])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "PredictorSpecLayer":
            layer["config"]["spec"] |= wrong
    refuse(changed(sound, tmp_path / "m.keras", config=json.dumps(config)))


def test_only_regular_files_below_the_limit_are_read(sound, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.keras")
    assert "is not a regular file" in refuse(tmp_path / "pipe.keras")
    assert "is not a regular file" in refuse(Path("/dev/zero"))
    with (tmp_path / "large.keras").open("wb") as file:
        file.truncate(predictors.MAX_MODEL_BYTES + 1)  # sparse
    assert "the limit is 2,147,483,648" in refuse(tmp_path / "large.keras")
    # Packed, the zeros need one thousandth.
    bomb = changed(sound, tmp_path / "bomb.keras")
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(1 << 20))
    monkeypatch.setattr(predictors, "MAX_MODEL_BYTES", 1 << 20)
    assert "unpacked, has" in refuse(bomb)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_predictions_that_are_not_finite_are_refused(value, tmp_path):
    dense = keras.layers.Dense(3)
    model = model_of(dense)
    dense.set_weights([np.zeros((3, 3)), np.full(3, value)])
    model.save(tmp_path / "m.keras")
    with pytest.raises(UserError, match=r"m\.keras predicts numbers that are not finite\."):
        predict_frames(load_predictor(tmp_path / "m.keras"), FRAMES)


def test_a_model_that_fails_is_refused(tmp_path):
    # It has an entry for 0 and 1 only, and the mean color is 200.
    model_of(keras.layers.Embedding(2, 1), keras.layers.Flatten()).save(tmp_path / "m.keras")
    with pytest.raises(UserError, match=r"m\.keras predicts nothing"):
        predict_frames(load_predictor(tmp_path / "m.keras"), FRAMES + np.uint8(200))


def test_a_model_that_needs_too_much_memory_is_refused(tmp_path):
    frames = keras.Input(FRAMES.shape[1:])
    enlarged = keras.layers.UpSampling2D(100_000)(frames)
    levels = PredictorSpecLayer(spec())(keras.layers.GlobalAveragePooling2D()(enlarged))
    keras.Model(frames, levels).save(tmp_path / "m.keras")
    with pytest.raises(UserError, match=r"m\.keras needs more memory than is free\."):
        predict_frames(load_predictor(tmp_path / "m.keras"), FRAMES)


def test_a_frame_of_too_many_pixels_is_refused(tmp_path):
    frames = keras.Input((100_000, 100_000, 3))
    levels = PredictorSpecLayer(spec())(keras.layers.GlobalAveragePooling2D()(frames))
    keras.Model(frames, levels).save(tmp_path / "m.keras")
    assert "maps" in refuse(tmp_path / "m.keras")
