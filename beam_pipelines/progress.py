"""How far a running pipeline is, told from the files it has finished."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from beam_pipelines.dataset.measured_files import PAIRS_SUFFIX
from beam_pipelines.folders import unfinished_folder

POLL_S = 0.5


def finished_clips(folder: Path) -> int:
    """Number of sources a synthetic dataset's pipeline has finished so far.

    Args:
      folder: the synthetic dataset's final name.
    """
    # A clip's reference is written last.
    return sum(1 for _ in unfinished_folder(folder.absolute()).glob("*/*_qp_00.264"))


def finished_sources(work: Path) -> int:
    """Number of sources a dataset's build has measured so far, earlier runs included.

    Args:
      work: folder of the build's measured files.
    """
    return sum(1 for _ in work.glob(f"[!.]*{PAIRS_SUFFIX}"))


@contextmanager
def watch_progress(
    count: Callable[[], int],
    total: int,
    report: Callable[[int, int], None],
    *,
    poll_s: float = POLL_S,
) -> Iterator[None]:
    """Reports progress from a thread while the block runs.

    Args:
      count: how much is done by now; asked every `poll_s` seconds.
      total: how much there is.
      report: called with (done, total) whenever more is done than before, never more than `total`
        and never after the block has ended.
      poll_s: seconds between two looks.

    Raises:
      Exception: what `count` or `report` raised, once the block has ended without an error.
    """
    ended = threading.Event()
    faults: list[Exception] = []

    def watch() -> None:
        reported = 0
        try:
            while not ended.wait(poll_s):
                done = min(count(), total)
                if done > reported and not ended.is_set():
                    report(done, total)
                    reported = done
        except Exception as error:  # noqa: BLE001 - handed on to the block's thread below
            faults.append(error)

    thread = threading.Thread(target=watch, name="watch_progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if faults:
        raise faults[0]
