"""Encode many clips, some at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser_dist.encoding.encode import SCHEMA, CoarseClip, Encoded, Request, encode
from laser_dist.errors import UserError
from laser_dist.machine import free_memory, num_cores
from laser_dist.prediction.model import Model

MEMORY_BYTES = 2 * 10**9
"""Memory for each clip. 1080p took up to 1.3 GB on two cores, VMAF included; 4K takes more."""

CORES = 4
"""Cores for each clip: encoders use several, but prediction, matching and comparison few."""


@dataclass(frozen=True)
class Job:
    """A clip and the file that it is encoded to: paths, or with a Beam runner also URLs."""

    source: str
    output: str


@dataclass(frozen=True)
class Unencoded:
    """A clip that was not encoded.

    Attributes:
      source: path or URL of the clip.
      message: why, one sentence.
      hint: what to do about it; may be empty.
      is_coarse: whether the clip is itself as coarse as planned, and so best kept as it is.
    """

    source: str
    message: str
    hint: str
    is_coarse: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; see "JSON output of encode" in the reference of file formats."""
        return {
            "schema": SCHEMA,
            "clip": self.source,
            "error": self.message,
            "hint": self.hint,
            "is_coarse": self.is_coarse,
        }


class _Stopped(BaseException):
    """Ends a thread between two frames; `encode` removes what it has written."""


def num_workers() -> int:
    """Return how many clips this machine can encode at a time, by its cores and free memory."""
    return max(1, min(num_cores() // CORES, free_memory() // MEMORY_BYTES))


def encode_all(
    model: Model,
    jobs: Sequence[Job],
    request: Request,
    *,
    workers: int = 1,
    show: Callable[[str, int], None],
) -> Generator[tuple[Job, Encoded | Unencoded]]:
    """Encode clips, some at a time; a clip that fails does not stop the others.

    The files do not depend on `workers`. If the iterator is closed, the clips at work are stopped,
    and their unfinished outputs removed.

    Args:
      model: a model that predicts QPs.
      jobs: clips and their outputs, all different.
      request: what is asked for.
      workers: number of clips at a time, each in a thread.
      show: is called with what is being done, and how many clips are done.

    Yields:
      Each job as it is done: the encoded clip, or why there is none.

    Raises:
      OSError: an output cannot be written.
    """
    at_work: dict[str, str] = {}
    num_done = 0
    stopping = threading.Event()

    def encoded(job: Job) -> Encoded | Unencoded:
        def progress(what: str, share: float) -> None:
            if stopping.is_set():
                raise _Stopped
            at_work[job.output] = f"{what} {job.source} {share:.0%}"
            show(", ".join(tuple(at_work.values())), num_done)

        try:
            source, output = Path(job.source), Path(job.output)
            return encode(model, source, output, request, progress=progress)
        except UserError as error:
            return Unencoded(job.source, error.message, error.hint, isinstance(error, CoarseClip))
        finally:
            at_work.pop(job.output, None)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
    try:
        futures = {pool.submit(encoded, job): job for job in jobs}
        for future in as_completed(futures):
            num_done += 1
            yield futures[future], future.result()
    finally:
        stopping.set()
        pool.shutdown(cancel_futures=True)
