"""Memory-mapped arrays: new files with their disk space allocated, and copies of some rows."""

import math
import os
from collections.abc import Sequence
from itertools import accumulate
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


def aligned(shapes: Sequence[tuple[int, ...]], dtype: Any) -> list[np.ndarray]:
    """Return new arrays in one piece of memory, each aligned to `ALIGNMENT`.

    One large piece: for those above 4 MB, NumPy asks Linux for large pages, which cost far less
    than the many small ones of several arrays.
    """
    dtype = np.dtype(dtype)
    sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
    steps = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    buffer = np.empty(sum(steps) + ALIGNMENT, np.uint8)
    first = -buffer.ctypes.data % ALIGNMENT
    starts = accumulate(steps, initial=first)
    return [
        np.ndarray(shape, dtype, buffer, start)
        for start, shape in zip(starts, shapes, strict=False)
    ]


def gather(array: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Copy `array[rows]` for positions [n] to `out`.

    In one thread: on files in memory, two threads took 1.3 to 2 times as long as one, as both
    allocate pages.
    """
    assert not len(rows) or 0 <= rows.min() <= rows.max() < len(array)  # "clip" does not check
    # Without a mode that needs no check, NumPy would copy into another buffer first.
    np.take(array, rows, axis=0, out=out, mode="clip")
