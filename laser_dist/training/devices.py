"""Devices of a worker: exactly those that the run asks for, or an error that says what is missing.

TensorFlow itself trains on the CPU, without an error, where it sees no GPU.
"""

import ctypes
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from laser_dist.errors import UserError

# Decide which GPUs a process sees, and where it looks for the driver.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "LD_LIBRARY_PATH",
)
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_CUDA_PACKAGE = "nvidia-cudnn-cu12"  # one of those of the extra `gpu`


def use_devices(gpus: int, cpu_devices: int = 1) -> str:
    """Let this process use exactly the devices that a run asks for.

    TensorFlow must be imported, but must not have computed anything.

    Args:
      gpus: number of GPUs; 0 hides all of them, which Ray leaves visible.
      cpu_devices: number of logical CPU devices, if `gpus` is 0.

    Returns:
      Model of the devices, such as "NVIDIA A100-SXM4-40GB" or "CPU".

    Raises:
      UserError: TensorFlow sees another number of GPUs, or GPUs of different models.
    """
    import tensorflow as tf

    if gpus:
        models = gpu_models()
        check_gpus(gpus, models)
        return models[0]
    tf.config.set_visible_devices([], "GPU")
    if cpu_devices > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * cpu_devices,
        )
    return "CPU"


def gpu_models() -> list[str]:
    """Return the model of each GPU that TensorFlow sees; this takes no memory of a GPU."""
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [str(each.get("device_name", "unknown model")) for each in details]


def check_gpus(wanted: int, found: Sequence[str]) -> None:
    """Check the GPUs that TensorFlow sees in a worker.

    Args:
      wanted: number of GPUs that the run gives to each worker.
      found: model of each GPU that TensorFlow sees, such as "NVIDIA A100-SXM4-40GB".

    Raises:
      UserError: another number, or different models.
    """
    host = platform.node()
    if len(found) < wanted:
        facts = "; ".join(f"{name} {value}" for name, value in gpu_facts())
        raise UserError(
            f"TensorFlow sees {len(found)} of the {wanted} GPUs of a worker on {host} ({facts}).",
            hint="Run `laser-jnd doctor` in the same container there. See docs: How-to, "
            '"Troubleshoot".',
        )
    if len(found) > wanted:
        raise UserError(
            f"TensorFlow sees {len(found)} GPUs in a worker on {host} that was given {wanted}, so "
            "workers would share them.",
            hint="Unset RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES, or set --gpus-per-worker to "
            "the number of GPUs of a machine.",
        )
    if len(set(found)) > 1:
        raise UserError(
            f"A worker on {host} has GPUs of different models: {', '.join(found)}.",
            hint="Set CUDA_VISIBLE_DEVICES to GPUs of one model where Ray is started.",
        )


def has_gpu() -> bool:
    """Return whether this machine may have an NVIDIA GPU, without loading a library."""
    return bool(_device_files()) or Path("/dev/dxg").exists()  # the second in Windows' Linux


def gpu_facts() -> list[tuple[str, str]]:
    """Return what decides whether this process sees GPUs, as names and values."""
    return [
        ("driver", _driver_text()),
        ("device files", str(len(_device_files()))),
        ("CUDA libraries", _cuda_text()),
        *((name, os.environ.get(name, "not set")) for name in VARIABLES),
    ]


def _device_files() -> list[Path]:
    return list(Path("/dev").glob("nvidia[0-9]*"))


def _driver_text() -> str:
    """Return the version of NVIDIA's driver, and whether its library can be loaded."""
    try:
        words = _DRIVER_VERSION.read_text().splitlines()[0].split()
        version = next(word for word in words if word[0].isdigit())
    except (OSError, IndexError, StopIteration):
        version = "none"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return f"{version}, libcuda.so.1 not found"
    return version


def _cuda_text() -> str:
    """Return the version of the CUDA libraries that the extra `gpu` installs."""
    try:
        return f"{_CUDA_PACKAGE} {metadata.version(_CUDA_PACKAGE)}"
    except metadata.PackageNotFoundError:
        return "not installed (extra gpu)"
