"""Memory-mapped arrays: new files with their disk space allocated, and copies of some rows."""

import os
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: TensorFlow uses an array that starts at a multiple without a copy


def new_map(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """Map a new `.npy` file; without its space, a full disk would kill the process later.

    Raises:
      OSError: the disk has too little space.
    """
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


def gather(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return `array[rows]` for positions [n], aligned to `ALIGNMENT`.

    In one thread: on files in memory, two threads took 1.3 to 2 times as long as one, as both
    allocate pages.
    """
    assert not len(rows) or 0 <= rows.min() <= rows.max() < len(array)  # "clip" does not check
    found = _aligned((len(rows), *array.shape[1:]), array.dtype)
    # Without a mode that needs no check, NumPy would copy into another buffer first.
    return np.take(array, rows, axis=0, out=found, mode="clip")


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    count = int(np.prod(shape)) * dtype.itemsize
    buffer = np.empty(count + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + count].view(dtype).reshape(shape)
