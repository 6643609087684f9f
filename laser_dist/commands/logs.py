"""What a command logs, and where: lines on standard error, and a file if one is named."""

import argparse
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laser_dist.commands import terminal
from laser_dist.wording import printable

PACKAGES = ("laser_dist", "beam_pipelines", "tfds_builders")
FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Read by the libraries when they are imported, and by the processes that they start.
_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# The switches of libraries that log from C++, past Python's logging.
_SILENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "ERROR",
    "ABSL_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",  # of worker processes; those of this one go to its log
}
# Without it, dataset libraries look for the metadata server of Google Cloud. On Google Cloud
# machines that server provides the credentials.
_NO_CLOUD = {"NO_GCE_CHECK": "true"}


def add_arguments(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Declare the options that every command has, before its name or after it.

    Args:
      parser: of the program or of one command.
      **options: for each `add_argument`, such as `default`.
    """
    add = parser.add_argument_group("messages").add_argument
    add(
        "-v",
        "--verbose",
        action="count",
        help="show more messages, including those of libraries; -vv shows all",
        **options,
    )
    add("-q", "--quiet", action="store_true", help="show only results and warnings", **options)
    add("--log-file", type=Path, metavar="FILE", help="write all messages to FILE", **options)
    add("--debug", action="store_true", help="show tracebacks, and the messages of -v", **options)


def prepare_environment(*, uses_cloud: bool = False, verbose: bool = False) -> None:
    """Set what the libraries read when they are imported; what the user has set stays.

    Args:
      uses_cloud: whether the command reads or writes behind a URL.
      verbose: whether to leave the libraries' C++ messages on.
    """
    defaults = _ENVIRONMENT | ({} if uses_cloud else _NO_CLOUD) | ({} if verbose else _SILENT)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # No command opens a window, and the backend that a notebook sets may not be installed here.
    os.environ["MPLBACKEND"] = "agg"


def set_up(*, verbosity: int = 0, log_file: Path | None = None) -> None:
    """Send the log records of all packages to standard error, and to a file.

    Args:
      verbosity: -1 shows warnings; 0 also our notices; 1 also our debug records and the libraries'
        notices; 2 all records.
      log_file: gets our debug records and the libraries' notices.

    Raises:
      OSError: the file cannot be written.
    """
    ours = {-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG)
    libraries = {-1: logging.ERROR, 0: logging.ERROR, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    handlers: list[logging.Handler] = [_TerminalHandler()]
    handlers[0].setFormatter(_Printable("%(message)s"))
    handlers[0].addFilter(_level_filter(ours, libraries))
    if log_file is not None:
        handlers.append(logging.FileHandler(log_file, mode="w", encoding="utf-8"))
        handlers[1].addFilter(_level_filter(logging.DEBUG, min(libraries, logging.INFO)))
        handlers[1].setFormatter(_Printable(FILE_FORMAT))
    most = min(libraries, logging.INFO if log_file else logging.ERROR)
    logging.basicConfig(level=most, handlers=handlers, force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if log_file else ours)
    logging.captureWarnings(True)
    terminal.show_progress(verbosity >= 0)


class _Printable(logging.Formatter):
    """Formats records, and escapes the control characters in them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the class
        text = super().formatMessage(record)
        # Our messages are lines, and a line end in them is part of a name.
        is_ours = record.name.partition(".")[0] in PACKAGES
        return printable(text) if is_ours else _lines(text)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - of the class
        return _lines(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - of the class
        return _lines(super().formatStack(stack_info))


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class _TerminalHandler(logging.Handler):
    """Prints records on standard error, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        with contextlib.suppress(OSError):  # nobody may be listening any more
            terminal.error_console().print(prefix + self.format(record), soft_wrap=True)


def _level_filter(ours: int, libraries: int) -> Callable[[logging.LogRecord], bool]:
    def is_shown(record: logging.LogRecord) -> bool:
        is_ours = record.name.partition(".")[0] in PACKAGES
        return record.levelno >= (ours if is_ours else libraries)

    return is_shown
