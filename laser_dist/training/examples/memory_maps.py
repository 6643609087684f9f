"""Memory-mapped arrays: new files with their disk space allocated, and rows read by all cores."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_LEAST_BYTES = 1 << 20  # of each thread: below, a thread costs more than it saves


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
    """Return `array[rows]` for positions [n], copied by several threads if it is large."""
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    count = min(num_cores(), found.nbytes // _LEAST_BYTES, len(rows))

    def copy(part: slice) -> None:
        for position, row in enumerate(rows[part], start=part.start):
            found[position] = array[row]  # NumPy releases Python's lock

    if count < 2:
        copy(slice(0, len(rows)))
        return found
    ends = np.arange(count + 1) * len(rows) // count
    list(_threads().map(copy, map(slice, ends[:-1], ends[1:])))
    return found


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_cores(), "gather")
