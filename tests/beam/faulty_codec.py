"""`measure_and_write` with codecs that fail at one quantizer, as damaged files make them fail.

The name of the source states how and where: `videoSRC001-SIGSEGV-28`.
"""

import os
import signal
import time
from pathlib import Path

from beam_pipelines.dataset.frame_pairs import measure_and_write


def measure(source, settings, folder, unusable, report):
    """Call `measure_and_write`, and fail as the source's name asks."""
    _, kind, quantizer = source.source_id.split("-")

    def report_and_fail(step):
        report(step)
        if str(step) == quantizer and step not in unusable:
            fail(kind, Path(source.clips[0][1].location).with_name("failed"))

    measure_and_write(source, settings, folder, unusable, report_and_fail)


def fail(kind, mark):
    if kind == "once":
        if mark.exists():
            return
        mark.touch()
        kind = "SIGKILL"
    if kind == "full":
        raise OSError(28, "No space left on device")
    if kind == "bug":
        raise ZeroDivisionError("a bug")
    os.kill(os.getpid(), getattr(signal, kind))
    time.sleep(60)
