"""Reading of clips in a child process: a file that crashes a decoder costs that file only."""

import threading
import weakref
from pathlib import Path

from laser_dist.isolation import MEMORY_BYTES, Crashed, Isolated, OutOfMemory
from laser_dist.prediction.clips import Sampling, Take, read_clip
from laser_dist.storage import limit
from laser_dist.video.containers import Damage, VideoError, name_of
from laser_dist.video.facts import ClipFacts

MAX_STEP_S = limit("MAX_STEP_S", 300)
"""Time limit for reading one scene, or for finding scenes in a part of a clip, in seconds."""


class IsolatedReader:
    """Reads clips as `read_clip`, in a child process; the next clip replaces one that crashed.

    Several threads may use one reader: it reads one clip at a time.
    """

    def __init__(
        self, *, step_seconds: float = MAX_STEP_S, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        """Set the limits; the first clip starts the process, which exits with the reader.

        Args:
          step_seconds: time limit for a scene, or for a part of a clip in which scenes are found.
          memory_bytes: memory limit.
        """
        self._child = Isolated(step_seconds, memory_bytes=memory_bytes)
        self._alone = threading.Lock()
        self.stop = self._child.stop
        """Ends the process, even while another thread reads a clip; `Stopped` is raised there."""
        self.close = self._child.close
        """Ends the process; the next clip starts another."""
        weakref.finalize(self, self._child.close)

    def read(
        self, source: bytes | Path, sampling: Sampling, take: Take
    ) -> tuple[ClipFacts, Damage]:
        """Read a clip; arguments, result and errors as for `read_clip`.

        Raises:
          VideoError: also if the decoder crashes, or needs more than a limit.
        """
        with self._alone:
            try:
                return self._child.call(read_clip, source, sampling, on_step=take)
            except (Crashed, OutOfMemory) as end:
                raise unreadable(name_of(source), end) from end


def unreadable(name: str, end: Crashed | OutOfMemory) -> VideoError:
    """Return the error for a clip that ended the child process.

    Args:
      name: name of the clip.
      end: how the process ended.
    """
    if end.needs:
        return VideoError(f"{name} needs more than {end.needs}.", hint="Cut it, or leave it out.")
    if isinstance(end, OutOfMemory):
        return VideoError(f"{name} needs more memory than is free.", hint="Close other programs.")
    how = f"the decoder crashed ({end.signal})" if end.signal else end.how
    return VideoError(f"Cannot decode {name}: {how}.", hint="Leave it out, or encode it again.")
