"""`measure_and_write` with codecs that fail at one quantizer, as a damaged file can have them do.

Which one it is and how is told in the name of the source: `videoSRC001-SIGSEGV-28`.
"""

import os
import signal
import time

from beam_pipelines.dataset.measured_source import measure_and_write


def measure(source, settings, folder, unusable, report):
    """As `measure_and_write`, but for the fault that the source's name asks for."""
    _, kind, quantizer = source.source_id.split("-")

    def report_and_fail(step):
        report(step)
        if str(step) == quantizer and step not in unusable:
            fail(kind)

    measure_and_write(source, settings, folder, unusable, report_and_fail)


def fail(kind):
    if kind == "hang":
        time.sleep(60)
    elif kind == "full":
        raise OSError(28, "No space left on device")
    elif kind == "bug":
        raise ZeroDivisionError("of our own")
    else:
        os.kill(os.getpid(), getattr(signal, kind))
        time.sleep(60)
