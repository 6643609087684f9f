"""The authors' weight files, as their Keras writes them, give the same output after conversion."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from laser_dist.errors import UserError
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import predictor_spec_of
from laser_dist.models.published import published_autoencoder, published_predictor
from laser_dist.models.variants import LAT, MJ_LAT, VARIANTS, variant_named
from laser_dist.models.weight_files import read_weight_file

pytestmark = pytest.mark.slow  # another process makes the files, with another Keras

SCRIPT = Path(__file__).with_name("published_models.py")
SIZE = {"height": 64, "width": 96}
EACH = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)


def write_models(folder, *arguments):
    command = [sys.executable, SCRIPT, folder, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of the small models' files."""
    return write_models(tmp_path_factory.mktemp("published"), "small")


@pytest.fixture
def changed(published, tmp_path):
    """Copies a model's file, lets a function change it, and reads it."""

    def change(name, function):
        path = shutil.copy(published / f"{name}.h5", tmp_path)
        with h5py.File(path, "r+") as file:
            function(file)
        return read(path)

    return change


def read(path):
    with h5py.File(path, "r") as file:
        return read_weight_file(file, Path(path).name)


def import_all(variant, file, **size):
    levels = (1, 2, 3)[: variant.num_levels]
    return published_predictor(variant, [file], levels, **(size or SIZE))


def run(model, frames):
    return keras.ops.convert_to_numpy(model(frames, training=False))


def names_of(file):
    return list(file.attrs["layer_names"])


def first_layer(file, kind):
    return next(name for name in names_of(file) if str(name).startswith(kind))


@EACH
def test_a_converted_predictor_gives_the_published_output_for_rgb(variant, published, tmp_path):
    expected = np.load(published / f"{variant.name}.npz")
    # Not vacuous: each frame has its own levels, and colors in another order have others.
    assert np.ptp(expected["levels"], axis=0).min() > 0.5
    predictor = import_all(variant, read(published / f"{variant.name}.h5"))
    levels = run(predictor, expected["frames"])
    np.testing.assert_allclose(levels, expected["levels"], rtol=0, atol=1e-3)
    assert np.abs(run(predictor, expected["frames"][..., ::-1]) - expected["levels"]).max() > 0.1
    expected_levels = (1, 2, 3)[: variant.num_levels]
    saying = PredictorSpec(
        variant=variant.name, levels=expected_levels, scale="QP", simulated=False
    )
    assert predictor_spec_of(predictor) == saying
    predictor.save(tmp_path / "predictor.keras")
    loaded = keras.saving.load_model(tmp_path / "predictor.keras", safe_mode=True)
    np.testing.assert_array_equal(run(loaded, expected["frames"]), levels)


@pytest.mark.parametrize("name", ["image", "jnd2"])
def test_a_converted_reconstruction_gives_the_published_frames_in_rgb(name, published):
    expected = np.load(published / "image.npz")
    autoencoder = published_autoencoder(read(published / "image.h5"), name, **SIZE)
    assert autoencoder.name == name
    assert autoencoder.count_params() == expected["parameters"]
    images = run(autoencoder, expected["frames"])
    np.testing.assert_allclose(images, expected["images"][..., ::-1], rtol=0, atol=1e-3)
    assert np.abs(images - expected["images"]).max() > 1


@pytest.mark.parametrize("name", ["rec", "mj-rec", "e2e-rec"])
def test_backbones_inside_a_converted_predictor_give_the_published_frames_in_rgb(name, published):
    expected = np.load(published / f"{name}.npz")
    predictor = import_all(variant_named(name), read(published / f"{name}.h5"))
    assert predictor.count_params() == expected["parameters"]
    if name == "e2e-rec":
        frames = run(predictor.get_layer("jnd1"), expected["frames"])
        np.testing.assert_allclose(frames, expected["images"][..., ::-1], rtol=0, atol=1e-3)


def test_files_of_single_levels_join_in_their_order(published):
    files = [read(published / f"{name}.h5") for name in ("lat", "e2e-lat")]
    expected = [np.load(published / f"{name}.npz") for name in ("lat", "e2e-lat")]
    frames = expected[0]["frames"]
    with pytest.raises(UserError, match="like e2e-lat"):
        published_predictor(LAT, files, (1, 3), **SIZE)
    joined = published_predictor(LAT, [files[0], files[0]], (1, 3), **SIZE)
    assert predictor_spec_of(joined).levels == (1, 3)
    np.testing.assert_allclose(run(joined, frames), expected[0]["levels"].repeat(2, 1), atol=1e-3)


def test_multi_level_weights_of_the_published_size_fit(tmp_path):
    write_models(tmp_path, "published", "mj-lat")
    expected = np.load(tmp_path / "mj-lat.npz")
    predictor = import_all(MJ_LAT, read(tmp_path / "mj-lat.h5"), height=352, width=640)
    assert predictor.count_params() == expected["parameters"] == 26_070_091
    levels = run(predictor, expected["frames"])
    np.testing.assert_allclose(levels, expected["levels"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "asked", "matching"),
    [
        ("lat", "mj-lat", "lat"),
        ("mj-lat", "lat", "mj-lat"),
        ("mj-rec", "mj-lat", "mj-rec"),
        ("e2e-lat", "lat", "e2e-lat"),
        ("rec", "lat", "rec or e2e-rec"),
        ("image", "rec", "image or jnd1 or jnd2 or jnd3"),
    ],
)
def test_a_file_of_another_variant_is_refused_and_named(name, asked, matching, published):
    first = matching.partition(" ")[0]
    with pytest.raises(UserError, match=f", like {matching}, .*\nhint: Use --variant {first}.$"):
        import_all(variant_named(asked), read(published / f"{name}.h5"))


def test_a_predictor_file_is_not_a_reconstruction(published):
    with pytest.raises(
        UserError, match="rec.h5 does not have the layers of jnd1: it has 8 layers with 5x5 kernels"
    ):
        published_autoencoder(read(published / "rec.h5"), "jnd1", **SIZE)


def test_another_frame_size_is_refused_with_a_hint(published):
    with pytest.raises(UserError, match=r"Layer dense_\d+ of .*\nhint: Check --frame-size"):
        import_all(LAT, read(published / "lat.h5"), height=64, width=128)
    # Equal after pooling: nothing in the file tells them apart.
    import_all(LAT, read(published / "lat.h5"), height=96, width=64)


def test_layers_of_another_shape_are_named(changed):
    def narrow(file):
        name = first_layer(file, "batch_normalization")
        for path in file[name].attrs["weight_names"]:
            values = file[name][path][:-1]
            del file[name][path]
            file[name][path] = values

    with pytest.raises(
        UserError,
        match=r"Layer batch_normalization\w* of .* holds gamma \(9,\).* instead of gamma \(10,\)",
    ):
        import_all(LAT, changed("lat", narrow))


def test_branches_in_another_order_than_by_depth_are_refused(changed):
    def one_after_the_other(file):
        names = names_of(file)
        own = [name for name in names if file[name].attrs["weight_names"].size]
        encoders = own[:12]
        file.attrs["layer_names"] = [*encoders[::3], *encoders[1::3], *encoders[2::3], *own[12:]]

    with pytest.raises(UserError, match=r"Layer conv2d_\d+ of .* instead of kernel \(5, 5, 3, 6\)"):
        import_all(MJ_LAT, changed("mj-lat", one_after_the_other))


def test_outputs_that_are_named_for_other_levels_are_refused(changed):
    def swap(file):
        names = names_of(file)
        file.attrs["layer_names"] = [*names[:-2], names[-1], names[-2]]

    with pytest.raises(
        UserError, match="Layer JND3_output of .* is the output of JND3, not of JND2"
    ):
        import_all(MJ_LAT, changed("mj-lat", swap))


def test_a_file_without_its_last_layer_is_refused(changed):
    def shorten(file):
        file.attrs["layer_names"] = names_of(file)[:-1]

    with pytest.raises(
        UserError, match="it has 4 layers with 5x5 kernels and 19 others, instead of 4 and 20"
    ):
        import_all(LAT, changed("lat", shorten))


def kernel_of(file):
    name = first_layer(file, "conv2d")
    return file[name], next(path for path in file[name].attrs["weight_names"] if "kernel" in path)


def not_finite(file):
    group, path = kernel_of(file)
    group[path][0, 0, 0, 0] = np.nan


def link_to_another_file(file):
    group, path = kernel_of(file)
    del group[path]
    group[path] = h5py.ExternalLink("elsewhere.h5", "/secret")


def bytes_of_another_file(file):
    group, path = kernel_of(file)
    shape = group[path].shape
    del group[path]
    group.create_dataset(path, shape, "float32", external=[("elsewhere", 0, 4 * np.prod(shape))])


def unpacks_to_much(file):
    group, path = kernel_of(file)
    del group[path]
    group.create_dataset(path, (1000, 1000, 100), "float32", chunks=True, compression="gzip")


def packed_tight(file):
    group, path = kernel_of(file)
    del group[path]
    values = np.zeros((200, 200, 10), np.float32)
    group.create_dataset(path, data=values, chunks=True, compression="gzip")


def text_for_numbers(file):
    group, path = kernel_of(file)
    del group[path]
    group[path] = "import os"


def one_layer_for_two(file):
    group, path = kernel_of(file)
    group["inner/kernel:0"] = group[path][()]
    group.attrs["weight_names"] = [*group.attrs["weight_names"], "inner/kernel:0"]


def no_names(file):
    del file.attrs["layer_names"]


def a_name_of_nothing(file):
    file.attrs["layer_names"] = [*names_of(file), "dense_99"]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (not_finite, "is not finite"),
        (link_to_another_file, "there is a link at conv2d"),
        (bytes_of_another_file, " does not hold plain numbers"),
        (unpacks_to_much, "has fewer bytes than its shape needs"),
        (packed_tight, "has fewer bytes than its shape needs"),
        (text_for_numbers, " does not hold plain numbers"),
        (one_layer_for_two, "there is a model inside the model at /conv2d"),
        (no_names, "can't locate attribute: 'layer_names'"),
        (a_name_of_nothing, "it has no dense_99"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_or_hostile_file_is_a_one_line_error(harm, problem, changed):
    with pytest.raises(UserError, match=f"^lat.h5 is not .*{re.escape(problem)}") as caught:
        changed("lat", harm)
    assert "\n" not in caught.value.message
