"""Settings of all tests (GPUs, Hypothesis profiles), and buckets on this machine."""

import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# TensorFlow takes nearly all memory of each GPU it sees, in every pytest worker. It looks at this
# variable when it first asks for devices, so `pytest_configure` can still give the GPUs back.
_VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# No deadline: test machines are shared, so the time of one example says nothing.
settings.register_profile("random", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "random")
)

# Files that take longest, in this order. Started last, one of them would keep one core busy while
# the others have no work left.
_LONGEST = (
    "test_ray_jobs",
    "test_end_to_end",
    "test_reproduce",
    "test_bucket",
    "test_crossval",
    "test_equivalence",
    "test_gpu_benchmark",
    "test_ports",
    "test_stopping",
    "test_export",
    "test_stages",
    "test_loop",
    "test_build",
    "test_published",
    "test_step",
    "test_collectives",
    "test_import_weights",
    "test_measuring",
    "test_backends",
    "test_bad_input",
)


_ALL_SLOW = re.compile(r"^pytestmark = (\[[^\]]*)?pytest\.mark\.(slow|ray|beam)\b", re.MULTILINE)


def pytest_configure(config):
    if not re.search(r"(?<!not )\bgpu\b", config.getoption("markexpr")):
        return
    if _VISIBLE_GPUS is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = _VISIBLE_GPUS


def pytest_ignore_collect(collection_path, config):
    """Leave out slow tests without importing them, if `make check` is what runs."""
    if collection_path.suffix == ".py" and config.getoption("markexpr").startswith("not (slow"):
        return bool(_ALL_SLOW.search(collection_path.read_text(encoding="utf-8"))) or None
    return None


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(_LONGEST)}
    # `make test` looks for these in one folder: to import all modules of tests takes half a minute.
    alone = [item for item in items if item.get_closest_marker("alone")]
    assert all(item.path.parent.name == "cluster" for item in alone), alone
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def _cache_directory(tmp_path_factory):
    """Give this process and its children a cache directory that is not the user's own."""
    cache, fonts = tmp_path_factory.mktemp("cache"), Path("~/.cache/matplotlib").expanduser()
    if fonts.is_dir():  # its list of fonts takes seconds to make
        shutil.copytree(fonts, cache / "matplotlib")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(cache))
        yield


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Put an `ffmpeg` with libvmaf first on the search path, and return it."""
    import imageio_ffmpeg

    from laser_dist.video.vmaf import vmaf_program

    program = tmp_path / "programs" / "ffmpeg"
    program.parent.mkdir()
    program.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    vmaf_program.cache_clear()
    yield program
    vmaf_program.cache_clear()


@pytest.fixture(scope="module")
def s3():
    """A bucket in a stand-in for S3."""
    from s3 import local_s3

    with local_s3() as running:
        yield running


@pytest.fixture(scope="module")
def gs(tmp_path_factory):
    """A bucket in a stand-in for Google Cloud Storage."""
    from cloud import local_cloud

    with local_cloud(tmp_path_factory.mktemp("gs")) as running, pytest.MonkeyPatch.context() as env:
        env.setenv("NO_PROXY", "127.0.0.1")
        env.setenv("no_proxy", "127.0.0.1")
        yield running


@pytest.fixture(params=["folder", "s3", "gs"])
def machines(request, tmp_path, monkeypatch):
    """Return the files of one run, as seen by two machines."""
    from laser_dist.storage.run_files import RunFiles

    if request.param == "folder":
        return RunFiles(str(tmp_path / "run")), RunFiles(str(tmp_path / "run"))
    url = request.getfixturevalue(request.param).url(tmp_path.name)
    stores = []
    for name in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        stores.append(RunFiles(url))
        assert stores[-1].local.is_dir()
    assert stores[0].local != stores[1].local
    return tuple(stores)
