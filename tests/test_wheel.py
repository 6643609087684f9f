"""The wheel that is built from this tree."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from itertools import chain
from pathlib import Path

import pytest
from onnx_graphs import write_light_inputs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import laser_dist

ROOT = Path(__file__).parents[1]
PACKAGES = ("laser_dist", "beam_pipelines", "tfds_builders")
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy: setuptools leaves `build` and `*.egg-info` in the tree."""
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, tree / package, ignore=NOT_SHIPPED)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tree)
    # Without isolation, this environment's setuptools builds it, and nothing is downloaded.
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(build, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def shipped(wheel):
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def about(wheel, name):
    (path,) = (each for each in wheel.namelist() if each.endswith(f".dist-info/{name}"))
    return wheel.read(path)


def test_it_has_all_files_of_the_packages_and_no_others(wheel):
    assert shipped(wheel) == {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_has_the_data_files(wheel):
    cards = ("README.md", "CITATIONS.bib", "TAGS.txt", "checksums.tsv")
    assert shipped(wheel) >= {
        "laser_dist/py.typed",
        "laser_dist/evaluation/templates/report.html.j2",
        "laser_dist/evaluation/templates/report.css",
        "laser_dist/evaluation/templates/report.js",
        *(f"tfds_builders/videoset_jnd/{card}" for card in cards),
    }
    assert b"Apache License" in about(wheel, "licenses/LICENSE")


def test_its_metadata_names_version_license_and_command(wheel):
    card = message_from_bytes(about(wheel, "METADATA"))
    assert (card["Name"], card["Version"]) == ("laser-jnd", laser_dist.__version__)
    assert card["License-Expression"] == "Apache-2.0"
    assert b"laser-jnd = laser_dist.commands.main:main" in about(wheel, "entry_points.txt")


def test_help_needs_no_dependency(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"]
    subprocess.run([*install, "--python", python, wheel.filename], check=True)
    command = tmp_path / "env" / "bin" / "laser-jnd"
    for arguments in (["--help"], ["train", "--help"]):
        done = subprocess.run(
            [command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("usage: laser-jnd")


def test_a_light_installation_predicts_and_has_less_than_350_mb(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python, command = (tmp_path / "env" / "bin" / name for name in ("python", "laser-jnd"))
    # uv's own cache, from which the packages of this environment were installed.
    environment = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"}
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    for words in (["-r", ROOT / "requirements-predict.lock"], ["--no-deps", wheel.filename]):
        subprocess.run([*install, *words], check=True, env=environment)
    files = [path for path in (tmp_path / "env").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 350e6
    installed = {path.name.partition("-")[0] for path in (tmp_path / "env").rglob("*.dist-info")}
    assert {"laser_jnd", "onnxruntime"} <= installed
    assert installed.isdisjoint({"tensorflow", "keras", "ray", "apache_beam", "scipy", "pyarrow"})

    def run(*words):
        return subprocess.run([command, *words], cwd=tmp_path, capture_output=True, text=True)

    write_light_inputs(tmp_path)
    done = run("predict", "clip.mp4", "--model", "m.onnx", "--format", "json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["levels"] == pytest.approx({"jnd1": 30, "jnd2": 30, "jnd3": 30}, abs=1.5)
    for words in (["demo"], ["doctor"], ["synthesize", "--output", "x"]):
        refused = run(*words)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "is not installed.\nhint: A light installation only predicts" in refused.stderr


def test_the_light_lock_has_the_versions_of_the_other_lock():
    light, all_pins = (
        set((ROOT / name).read_text().splitlines())
        for name in ("requirements-predict.lock", "requirements.lock")
    )
    assert light <= all_pins
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["predict"]
    names = {line.partition("==")[0] for line in light}
    assert {Requirement(each).name for each in group} <= names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(group) <= set(project["dependencies"])


def test_the_lock_pins_all_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = map(Requirement, chain(project["dependencies"], *extras))
    pins: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        name, equals, version = line.partition(";")[0].strip().partition("==")
        assert equals, line
        pins.setdefault(canonicalize_name(name), set()).add(version)
    for requirement in asked:
        # Two pins of one package are for different Pythons or systems; each must match.
        for version in pins[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), requirement
