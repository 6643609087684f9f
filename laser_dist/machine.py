"""Cores and memory that this process may use."""

import ctypes
import os
import platform
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def num_cores() -> int:
    """Return the number of cores that this process may use; a container may have fewer."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def free_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory that this machine, or its container, has left.

    Args:
      group: folder in which Linux describes the control group of a container.
    """
    import psutil

    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limit = int((group / "memory.max").read_text())
        taken = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - int(taken["anon"]))  # the cache of files makes way
    return free


def keep_freed_memory() -> None:
    """Keep memory that this process frees, for its next allocations.

    The C library gives arrays of megabytes back to the system at once, which then clears the memory
    of the next one, page by page. That takes longer than adding two gradients. Only glibc has this
    setting; elsewhere nothing changes. See `man 3 mallopt`.
    """
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        # Some versions refuse more than 32 MB.
        is_set = any(allocator.mallopt(_M_MMAP_THRESHOLD, size) for size in (1 << 30, 32 << 20))
        if is_set:  # otherwise the next setting would fix the threshold at 128 kB
            allocator.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
