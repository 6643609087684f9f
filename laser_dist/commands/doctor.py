"""`laser-jnd doctor`: whether this machine, and a cluster's workers, have what a training needs."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from laser_dist.commands.options import whole_number
from laser_dist.commands.terminal import Show, Terminal
from laser_dist.errors import UserError
from laser_dist.keras_import import import_keras
from laser_dist.machine import num_cores
from laser_dist.wording import count_text, size_text

HELP = "check packages, GPUs, Ray, FFmpeg and disk space"
EXAMPLE = """\
examples:
  laser-jnd doctor
  laser-jnd doctor --gpus-per-worker 4
  ray job submit -- laser-jnd doctor --gpus-per-worker 4
"""
PACKAGES = (
    "laser-jnd", "tensorflow", "keras", "ray", "tensorflow-datasets", "apache-beam", "numpy",
    "pyarrow", "av",
)  # fmt: skip
NEEDED = ("libx264", "xpsnr", "scale")  # encoder and filters

Facts = list[tuple[str, str]]
Found = tuple[Facts, list[str]]  # and what is wrong, as sentences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--gpus-per-worker",
        type=whole_number(1),
        metavar="N",
        help="also check that a worker with N GPUs can use them: on the cluster of RAY_ADDRESS or "
        "of the surrounding Ray job, otherwise on this machine",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the facts.

    Raises:
      UserError: something is missing that this machine, or a worker, should have.
    """
    terminal, gpus = Terminal(), arguments.gpus_per_worker
    with terminal.progress() as show:
        show("importing TensorFlow")
        import_keras(gpus="all")
        sections: dict[str, Found] = {
            "Machine": (machine_facts(), []),
            "Packages": ([(name, _version(name)) for name in PACKAGES], []),
            "FFmpeg": ffmpeg_facts(),
            "GPUs": gpu_facts(),
        }
        if os.environ.get("RAY_ADDRESS"):
            show("connecting to Ray")
            sections["Ray cluster"] = cluster_facts(gpus, show)
        elif gpus:
            sections["Worker"] = worker_facts(gpus)
    for name, (facts, _) in sections.items():
        terminal.say(name, style="bold")
        terminal.pairs(facts)
    if problems := [each for _, found in sections.values() for each in found]:
        raise UserError(" ".join(problems))
    terminal.say("No problem found.")


def machine_facts() -> Facts:
    """Return Python, processor, memory and free disk space."""
    import psutil

    folders = {"here": Path(), "temporary": Path(tempfile.gettempdir())}
    free = [f"{size_text(shutil.disk_usage(path).free)} {name}" for name, path in folders.items()]
    memory = psutil.virtual_memory()
    return [
        ("host", platform.node()),
        ("system", platform.platform()),
        ("python", platform.python_version()),
        ("cores", str(num_cores())),
        ("memory", f"{size_text(memory.available)} free of {size_text(memory.total)}"),
        ("disk free", ", ".join(free)),
    ]


def ffmpeg_facts() -> Found:
    """Return which of the needed encoders and filters PyAV's FFmpeg has."""
    import av
    from av.codec import codecs_available
    from av.filter import filters_available

    found = {name: name in {*codecs_available, *filters_available} for name in NEEDED}
    major, minor, _ = av.library_versions["libavcodec"]
    facts = [("libavcodec", f"{major}.{minor}")]
    facts += [(name, "found" if is_there else "missing") for name, is_there in found.items()]
    missing = ", ".join(name for name, is_there in found.items() if not is_there)
    return facts, [f"PyAV's FFmpeg has no {missing}."] if missing else []


def gpu_facts() -> Found:
    """Return the GPUs, as TensorFlow and the driver see them."""
    import tensorflow as tf

    from laser_dist.training import devices

    models, build = devices.gpu_models(), tf.sysconfig.get_build_info()
    facts = [
        ("TensorFlow sees", ", ".join(models) or "none"),
        ("TensorFlow is for", f"CUDA {build['cuda_version']}" if build["is_cuda_build"] else "CPU"),
        ("NCCL", _version("nvidia-nccl-cu12")),
        *devices.gpu_facts(),
    ]
    is_unseen = devices.has_gpu() and not models
    return facts, ["This machine has a GPU, but TensorFlow sees none."] if is_unseen else []


def cluster_facts(gpus: int | None, show: Show) -> Found:
    """Return the resources of the Ray cluster, and the GPUs that a worker of it sees."""
    import ray

    address = os.environ["RAY_ADDRESS"]
    facts = [("address", address), ("version", ray.__version__)]
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (RuntimeError, ConnectionError) as error:  # also for another version of Ray or Python
        return facts, [f"Cannot connect to Ray at {address}: {str(error).splitlines()[0]}"]
    try:
        resources = ray.cluster_resources()
        there = ", ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
        facts += [
            ("nodes", str(sum(node["Alive"] for node in ray.nodes()))),
            ("resources now", there),
        ]
        if gpus is None:
            return facts, []
        show(f"waiting for a machine with {count_text(gpus, 'GPU')}")
        found, problems = ray.get(
            ray.remote(num_gpus=gpus, max_retries=0)(worker_facts).remote(gpus)
        )
        return facts + found, problems
    finally:
        ray.shutdown()


def worker_facts(gpus: int) -> Found:
    """Return the GPUs that this process sees, which should be as many as it was given."""
    import_keras(gpus="all")
    from laser_dist.training.devices import check_gpus, gpu_models

    models = gpu_models()
    facts = [("worker", f"{platform.node()}: {', '.join(models) or 'no GPU'}")]
    try:
        check_gpus(gpus, models)
    except UserError as error:
        return facts, [error.message]
    return facts, []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
