"""Encode many clips, some at a time, each in child processes: a crash affects only that clip."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser_dist.encoding.encode import SCHEMA, CoarseClip, Encoded, Request, encode
from laser_dist.errors import UserError
from laser_dist.isolation import MEMORY_BYTES as LEAST_MEMORY
from laser_dist.isolation import Crashed, Isolated, OutOfMemory, Stopped, without_steps
from laser_dist.machine import free_memory
from laser_dist.prediction.isolated import IsolatedReader
from laser_dist.prediction.model import Model
from laser_dist.video.facts import ClipFacts, clip_facts

MEMORY_BYTES, BYTES_PER_PIXEL = 350 * 10**6, 550
"""Memory for a clip, and for each pixel of a frame in addition.

On two cores and with VMAF, SVT-AV1 took 0.6 GB at 960x540, 1.3 at 1080p and 4.8 at 2160p, x265 0.5,
1.2 and 3.7, and x264 0.3, 0.6 and 1.8.
"""

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


class Encoder:
    """Encoder of one clip at a time, in two child processes that may crash.

    Attributes:
      model: predicts clips; one process reads them.
      child: the other process, which encodes them.
    """

    def __init__(self, model: Model) -> None:
        """Take a model; the first clip starts the processes."""
        self._reader = IsolatedReader()
        self.model = Model(model.predictor, reader=self._reader)
        self.child = codec_process()

    def stop(self) -> None:
        """End both processes, even while another thread encodes; `Stopped` is raised there."""
        self.child.stop()
        self._reader.stop()

    def close(self) -> None:
        """End both processes."""
        self.child.close()
        self._reader.close()


def codec_process() -> Isolated:
    """Return a child process for functions that encode."""
    # Without a time limit: a trial encode is one step, and may take long.
    return Isolated(None, memory_bytes=max(LEAST_MEMORY, free_memory()))


def memory_of(facts: ClipFacts) -> int:
    """Return how many bytes to reserve for encoding a clip, by the size of its frames."""
    return MEMORY_BYTES + BYTES_PER_PIXEL * facts.width * facts.height


def lost_clip(source: str, end: Crashed | OutOfMemory) -> Unencoded:
    """Return the result for a clip that has ended the child process."""
    message = f"Cannot encode {source}: {end.how}."
    hint = "Leave it out, or convert it first."
    if end.needs or isinstance(end, OutOfMemory):
        missing = f"than {end.needs}" if end.needs else "memory than is free"
        message, hint = f"{source} needs more {missing}.", "Encode this clip by itself."
    return Unencoded(source, message, hint, is_coarse=False)


class _Memory:
    """Memory that clips share. One waits until there is enough, or until no other is at work."""

    def __init__(self, num_bytes: int) -> None:
        self._free = num_bytes
        self._at_work = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, num_bytes: int) -> Generator[None]:
        """Take memory for the block, as soon as there is enough."""
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work or num_bytes <= self._free)
            self._free -= num_bytes
            self._at_work += 1
        try:
            yield
        finally:
            with self._changed:
                self._free += num_bytes
                self._at_work -= 1
                self._changed.notify_all()


def encode_all(
    model: Model,
    jobs: Sequence[Job],
    request: Request,
    *,
    workers: int = 1,
    memory: int = sys.maxsize,
    show: Callable[[str, int], None],
) -> Generator[tuple[Job, Encoded | Unencoded]]:
    """Encode clips, some at a time; a clip that fails does not stop the others.

    Each is read and encoded in a child process, which may crash or run out of memory. The files do
    not depend on `workers`. If the iterator is closed, the clips at work are stopped, and their
    unfinished outputs removed.

    Args:
      model: a model that predicts QPs.
      jobs: clips and their outputs, all different.
      request: what is asked for.
      workers: most clips at a time, each in a thread.
      memory: bytes that the clips at work may take; a clip that needs more is encoded alone.
      show: is called with what is being done, and how many clips are done.

    Yields:
      Each job as it is done: the encoded clip, or why there is none.

    Raises:
      OSError: an output cannot be written.
    """
    shared = _Memory(memory)
    at_work: dict[str, str] = {}
    num_done = 0
    stopping = threading.Event()
    local, encoders = threading.local(), list[Encoder]()

    def set_up() -> None:
        local.encoder = Encoder(model)
        encoders.append(local.encoder)

    def encoded(job: Job) -> Encoded | Unencoded:
        def progress(what: str, share: float) -> None:
            if stopping.is_set():
                raise _Stopped
            at_work[job.output] = f"{what} {job.source} {share:.0%}"
            show(", ".join(tuple(at_work.values())), num_done)

        encoder: Encoder = local.encoder
        try:
            source, output = Path(job.source), Path(job.output)
            facts = encoder.child.call(without_steps, clip_facts, source)
            with shared.taken(memory_of(facts)):
                return encode(
                    encoder.model, source, output, request,
                    progress=progress, call=encoder.child.call,
                )  # fmt: skip
        except UserError as error:
            return Unencoded(job.source, error.message, error.hint, isinstance(error, CoarseClip))
        except (Crashed, OutOfMemory) as end:
            return lost_clip(job.source, end)
        except Stopped as end:
            if stopping.is_set():
                raise _Stopped from end
            message = f"Encoding {job.source} was stopped from outside."
            return Unencoded(job.source, message, "", is_coarse=False)
        finally:
            at_work.pop(job.output, None)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode", initializer=set_up)
    try:
        futures = {pool.submit(encoded, job): job for job in jobs}
        for future in as_completed(futures):
            num_done += 1
            yield futures[future], future.result()
    finally:
        stopping.set()
        for encoder in encoders:
            encoder.stop()
        pool.shutdown(cancel_futures=True)
        for encoder in encoders:
            encoder.close()
