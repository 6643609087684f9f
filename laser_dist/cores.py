"""Number of the cores that this process may use."""

import os


def num_cores() -> int:
    """Return the number of cores that this process may use; a container may have fewer."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1
