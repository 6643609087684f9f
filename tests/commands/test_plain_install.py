"""Commands in an installation without extras, which the environment of the tests has."""

import subprocess
import sys

import pytest
from command_line import refusal

pytestmark = [pytest.mark.beam, pytest.mark.slow]

# Hides the modules of packages that laser-jnd requires only through an extra, or not at all.
BLOCKED = """
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required_by(name, extras, found):
    try:
        requirements = distribution(name).requires or []
    except PackageNotFoundError:  # for another system
        return
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in found:
            found.add(key)
            required_by(requirement.name, requirement.extras, found)


def modules_of(package):
    roots = set()
    for path in sorted(map(PurePosixPath, map(str, package.files or ())), key=str):
        if path.name == "__init__.py" and ".." not in path.parts:
            parents = {".".join(path.parts[:depth]) for depth in range(1, len(path.parts) - 1)}
            if not parents & roots:
                roots.add(".".join(path.parts[:-1]))
    return roots


required = set()
required_by("laser-jnd", (), required)
names = {name for name, _ in required} | {"laser-jnd"}
ours = {m for d in distributions() if canonicalize_name(d.name) in names for m in modules_of(d)}
others = {m for d in distributions() if canonicalize_name(d.name) not in names
          for m in modules_of(d)} - ours
assert "pytest" in others and "numpy" in ours, (others, ours)


class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in others:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
from laser_dist.commands.main import main

sys.argv = ["laser-jnd", *sys.argv[1:]]
main()
"""


def laser_jnd(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_synthesize_and_build_need_no_extra(tmp_path):
    made = laser_jnd(
        "synthesize", "--output", "mini", "--num-sources", "3", "--qps", "22,34", "--workers", "1",
        cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    where = ("--manual-dir", "mini", "--data-dir", "data", "--workers", "1")
    built = laser_jnd("build", "videoset_jnd", *where, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert len(list(tmp_path.glob("data/*/*/*/*.tfrecord*"))) == 3


def test_dataflow_without_its_extra_is_refused_with_a_hint_that_names_it(tmp_path):
    where = ("--manual-dir", "gs://mine/in", "--data-dir", "gs://mine/data", "--config", "360p")
    runner = ("--runner", "DataflowRunner", "--project", "mine", "--region", "europe-west4")
    image = ("--sdk_container_image", "registry/image:1")
    done = laser_jnd("build", "videoset_jnd", *where, *runner, *image, cwd=tmp_path)
    assert "Install laser-jnd[gcp]" in refusal(done)
