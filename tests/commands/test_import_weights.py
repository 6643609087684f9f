import argparse
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import laser_jnd_here, refusal
from PIL import Image

from laser_dist.commands import main
from laser_dist.commands.import_weights import build, in_order, level_in, read_file, run
from laser_dist.errors import UserError
from laser_dist.video.sampling import sample_frames

WRITE_MODELS = Path(__file__).parents[1] / "models" / "published_models.py"


def paths(*names):
    return [Path(name) for name in names]


def test_files_of_single_levels_are_problem_apart_by_their_names_in_any_order():
    named = paths("E2ELATJND3.h5", "E2ELATJND1.h5")
    assert in_order("e2e-lat", named, None) == (named[::-1], (1, 3))
    assert level_in(Path("JND2/recjnd2-v2.h5")) == 2  # a folder's name does not count


def test_given_levels_replace_those_in_file_names():
    named = paths("LATJND1.h5", "b.h5", "c.h5")
    assert in_order("lat", named, [3, 1, 2]) == (paths("b.h5", "c.h5", "LATJND1.h5"), (1, 2, 3))


@pytest.mark.parametrize("name", ["MJLAT.h5", "JND1and2.h5", "JND1JND2.h5", "JND4.h5", "JND12.h5"])
def test_a_file_name_without_exactly_one_level_is_refused(name):
    if name == "JND1and2.h5":
        assert level_in(Path(name)) == 1
        return
    with pytest.raises(UserError, match=r"The file name .* names .* JND levels\.\n.*--levels"):
        level_in(Path(name))


@pytest.mark.parametrize(
    ("variant", "names", "levels", "problem"),
    [
        ("lat", ("JND1.h5", "x/JND1.h5"), None, "2 weight files have the levels 1, 1"),
        ("rec", ("a.h5", "b.h5"), [1], "2 weight files have the levels 1;"),
        ("mj-lat", ("a.h5", "b.h5"), None, "mj-lat has one weight file, but 2 are given"),
        ("mj-rec", ("a.h5",), [1], "and mj-rec is not one"),
        ("jnd1", ("a.h5",), [1], "and jnd1 is not one"),
    ],
)
def test_mismatching_files_and_levels_are_refused(variant, names, levels, problem):
    with pytest.raises(UserError, match=problem):
        in_order(variant, paths(*names), levels)


def test_one_file_of_a_model_of_all_levels_needs_no_name():
    assert in_order("mj-lat", paths("a.h5"), None) == (paths("a.h5"), (1, 2, 3))
    assert in_order("jnd3", paths("a.h5"), None) == (paths("a.h5"), ())


def whole(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(1000)
    return path


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: None, "weights.h5 does not exist"),
        (lambda path: path.write_bytes(b""), "weights.h5 is not a complete HDF5 file"),
        (lambda path: path.write_text("<html>404</html>"), "file signature not found"),
        (lambda path: path.write_bytes(whole(path).read_bytes()[:-100]), "truncated file"),
        (whole, "layer_names"),
    ],
    ids=["missing", "empty", "a web page", "cut", "another HDF5"],
)
def test_other_files_are_a_one_line_error(write, problem, tmp_path):
    path = tmp_path / "weights.h5"
    write(path)
    with pytest.raises(UserError, match="weights.h5 (is not a complete|does not exist)") as caught:
        read_file(path)
    assert problem in str(caught.value)
    assert "\n" not in caught.value.message


def test_the_output_is_a_keras_file(tmp_path):
    with pytest.raises(UserError, match=r"out\.h5 must end in \.keras"):
        run(argparse.Namespace(output=tmp_path / "out.h5"))


def test_a_refusal_is_one_line_and_writes_nothing(tmp_path):
    (tmp_path / "mj.h5").write_text("<html>404</html>")
    refused = laser_jnd_here(
        "import-weights", "--variant", "mj-lat", "mj.h5", "--output", "a.keras", cwd=tmp_path
    )
    assert refusal(refused).startswith("mj.h5 is not a complete HDF5 file")
    assert [path.name for path in tmp_path.iterdir()] == ["mj.h5"]


@pytest.mark.slow
def test_imported_weights_predict_an_image(tmp_path, monkeypatch, capfd):
    command = [sys.executable, WRITE_MODELS, tmp_path, "small", "mj-lat"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    picture = np.load(tmp_path / "mj-lat.npz")["frames"][0].astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "clip.png")
    monkeypatch.chdir(tmp_path)
    made = "made/model.keras"
    given = ("import-weights", "--variant", "mj-lat", "mj-lat.h5", "--frame-size", "96x64")
    assert main.run([*given, "--output", made]) == 0
    assert f"Next: laser-jnd predict CLIP --model {made}" in capfd.readouterr().out
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["model.keras"]

    predicted = laser_jnd_here(
        "predict", "clip.png", "--model", made, "--format", "json", cwd=tmp_path
    )
    assert predicted.returncode == 0, predicted.stderr
    [document] = json.loads(predicted.stdout)
    # Decoding as video halves the chroma resolution, so compare with the decoded pixels.
    [sample] = sample_frames(tmp_path / "clip.png", num_frames=1, width=96, height=64)
    model = build("mj-lat", [read_file(tmp_path / "mj-lat.h5")], (1, 2, 3), (96, 64))
    levels = model.predict_on_batch(sample.rgb[None].astype(np.float32))
    assert list(document["levels"]) == ["jnd1", "jnd2", "jnd3"]
    assert [*document["levels"].values()] == pytest.approx(levels[0].tolist(), abs=1e-3)
    assert (document["variant"], document["scale"]) == ("mj-lat", "QP")
    assert document["simulated"] is False
